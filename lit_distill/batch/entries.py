"""The entries of a batch by name or index, and their roles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from lit_distill.batch.batch import BatchFormat, Entry, attributes_of, is_one_object
from lit_distill.batch.signatures import Signature

INPUT_KEYS = ("inputs", "input", "image", "images", "pixel_values", "x")
TARGET_KEYS = ("target", "targets", "label", "labels", "y")
MASK_KEYS = ("mask", "attention_mask")
ID_KEYS = ("id", "ids", "idx", "index", "indices", "sample_id", "key", "__key__", "__url__", "path", "file", "filename")

WHOLE = "the batch"  # stands for all entries, if a network takes the batch as it is
Entries = Mapping[Any, Any]


def mask_keys_for(signature: Signature | None) -> tuple[str, ...]:
    """Return the names of the entries that may say which positions of a network's logits count.

    An encoder's mask is not the decoder's, and an argument called ``mask`` may mean anything.
    """
    if signature is None:
        return MASK_KEYS
    if signature.encodes_and_decodes:
        return ("decoder_attention_mask",)
    return tuple(key for key in MASK_KEYS if key != "mask" or "mask" not in signature.names)


class Roles:
    """Takes entries, by name or index, out of a batch, and remembers the role of each."""

    def __init__(self, batch: Any, entries: Entries) -> None:
        self.batch, self.entries = batch, entries
        self.given: dict[str, list[str]] = {}

    def take(self, entry: Entry, role: str) -> Any:
        """Return an entry that the user named; refuse one that is not there."""
        if callable(entry):
            self.note(role, getattr(entry, "__name__", "a function"))
            return entry(self.batch)
        self.check(entry)
        return self.use(entry, role)

    def check(self, entry: Any) -> None:
        """Refuse an entry that is not there."""
        if entry not in self.entries:
            what = "index" if isinstance(entry, int) else "entry"
            raise ValueError(f"no {what} {entry!r} in the batch; it has {sorted(map(str, self.entries))}.")

    def use(self, name: Any, role: str) -> Any:
        """Return an entry that is there."""
        self.note(role, str(name))
        return self.entries[name]

    def note(self, role: str, name: str) -> None:
        """Remember the role of an entry."""
        names = self.given.setdefault(role, [])
        if name not in names:
            names.append(name)

    def words(self, name: str) -> str:
        """Return what to call an entry in a sentence."""
        return f"entry {name}" if isinstance(self.batch, (tuple, list)) and name.isdigit() else name

    def left(self) -> list[Any]:
        """Return the names of the entries without a role."""
        taken = {name for names in self.given.values() for name in names}
        return [name for name in self.entries if not {str(name), WHOLE} & taken]


def entries_of(batch: Any, named: Collection[Any] = ()) -> Entries:
    """Return the entries of a mapping, a sequence, a named tuple or an object; none for a tensor."""
    if isinstance(batch, Mapping):
        return batch
    if is_named(batch, named):
        return dict(batch._asdict())
    if isinstance(batch, (tuple, list)) and not is_one_object(batch):
        return dict(enumerate(batch))
    return attributes_of(batch) if not isinstance(batch, Tensor) and not is_one_object(batch) else {}


def is_named(batch: Any, named: Collection[Any] = ()) -> bool:
    """Return True for a named tuple with an entry of a usual name, or of one that the user gave."""
    fields = getattr(batch, "_fields", ()) if not is_one_object(batch) else ()
    return bool(set(fields) & {*INPUT_KEYS, *TARGET_KEYS, "input_ids", *named})


def names_in(entry: Any) -> list[Any]:
    """Return the names that an option gives; none for a function."""
    if entry is None or entry == "auto" or callable(entry):
        return []
    return list(entry) if isinstance(entry, (list, tuple)) else [entry]


def kind_of(value: Any) -> str:
    """Describe an entry for an error: its kind and size."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, (list, tuple, Mapping)) else kind


def several_entries(batch: Sequence[Any]) -> str:
    """Return the error for a tuple that can be read in several ways."""
    shown = f" ({', '.join(f'{place}: {kind_of(value)}' for place, value in enumerate(batch))})" if batch else ""
    remedy = (
        " Say which is which by their indices: BatchFormat(input_key=0, target_key=1); input_key can be a list, and "
        "weight_key, mask_key, lengths_key and unused name others."
    ) * (len(batch) > 1)
    return f"the DataLoader yielded {len(batch)} entries{shown}; (inputs, target), a dict, or only inputs was expected.{remedy}"


def named_entries(format_: BatchFormat) -> set[Any]:
    """Return the names of the entries to which a batch format gives a role."""
    roles = ("input_key", "teacher_input_key", "target_key", "mask_key", "lengths_key", "weight_key")
    return {name for role in roles for name in names_in(getattr(format_, role))}


def may_be_inputs(first: Any, second: Any) -> bool:
    """Return True if the second of two entries looks like inputs: floats of the first's shape, or of images."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return second.is_floating_point() and (second.dim() > 2 or (second.shape == first.shape and second.dim() > 1))
    return isinstance(second, Mapping) and isinstance(first, Mapping) and first.keys() == second.keys()
