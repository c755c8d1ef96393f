"""Reads batches: finds inputs, labels, mask and weights among the entries, and asks if there are several readings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Arguments, Batch, BatchFormat, Inputs, Target, is_one_object, positions_and_names
from lit_distill.batch.choosing import (
    all_texts,
    by_signature,
    named_inputs,
    one_argument,
    one_or_names,
    same_call,
    spread,
    takes_one_object,
)
from lit_distill.batch.entries import (
    TARGET_KEYS,
    WHOLE,
    Entries,
    Roles,
    entries_of,
    is_named,
    kind_of,
    mask_keys_for,
    may_be_inputs,
    named_entries,
    names_in,
    several_entries,
)
from lit_distill.batch.label_marks import as_labels, as_mask, ignore, shifted
from lit_distill.batch.labels import warn_of_ignored_numbers
from lit_distill.batch.signatures import Signature, signature_of


class BatchReader:
    """Takes batches apart for a student and its teacher, whose ``forward`` shows what they take.

    Args:
        format_: The user's description of a batch.
        student: None if only labels are read.
        teacher: None if it gets what the student gets.
        labels_are_read: A criterion, or the teacher itself, reads labels.
        inputs_are_read: Read the networks' inputs; else only labels, the mask, and what the user named.
        numbers: Labels are numbers, and no classes or probabilities.
    """

    def __init__(
        self,
        format_: BatchFormat,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
        labels_are_read: bool = True,
        inputs_are_read: bool = True,
        numbers: bool = False,
    ) -> None:
        self.format, self._named = format_, named_entries(format_)
        self.inputs_are_read = inputs_are_read
        self.labels_like: Tensor | None = None  # from several loaders, for those without labels
        self._numbers, self._partial = numbers, False
        self.labels_are_read = labels_are_read
        nothing_given = not format_.tells_of_batches and not format_.shift_labels and format_.missing_label is None
        nothing_named = format_.input_key is None and format_.target_key is None and not format_.unused
        self._takes_pairs = nothing_given and nothing_named and labels_are_read and inputs_are_read and not numbers
        self._student, self._teacher = signature_of(student), signature_of(teacher)
        self._names = {"student": type(student).__name__, "teacher": type(teacher).__name__}

    def read(self, batch: Any) -> Batch:
        """Take a batch apart.

        Raises:
            ValueError: It can be read in no way or in several; the message says how to describe it.
        """
        if self._takes_pairs and type(batch) in (tuple, list) and len(batch) == 2:
            inputs, target = batch
            if isinstance(inputs, Tensor) and isinstance(target, Tensor):
                return Batch(inputs, target)  # the plain case; anything else is searched for roles
        return self.read_with_roles(batch)[0]

    def read_part(self, batch: Any) -> Batch:
        """Take the batch of one of several loaders apart, which may lack labels and weights that the user named."""
        self._partial = True
        try:
            return self.read(batch)
        finally:
            self._partial = False

    def read_with_roles(self, batch: Any) -> tuple[Batch, Roles]:
        """Take a batch apart like ``read``, and return the role of each entry as well."""
        roles = Roles(batch, entries_of(batch, self._named))
        if isinstance(batch, Mapping) or is_named(batch, self._named):
            return self._read_named(roles, None), roles
        if isinstance(batch, (str, bytes, int, float)) or batch is None:
            raise ValueError(
                f"the DataLoader yielded {type(batch).__name__}; (inputs, target), a dict, or only inputs was expected."
            )
        if isinstance(batch, Tensor) or is_one_object(batch) or all_texts(batch):
            roles = Roles(batch, {0: batch} if self._partial else {"batch": batch})
            if self._partial:
                return Batch(one_argument(batch)), roles
            return self._complete(roles, one_argument(roles.use("batch", "student"))), roles
        if isinstance(batch, (tuple, list)):
            return self._read_positions(batch, roles), roles
        return self._read_named(roles, batch), roles

    # Entries with names --------------------------------------------------------------------------

    def _read_named(self, roles: Roles, whole: Any) -> Batch:
        """Read a mapping, or an object's attributes; ``whole`` is the object, for networks that take it as it is."""
        target_name = self._target_name(roles.entries)
        target = roles.use(target_name, "labels") if target_name is not None else None
        mask_name = self._mask_name(roles.entries, target_name is not None or self.format.target_key is not None)
        mask = roles.use(mask_name, "mask") if mask_name is not None else None
        # Entries that the user gave another role are no input of the student's.
        elsewhere = [self.format.teacher_input_key, self.format.weight_key, self.format.target_key, self.format.unused]
        reserved = {name for entry in elsewhere for name in names_in(entry)} | {target_name}
        inputs = None
        if self.format.input_key is None and self.inputs_are_read:
            inputs = self._inputs_of(roles, reserved, "student", target, whole)
        teacher_inputs = None
        if self._teacher is not None and self.format.teacher_input_key is None and self.format.input_key is None:
            found = self._inputs_of(roles, reserved, "teacher", target, whole)
            teacher_inputs = None if same_call(found, inputs) else found
        return self._complete(roles, inputs, target, mask, teacher_inputs)

    def _complete(
        self, roles: Roles, inputs: Any, target: Any = None, mask: Any = None, teacher_inputs: Any = None
    ) -> Batch:
        """Replace what was found by what the user named."""
        given = self.format
        if given.target_key is not None and target is None and self._has(roles, given.target_key):
            target = roles.take(given.target_key, "labels")
        if given.input_key is not None and self.inputs_are_read:
            inputs = named_inputs(roles, given.input_key, self._student, "student")
        if given.teacher_input_key is not None:
            teacher_inputs = named_inputs(roles, given.teacher_input_key, self._teacher, "teacher")
        if given.told_mask is not None:
            mask = roles.take(given.told_mask, "mask")
        lengths = roles.take(given.lengths_key, "lengths") if given.lengths_key is not None else None
        weight = None
        if given.weight_key is not None and self._has(roles, given.weight_key):
            weight = roles.take(given.weight_key, "weights")
        certain = given.told_mask is not None or roles.given.get("mask") == ["mask"]
        if isinstance(lengths, Tensor) and lengths.is_floating_point():
            raise ValueError(
                f"lengths are whole numbers of positions, and these are {lengths.dtype}, such as "
                f"{float(lengths.flatten()[0]):g}; compute them in a function: BatchFormat(lengths_key=lambda batch: …)."
            )
        return Batch(inputs, self._read_target(target), as_mask(mask), teacher_inputs, lengths, weight, certain)

    def _has(self, roles: Roles, entry: Any) -> bool:
        """Return True if an entry that the user named is to be read; with several loaders, not every batch needs to have it."""
        return not self._partial or callable(entry) or entry in roles.entries

    def _target_name(self, entries: Entries) -> str | None:
        given = self.format.target_key
        if given is not None:
            return given if isinstance(given, str) and given in entries else None
        found = [name for name in TARGET_KEYS if name in entries]
        if len(found) > 1:
            raise ValueError(
                f"the batch has {' and '.join(map(repr, found))}, and either may be the labels; say which: "
                f"BatchFormat(target_key={found[0]!r})."
            )
        return found[0] if found else None

    def _mask_name(self, entries: Entries, has_labels: bool) -> str | None:
        """Return the entry that says which of the logits' positions count, if one can be nothing else."""
        if self.format.mask_key != "auto":
            return None
        taken = {*names_in(self.format.target_key), *names_in(self.format.input_key), *names_in(self.format.unused)}
        keys = mask_keys_for(self._student)
        names = [name for name in keys if isinstance(entries.get(name), Tensor) and name not in taken]
        if "mask" in names and not has_labels and entries["mask"].dtype != torch.bool:
            raise ValueError(
                "the batch's 'mask' may be the labels, or show which positions count; say which: "
                "BatchFormat(target_key='mask'), or mask_key='mask'."
            )
        return names[0] if names else None

    def _inputs_of(self, roles: Roles, reserved: Collection[Any], owner: str, target: Any, whole: Any) -> Inputs:
        """Return a network's arguments: the whole object, or the entries that its ``forward`` takes."""
        signature = self._student if owner == "student" else self._teacher
        if whole is not None and takes_one_object(signature, roles.entries):
            roles.note(owner, WHOLE)
            return Arguments((whole,), {})
        rest = {name: value for name, value in roles.entries.items() if name not in reserved}
        refuse = partial(self._cannot_tell, roles, owner, signature)
        chosen = by_signature(rest, signature, refuse, roles.entries)
        if signature is not None and signature.takes_batch:
            roles.note(owner, WHOLE)
        positional, named = positions_and_names(chosen)
        for name, value in rest.items():
            if name in named or any(value is given for given in positional):
                roles.use(name, owner)
        makes_inputs = signature is not None and signature.labels_make_inputs and target is not None
        if makes_inputs and not {"decoder_input_ids", "decoder_inputs_embeds"} & set(named):
            return Arguments(positional, {**named, "labels": self._read_target(target)})
        return chosen

    def _cannot_tell(self, roles: Roles, owner: str, signature: Signature | None, why: str) -> ValueError:
        key = "input_key" if owner == "student" else "teacher_input_key"
        takes = f"({', '.join(signature.names)})" if signature is not None else ""
        example = next((name for name in roles.entries if name not in roles.given.get("labels", [])), "…")
        return ValueError(
            f"which entries of the batch {self._names[owner]}.forward{takes} of the {owner} takes is unclear: {why}. The "
            f"batch has {sorted(map(str, roles.entries))}; say which: BatchFormat({key}={example!r}), or a list of them."
        )

    # Entries in an order -------------------------------------------------------------------------

    def _read_positions(self, batch: Sequence[Any], roles: Roles) -> Batch:
        given = self.format
        keys = (given.input_key, given.target_key, given.teacher_input_key)
        name = next((one for key in keys for one in names_in(key) if isinstance(one, str)), None)
        if name is not None:
            raise ValueError(
                f"the DataLoader yields a {type(batch).__name__} of {len(batch)} entries, which have no names, and "
                f"{name!r} is one: only a dict batch has names. Give an index, 0 to {len(batch) - 1}."
            )
        unused = set(names_in(given.unused))
        for place in self._named - unused if not self._partial else ():
            roles.check(place)
        rest = [place for place in range(len(batch)) if place not in self._named | unused]
        wanted = 1 if given.target_key is None else 0
        if not self.inputs_are_read and (not wanted or not self.labels_are_read):
            return self._complete(roles, None)
        if given.input_key is not None:
            if len(rest) <= wanted or not wanted:
                return self._complete(roles, None, roles.use(rest[0], "labels") if rest and wanted else None)
        elif len(rest) in (1, 1 + wanted):
            return self._pair(roles, rest[0], rest[1] if len(rest) == 2 else None)
        elif self._student is not None and len(self._student.required) == len(rest) - wanted > 1:
            count = len(rest) - wanted
            inputs = tuple(roles.use(place, "student") for place in rest[:count])
            return self._complete(roles, inputs, roles.use(rest[-1], "labels") if wanted else None)
        raise ValueError(several_entries(batch))

    def _pair(self, roles: Roles, first: int, second: int | None) -> Batch:
        """Read ``(inputs, target)``; the inputs may be a mapping, or several."""
        inputs = roles.use(first, "student")
        target = roles.use(second, "labels") if second is not None else None
        if second is not None and not self.labels_are_read and may_be_inputs(inputs, target):
            raise ValueError(
                f"the batch is a pair of {kind_of(inputs)} and {kind_of(target)}, and no criterion reads labels: the second "
                "may be labels, or a view for the teacher; say which: "
                f"BatchFormat(target_key={second}), or teacher_input_key={second}."
            )
        if not isinstance(inputs, Mapping) or isinstance(one_or_names(inputs, self._student), Arguments):
            samples = len(target) if isinstance(target, (Tensor, list, tuple)) else None
            return self._complete(roles, spread(inputs, self._student, samples), target)
        inner = Roles(roles.batch, inputs)
        name = self._mask_name(inputs, has_labels=target is not None)
        found = self._inputs_of(inner, (), "student", target, None)
        own = self._inputs_of(inner, (), "teacher", target, None) if self._teacher is not None else found
        if name is not None:
            roles.note("mask", name)
        roles.given["student"] = inner.given.get("student", [])
        data = self._complete(roles, found, target, inputs[name] if name is not None else None)
        return data if data.teacher_inputs is not None or same_call(own, found) else replace(data, teacher_inputs=own)

    # Labels --------------------------------------------------------------------------------------

    def _read_target(self, target: Any) -> Target | None:
        """Mark unknown labels, and shift them if ``shift_labels`` is set."""
        if isinstance(target, Mapping):
            return {task: self._read_labels(labels) for task, labels in target.items()}
        if isinstance(target, (list, tuple)):
            target = as_labels(target)
        return self._read_labels(target) if isinstance(target, Tensor) else target

    def _read_labels(self, labels: Tensor) -> Tensor:
        missing = self.format.missing_label
        if missing is not None:
            labels = ignore(labels, missing, self._numbers)
        elif self._numbers and self.labels_are_read:
            warn_of_ignored_numbers(labels)
        return shifted(labels) if self.format.shift_labels else labels
