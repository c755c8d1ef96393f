"""Reads batches: which entries are inputs, labels, mask and weights. What can be read in two ways is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch import (
    IGNORED_LABEL,
    Arguments,
    Batch,
    BatchFormat,
    Entry,
    Inputs,
    Target,
    attributes_of,
    is_one_object,
)
from lit_distill.signatures import Signature, signature_of

INPUT_KEYS = ("inputs", "input", "image", "images", "pixel_values", "x")
TARGET_KEYS = ("target", "targets", "label", "labels", "y")
MASK_KEYS = ("mask", "attention_mask")
ID_KEYS = ("id", "ids", "idx", "index", "indices", "sample_id", "key", "__key__", "__url__", "path", "file", "filename")

Entries = Mapping[Any, Any]


class Roles:
    """Takes entries out of a batch, and remembers who got which.

    Args:
        batch: The whole batch, for functions of it.
        entries: Its entries by name or index.
    """

    def __init__(self, batch: Any, entries: Entries) -> None:
        self.batch, self.entries = batch, entries
        self.given: dict[str, list[str]] = {}

    def take(self, entry: Entry, role: str) -> Any:
        """An entry that the user named.

        Raises:
            ValueError: There is none of that name.
        """
        if callable(entry):
            self._note(role, getattr(entry, "__name__", "a function"))
            return entry(self.batch)
        if entry not in self.entries:
            what = "index" if isinstance(entry, int) else "entry"
            raise ValueError(f"no {what} {entry!r} in the batch; it has {sorted(map(str, self.entries))}.")
        return self.use(entry, role)

    def use(self, name: Any, role: str) -> Any:
        """An entry that is there."""
        self._note(role, str(name))
        return self.entries[name]

    def _note(self, role: str, name: str) -> None:
        names = self.given.setdefault(role, [])
        if name not in names:
            names.append(name)

    def left(self) -> list[Any]:
        """Names of the entries that nobody got."""
        taken = {name for names in self.given.values() for name in names}
        return [name for name in self.entries if str(name) not in taken]

    def without(self, names: Iterable[Any]) -> dict[Any, Any]:
        """The entries but some."""
        gone = set(names)
        return {name: value for name, value in self.entries.items() if name not in gone}


class BatchReader:
    """Takes batches apart for a student and its teacher.

    Args:
        format_: What the user told.
        student: The student, whose ``forward`` says what it takes; None where only labels are read.
        teacher: The teacher, likewise; None where it gets what the student gets.
        labels_are_read: A criterion, or the teacher itself, reads labels.
    """

    def __init__(
        self,
        format_: BatchFormat,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
        labels_are_read: bool = True,
    ) -> None:
        self.format = format_
        self._student, self._teacher = signature_of(student), signature_of(teacher)
        self._names = {"student": type(student).__name__, "teacher": type(teacher).__name__}
        self._has_teacher = teacher is not None
        self.labels_are_read = labels_are_read

    def read(self, batch: Any) -> Batch:
        """Take a batch apart.

        Raises:
            ValueError: It can be read in no way or in several; the message says how to tell.
        """
        return self.read_with_roles(batch)[0]

    def read_with_roles(self, batch: Any) -> tuple[Batch, Roles]:
        """As ``read``, with who got which entry."""
        roles = Roles(batch, _entries(batch))
        if isinstance(batch, Mapping) or _is_named(batch):
            found = self._read_named(roles, None)
        elif isinstance(batch, (tuple, list)) and not _is_one_argument(batch):
            found = self._read_positions(batch, roles)
        elif isinstance(batch, (str, bytes, int, float)) or batch is None:
            raise ValueError(
                f"the DataLoader yielded {type(batch).__name__}; (inputs, target), a dict, or inputs alone was expected."
            )
        elif isinstance(batch, Tensor) or is_one_object(batch) or isinstance(batch, (tuple, list)):
            roles = Roles(batch, {"batch": batch})
            found = self._with_told(roles, _one(roles.use("batch", "student")), None, None)
        else:
            found = self._read_named(roles, batch)
        return found, roles

    # Named entries -------------------------------------------------------------------------------

    def _read_named(self, roles: Roles, whole: Any) -> Batch:
        """Read a mapping, or an object's attributes; ``whole`` is the object, for networks that take it as it is."""
        target_name = self._target_name(roles.entries)
        target = roles.use(target_name, "labels") if target_name is not None else None
        mask_name = self._mask_name(roles.entries, target_name)
        mask = roles.use(mask_name, "mask") if mask_name is not None else None
        # What the teacher alone was told to get is not the student's.
        own = [self.format.teacher_input_key, self.format.weight_key, self.format.lengths_key]
        reserved = {name for entry in own for name in _listed(entry)} - set(_listed(self.format.lengths_key))
        reserved |= {target_name, *(self.format.unused or [])} - {None}
        takes_whole = whole is not None and _takes_one_object(self._student, roles.entries)
        inputs: Any = None
        if self.format.input_key is None:
            if takes_whole:
                inputs = Arguments((whole,), {})
                roles.given["student"] = ["the batch"]
            else:
                inputs = self._inputs(roles, reserved, "student", target)
        return self._with_told(roles, inputs, target, mask, reserved, whole)

    def _with_told(
        self,
        roles: Roles,
        inputs: Any,
        target: Any,
        mask: Any,
        reserved: Iterable[Any] = (),
        whole: Any = None,
    ) -> Batch:
        """What the user told goes before what was found."""
        told = self.format
        if told.target_key is not None and not (isinstance(told.target_key, str) and target is not None):
            target = roles.take(told.target_key, "labels")
        if told.input_key is not None:
            inputs = _told_inputs(roles, told.input_key, self._student, "student")
        teacher_inputs = None
        if told.teacher_input_key is not None:
            teacher_inputs = _told_inputs(roles, told.teacher_input_key, self._teacher, "teacher")
        elif self._has_teacher and told.input_key is None:
            teacher_inputs = self._inputs_of_teacher(roles, set(reserved), target, whole, inputs)
        mask_is_told = told.mask_key not in ("auto", None)
        if mask_is_told:
            mask = roles.take(told.mask_key, "mask")  # type: ignore[arg-type]
        lengths = roles.take(told.lengths_key, "lengths") if told.lengths_key is not None else None
        weight = roles.take(told.weight_key, "weights") if told.weight_key is not None else None
        return Batch(
            inputs,
            self._read_target(target),
            _as_mask(mask),
            teacher_inputs,
            lengths,
            weight,
            mask_is_told or "mask" in roles.given.get("mask", []),
        )

    def _inputs_of_teacher(self, roles: Roles, reserved: set[Any], target: Any, whole: Any, inputs: Any) -> Any:
        """The teacher's inputs where its ``forward`` takes others than the student's; None where they are the same."""
        if self._teacher is None or not (
            isinstance(roles.batch, Mapping) or _is_named(roles.batch) or whole is not None
        ):
            return None
        if whole is not None and _takes_one_object(self._teacher, roles.entries):
            found: Any = Arguments((whole,), {})
        else:
            found = self._inputs(roles, reserved, "teacher", target)
        return None if _same(found, inputs) else found

    def _target_name(self, entries: Entries) -> str | None:
        if self.format.target_key is not None:
            told = self.format.target_key
            return told if isinstance(told, str) and told in entries else None
        found = [name for name in TARGET_KEYS if name in entries]
        if len(found) > 1:
            raise ValueError(
                f"the batch has {' and '.join(map(repr, found))}, and either may be the labels; say which: "
                f"BatchFormat(target_key={found[0]!r})."
            )
        return found[0] if found else None

    def _mask_name(self, entries: Entries, target_name: str | None) -> str | None:
        """The entry that says which of the logits' positions count, where one can be nothing else."""
        if self.format.mask_key != "auto":
            return None
        taken = {target_name, *_listed(self.format.target_key), *_listed(self.format.input_key)}
        signature = self._student
        if signature is not None and signature.encodes_and_decodes:
            return "decoder_attention_mask" if "decoder_attention_mask" in entries else None
        names = [name for name in MASK_KEYS if isinstance(entries.get(name), Tensor) and name not in taken]
        if "mask" in names and signature is not None and "mask" in signature.names:
            names.remove("mask")  # an argument of the network's, of whatever meaning
        if "mask" in names and target_name is None and self.format.target_key is None:
            if entries["mask"].dtype != torch.bool:
                raise ValueError(
                    "the batch's 'mask' may be the labels, or say which positions count; say it: "
                    "BatchFormat(target_key='mask'), or mask_key='mask'."
                )
        return names[0] if names else None

    def _inputs(self, roles: Roles, reserved: set[Any], owner: str, target: Any) -> Inputs:
        """The arguments of a network's ``forward`` among the entries."""
        signature = self._student if owner == "student" else self._teacher
        rest = roles.without(reserved)
        chosen = _by_signature(rest, signature, lambda why: self._cannot_tell(roles, owner, signature, why))
        named = (
            set(chosen.named) if isinstance(chosen, Arguments) else set(chosen) if isinstance(chosen, dict) else set()
        )
        used = named | {n for n, v in rest.items() if any(v is p for p in _positional(chosen))}
        for name in rest:
            if name in used:
                roles.use(name, owner)
        if signature is not None and signature.labels_make_inputs and isinstance(chosen, dict) and target is not None:
            if not {"decoder_input_ids", "decoder_inputs_embeds"} & set(chosen):
                chosen = {**chosen, "labels": self._read_target(target)}
        return chosen

    def _cannot_tell(self, roles: Roles, owner: str, signature: Signature | None, why: str) -> ValueError:
        key = "input_key" if owner == "student" else "teacher_input_key"
        names = [name for name in roles.entries if name not in roles.given.get("labels", [])]
        takes = f"({', '.join(signature.names)})" if signature is not None else ""
        return ValueError(
            f"which entries of the batch the {owner} {self._names[owner]}.forward{takes} takes cannot be told: {why}. The batch "
            f"has {sorted(map(str, roles.entries))}; say which: BatchFormat({key}={names[:2] or ['…']!r})."
        )

    # Positions -----------------------------------------------------------------------------------

    def _read_positions(self, batch: Sequence[Any], roles: Roles) -> Batch:
        told = self.format
        for key in (told.input_key, told.target_key, told.teacher_input_key):
            for name in _listed(key):
                if isinstance(name, str):
                    raise ValueError(
                        f"the DataLoader yields a {type(batch).__name__} of {len(batch)} entries, which have no names, and "
                        f"{name!r} is one: only in a dict batch are entries told by name. Give an index, 0 to {len(batch) - 1}."
                    )
        if told.input_key is not None and (told.target_key is not None or len(batch) < 3):
            target = roles.use(1, "labels") if told.target_key is None and len(batch) == 2 else None
            return self._with_told(roles, None, target, None)
        used = set(_listed(told.teacher_input_key)) | set(_listed(told.weight_key)) | set(_listed(told.mask_key))
        used |= set(_listed(told.lengths_key)) | set(told.unused or [])
        rest = [place for place in range(len(batch)) if place not in used and place not in _listed(told.target_key)]
        if told.target_key is not None and len(rest) == 1:
            return self._pair(roles, rest[0], None)
        if told.target_key is None and len(rest) in (1, 2):
            return self._pair(roles, rest[0], rest[1] if len(rest) == 2 else None)
        required = len(self._student.required) if self._student is not None else 0
        if told.target_key is None and len(rest) > 2 and required == len(rest) - 1:
            for place in rest[:-1]:
                roles.use(place, "student")
            target = roles.use(rest[-1], "labels")
            return self._with_told(roles, tuple(batch[place] for place in rest[:-1]), target, None)
        raise ValueError(_several_entries(batch))

    def _pair(self, roles: Roles, first: int, second: int | None) -> Batch:
        inputs = roles.use(first, "student")
        target = roles.use(second, "labels") if second is not None else None
        if (
            second is not None
            and self.format.target_key is None
            and not self.labels_are_read
            and _views(inputs, target)
        ):
            raise ValueError(
                f"the batch is a pair of {_kind(inputs)} and {_kind(target)}, and no criterion reads labels: the second may be "
                "labels, or a view for the teacher; say which: BatchFormat(target_key=1), or teacher_input_key=1."
            )
        mask = None
        if isinstance(inputs, Mapping):
            inner = Roles(roles.batch, inputs)
            name = self._mask_name(inputs, "labels" if target is not None else None)
            mask = inputs[name] if name is not None else None
            found: Any = self._inputs(inner, set(), "student", target)
            teacher = self._inputs(inner, set(), "teacher", target) if self._teacher is not None else None
            roles.given["student"] = inner.given.get("student", [])
            if name is not None:
                roles.given["mask"] = [name]
            data = self._with_told(roles, found, target, mask)
            if data.teacher_inputs is None and teacher is not None and not _same(teacher, found):
                return Batch(data.inputs, data.target, data.mask, teacher, data.lengths, data.sample_weight)
            return data
        return self._with_told(roles, _spread(inputs, self._student), target, mask)

    def _read_target(self, target: Any) -> Target | None:
        """The labels with those that are not known marked, and shifted where that was told."""
        if isinstance(target, Mapping):
            return {task: self._read_labels(labels) for task, labels in target.items()}
        return self._read_labels(target) if isinstance(target, Tensor) else target

    def _read_labels(self, labels: Tensor) -> Tensor:
        missing = self.format.missing_label
        labels = ignore(labels, missing) if missing is not None else labels
        return shifted(labels) if self.format.shift_labels else labels


def ignore(labels: Tensor, missing: int) -> Tensor:
    """The labels with those of one value marked as not known; integers widened first, for -100 to fit."""
    if labels.dtype == torch.bool or (labels.is_floating_point() and 0 <= missing <= 1):
        return labels  # 0 and 1 are probabilities among floats, and mark nothing
    wide = labels if labels.is_floating_point() else labels.long()
    return wide.masked_fill(labels == missing, IGNORED_LABEL)


def shifted(labels: Tensor) -> Tensor:
    """Each position's next label, ``[B, T]``; none at the last."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED_LABEL)], dim=1)


def _entries(batch: Any) -> Entries:
    if isinstance(batch, Mapping):
        return batch
    if _is_named(batch):
        return dict(batch._asdict())
    if isinstance(batch, (tuple, list)) and not is_one_object(batch):
        return dict(enumerate(batch))
    return attributes_of(batch) if not isinstance(batch, Tensor) and not is_one_object(batch) else {}


def _is_named(batch: Any) -> bool:
    """Whether a batch is a named tuple with an entry of a usual name."""
    fields = getattr(batch, "_fields", ()) if not is_one_object(batch) else ()
    return bool(set(fields) & {*INPUT_KEYS, *TARGET_KEYS, "input_ids"})


def _is_one_argument(batch: Sequence[Any]) -> bool:
    """Whether a list is inputs alone: of texts, or of objects such as graphs."""
    return is_one_object(batch) or (bool(batch) and all(isinstance(value, str) for value in batch))


def _listed(entry: Any) -> list[Any]:
    """The names that an option gives; none of a function."""
    if entry is None or entry == "auto" or callable(entry):
        return []
    return list(entry) if isinstance(entry, (list, tuple)) else [entry]


def _one(value: Any) -> Any:
    """A value as the only argument, whatever it is."""
    return value if isinstance(value, Tensor) or is_one_object(value) else Arguments((value,), {})


def _told_inputs(roles: Roles, entry: Any, signature: Signature | None, owner: str) -> Inputs:
    if not isinstance(entry, (list, tuple)):
        value = roles.take(entry, owner)
        return (
            _spread(value, signature) if callable(entry) or isinstance(value, (list, tuple)) else _one_or_names(value)
        )
    names = signature.names if signature is not None else ()
    named = {name: roles.take(name, owner) for name in entry if name in names}
    positional = tuple(roles.take(name, owner) for name in entry if name not in names)
    return Arguments(positional, named)


def _one_or_names(value: Any) -> Any:
    return value if isinstance(value, Mapping) else _one(value)


def _by_signature(rest: Mapping[Any, Any], signature: Signature | None, refuse: Callable[[str], ValueError]) -> Inputs:
    """The entries that a network takes: by the names of its arguments, or the only one that can be its input."""
    usual = [name for name in INPUT_KEYS if name in rest]
    if signature is None:
        if len(usual) > 1:
            raise refuse(f"{' and '.join(map(repr, usual))} are both usual names of an input")
        return _one_or_names(rest[usual[0]]) if usual else {str(name): value for name, value in rest.items()}
    fitting = {name: rest[name] for name in signature.names if name in rest}
    missing = [name for name in signature.required if name not in fitting]
    if not missing and fitting:
        only = list(fitting)[0]
        alone = len(fitting) == 1 and only == signature.names[0] and signature.positional != 0
        return _one_or_whole(fitting[only]) if alone else fitting
    if len(missing) > 1:
        raise refuse(f"it needs {', '.join(map(repr, missing))}, which no entries are called")
    others = [name for name in rest if name not in fitting]
    free = [name for name in usual if name in others]
    if not free:
        free = [n for n in others if n not in (*ID_KEYS, *MASK_KEYS) and not isinstance(rest[n], (str, int, float))]
        free = [n for n in free if not _all_texts(rest[n])] or free
    if len(free) != 1:
        needs = f"it needs {missing[0]!r}" if missing else "it needs an input"
        raise refuse(f"{needs}, and {' or '.join(map(repr, free)) or 'no entry'} may be it")
    if missing and missing[0] != signature.names[0]:
        return {**fitting, missing[0]: rest[free[0]]}
    value = rest[free[0]]
    return Arguments((value,), fitting) if fitting or not isinstance(value, Tensor) else value


def _one_or_whole(value: Any) -> Any:
    return value if isinstance(value, Tensor) or is_one_object(value) else Arguments((value,), {})


def _all_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _spread(inputs: Any, signature: Signature | None) -> Any:
    """Inputs as arguments: a tuple over several where ``forward`` takes several, and else as one."""
    if isinstance(inputs, Tensor) or is_one_object(inputs) or isinstance(inputs, (Mapping, Arguments)):
        return inputs
    if not isinstance(inputs, (tuple, list)):
        return Arguments((inputs,), {})
    most = signature.positional if signature is not None else None
    fits = most is None or len(inputs) <= most
    if (
        fits
        and not _all_texts(inputs)
        and all(isinstance(v, (Tensor, Mapping)) or v is None or is_one_object(v) for v in inputs)
    ):
        return tuple(inputs)
    return Arguments((inputs,), {})


def _takes_one_object(signature: Signature | None, entries: Entries) -> bool:
    """Whether a network takes a batch that is an object whole: its only needed argument is none of the attributes."""
    if signature is None:
        return True
    needed = signature.required or signature.names[:1]
    return len(needed) == 1 and needed[0] not in entries


def _positional(inputs: Inputs) -> tuple[Any, ...]:
    if isinstance(inputs, Arguments):
        return inputs.positional
    return () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)


def _same(one: Any, other: Any) -> bool:
    """Whether two networks are called alike: with the same objects, by the same names or in the same order."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(one[key] is other[key] for key in one)
    if isinstance(one, Arguments) and isinstance(other, Arguments):
        return _same(one.positional, other.positional) and _same(one.named, other.named)
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _as_mask(mask: Any) -> Tensor | None:
    return mask.bool() if isinstance(mask, Tensor) else None


def _views(first: Any, second: Any) -> bool:
    """Whether the second of two entries looks like inputs: floating-point numbers of the first's shape, or of images."""
    if not (isinstance(first, Tensor) and isinstance(second, Tensor) and second.is_floating_point()):
        return isinstance(second, Mapping) and isinstance(first, Mapping) and first.keys() == second.keys()
    return second.dim() > 2 or (second.shape == first.shape and second.dim() > 1)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return (
        f"a {type(value).__name__} of {len(value)}"
        if isinstance(value, (list, tuple, Mapping))
        else type(value).__name__
    )


def _several_entries(batch: Sequence[Any]) -> str:
    shown = f" ({', '.join(f'{place}: {_kind(value)}' for place, value in enumerate(batch))})" if batch else ""
    tell = (
        ""
        if len(batch) < 3
        else (
            " Say which is which by their indices: BatchFormat(input_key=0, target_key=1); input_key can be a list, and weight_key, "
            "mask_key, lengths_key and unused name others."
        )
    )
    return f"the DataLoader yielded {len(batch)} entries{shown}; (inputs, target), a dict, or inputs alone was expected.{tell}"
