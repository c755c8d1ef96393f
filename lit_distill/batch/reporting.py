"""Describes how a training batch is read, and joins the batches of several loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL, Arguments, Batch, Inputs, Target, positions_and_names, tensors_of
from lit_distill.batch.entries import ID_KEYS, Roles
from lit_distill.batch.reading import BatchReader
from lit_distill.utils.notices import warn


def describe(batch: Any, reader: BatchReader, several: bool = False) -> list[str]:
    """Describe, in lines to print, which network or criterion gets which entry of a batch; warn of tensors that nothing reads.

    If ``several``, the batch is a list or a dict of batches, one from each training loader. Refuse one that cannot be read, or
    whose labels are its inputs while ``shift_labels`` is not set.
    """
    lines = []
    for name, part in _parts(batch).items() if several else [("", batch)]:
        if part is None:
            continue
        data, roles = reader.read_with_roles(part)
        _refuse_unshifted(data, reader)
        _warn_of_unused(roles, reader)
        lines.append(f"Batch{f' of {name!r}' if name != '' else ''}: {_roles_in_words(data, roles, reader)}.")
    return lines


def _roles_in_words(data: Batch, roles: Roles, reader: BatchReader) -> str:
    def named(role: str) -> str:
        return ", ".join(map(roles.words, roles.given.get(role, []))) or "none"

    words = [f"student: {named('student')}"] if reader.inputs_are_read else []
    if data.teacher_inputs is not None:
        words.append(f"teacher: {named('teacher')}")
    labels = named("labels")
    unread = labels != "none" and not reader.labels_are_read
    words.append(f"labels: {labels}{' (read by no criterion)' if unread else ''}")
    words.append(f"mask: {named('mask') if data.mask is not None else 'none'}")
    words += [f"{role}: {named(role)}" for role in ("lengths", "weights") if role in roles.given]
    left = [roles.words(str(name)) for name in roles.left()] if reader.inputs_are_read else []
    return "; ".join([*words, *([f"not used: {', '.join(left)}"] if left else [])])


def _warn_of_unused(roles: Roles, reader: BatchReader) -> None:
    meant = {str(name) for name in reader.format.unused or []} | set(ID_KEYS)
    lost = [str(n) for n in roles.left() if str(n) not in meant and isinstance(roles.entries[n], Tensor)]
    if lost and reader.inputs_are_read and reader.format.input_key is None:
        warn(
            f"{', '.join(map(repr, lost))} of the batch reach{'es' * (len(lost) == 1)} neither network and no criterion. If "
            f"this is intended, set BatchFormat(unused={lost!r}); else name what is read, with input_key for example."
        )


def _refuse_unshifted(data: Batch, reader: BatchReader) -> None:
    labels = data.target
    asked = reader.labels_are_read and reader.inputs_are_read and reader.format.shift_labels is None
    if not asked or not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return
    known = labels != IGNORED_LABEL
    positional, named = positions_and_names(data.inputs)
    for inputs in tensors_of((positional, {name: value for name, value in named.items() if name != "labels"})):
        same = inputs.shape == labels.shape and not inputs.is_floating_point() and bool(known.any())
        if same and torch.equal(inputs[known], labels[known]):
            raise ValueError(
                "the labels are the inputs themselves, as for causal language models that shift them inside: compared as they "
                "are, the student would learn to copy its input. Set BatchFormat(shift_labels=True) to compare each position "
                "with the next label, or False to keep them as they are."
            )


def _parts(batch: Any) -> Mapping[Any, Any]:
    return batch if isinstance(batch, Mapping) else dict(enumerate(batch))


def join(batch: Any, reader: BatchReader) -> Batch:
    """Read one batch from each of several loaders as one: labelled and unlabelled data, or data of several sources.

    The parts' samples follow each other; those of a part without labels have the label -100, which trains nothing. A loader
    that has ended (``max_size``) is left out. Parts that cannot be put into one batch are refused.
    """
    parts = {name: reader.read_part(part) for name, part in _parts(batch).items() if part is not None}
    names, read = list(parts), list(parts.values())
    if len(read) == 1 and (read[0].target is not None or reader.labels_like is None):
        return read[0]
    own = [data.teacher_inputs for data in read]
    if any(inputs is None for inputs in own) != all(inputs is None for inputs in own):
        raise ValueError(
            f"of the loaders {_quoted(names)} only some give the teacher inputs of its own; give all of them."
        )
    target = _join_targets(read, names, reader.labels_like)
    if isinstance(target, Tensor) and reader.labels_like is None:
        reader.labels_like = target[:1].detach()
    return Batch(
        _join_inputs([data.inputs for data in read], names),
        target,
        _join_tensors([data.mask for data in read], names, "a mask"),
        _join_inputs([inputs for inputs in own if inputs is not None], names) if own[0] is not None else None,
        _join_tensors([data.lengths for data in read], names, "lengths"),
        _join_weights(read),
        any(data.mask_is_told for data in read),
    )


def _quoted(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, names))


def _join_inputs(inputs: Sequence[Inputs], names: Sequence[Any]) -> Inputs:
    if all(isinstance(one, Tensor) for one in inputs):
        return _cat([one for one in inputs if isinstance(one, Tensor)], names, "inputs")
    calls = [positions_and_names(one) for one in inputs]
    first = calls[0]
    alike = all(len(p) == len(first[0]) and n.keys() == first[1].keys() for p, n in calls)
    tensors = all(isinstance(value, Tensor) for p, n in calls for value in (*p, *n.values()))
    if not (alike and tensors):
        raise ValueError(
            f"the batches of the loaders {_quoted(names)} are of different forms and cannot be joined; give them the same "
            "entries, or one DataLoader over torch.utils.data.ConcatDataset."
        )
    positional = tuple(_cat([p[i] for p, _ in calls], names, f"input {i}") for i in range(len(first[0])))
    named = {key: _cat([n[key] for _, n in calls], names, repr(key)) for key in first[1]}
    if named and positional:
        return Arguments(positional, named)
    return positional if positional else named


def _cat(tensors: Sequence[Tensor], names: Sequence[Any], what: str) -> Tensor:
    shapes = [list(tensor.shape) for tensor in tensors]
    if any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError(
            f"the loaders {_quoted(names)} give {what} of shapes {shapes}, which cannot be joined; resize or pad them to "
            "one shape in the collate functions, or give one DataLoader over torch.utils.data.ConcatDataset."
        )
    return torch.cat(list(tensors))


def _join_tensors(tensors: Sequence[Tensor | None], names: Sequence[Any], what: str) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    if not given:
        return None
    if len(given) < len(tensors):
        raise ValueError(f"of the loaders {_quoted(names)} only some give {what}; give all of them.")
    return _cat(given, names, what)


def _are_probabilities(labels: Tensor) -> bool:
    """Return True if labels are distributions over classes, for which -100 marks nothing."""
    if not labels.is_floating_point() or labels.dim() < 2 or labels.shape[1] < 2:
        return False
    return bool(torch.allclose(labels.sum(1), torch.ones((), device=labels.device), atol=1e-3))


def _join_weights(read: Sequence[Batch]) -> Tensor | None:
    """Join the samples' weights, if there are any; those of a part without count 1, like their labels."""
    given = [data.sample_weight for data in read if data.sample_weight is not None]
    if not given:
        return None
    ones = given[0].new_ones
    return torch.cat([data.sample_weight if data.sample_weight is not None else ones(data.size) for data in read])


def _join_targets(read: Sequence[Batch], names: Sequence[Any], like: Tensor | None) -> Target | None:
    """Join the parts' labels, with -100 in the form of ``like`` or of the other parts' for those without."""
    given = [data.target for data in read if data.target is not None]
    if not given and like is None:
        return None
    if not all(isinstance(target, Tensor) for target in given):
        raise ValueError(
            f"the loaders {_quoted(names)} give labels of several tasks, which cannot be joined; use one loader."
        )
    if given:
        like = next(target for target in given if isinstance(target, Tensor))[:1].detach()
    assert like is not None
    filled = []
    for data in read:
        if isinstance(data.target, Tensor):
            filled.append(data.target)
        elif _are_probabilities(like):
            raise ValueError(
                f"of the loaders {_quoted(names)} some give class probabilities and some no labels; give class indices, of "
                "which -100 is none."
            )
        else:
            dtype = like.dtype if like.is_floating_point() else torch.long
            filled.append(like.new_full((data.size, *like.shape[1:]), IGNORED_LABEL, dtype=dtype))
    return _cat(filled, names, "labels")
