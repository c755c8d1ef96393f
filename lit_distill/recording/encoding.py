"""The form of one sample's outputs on disk: a NumPy record with one or more fields for the logits and each feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_distill.outputs import Outputs
from lit_distill.recording.marks import FIELD, Marks
from lit_distill.utils.arguments import check_choice, check_whole

LogitFormat = Literal["float32", "float16", "int8", "top_k"]
FeatureFormat = Literal["float32", "float16", "int8"]
LOGIT_FORMATS: tuple[LogitFormat, ...] = ("float32", "float16", "int8", "top_k")
FEATURE_FORMATS: tuple[FeatureFormat, ...] = ("float32", "float16", "int8")

Rows = NDArray[Any]
_LOGITS = "logits"
_LEVELS = 255


@dataclass(frozen=True)
class Formats:
    """The types in which outputs are stored.

    Attributes:
        logits: ``float32``, ``float16``, ``int8`` (256 levels between a sample's smallest and largest logit) or
            ``top_k`` (the largest ``k`` as float16 with their classes, and the mass of all others).
        top_k: ``k``; only for ``top_k``.
        features: ``float32``, ``float16`` or ``int8`` (256 levels per sample and layer).

    Raises:
        TypeError: ``top_k`` is no whole number.
        ValueError: A type is none of these, or ``top_k`` is missing or unused.
    """

    logits: LogitFormat = "float16"
    top_k: int | None = None
    features: FeatureFormat = "float16"

    def __post_init__(self) -> None:
        check_choice("logits", self.logits, LOGIT_FORMATS)
        check_choice("features", self.features, FEATURE_FORMATS)
        if self.top_k is not None:
            object.__setattr__(self, "top_k", check_whole("top_k", self.top_k))
        if self.logits == "top_k" and (self.top_k is None or self.top_k < 1):
            raise ValueError(
                f"logits: top_k needs top_k, the number of classes to keep (such as 10), not {self.top_k}."
            )
        if self.logits != "top_k" and self.top_k is not None:
            raise ValueError(f"top_k does nothing with logits: {self.logits}; set logits: top_k, or leave it out.")


class Encoding:
    """Converts ``Outputs`` to records and back.

    Args:
        shapes: The ``Outputs.shapes`` of a batch; the first dimension is left out.
        formats: The types to store.
        marked: Store the mark of each sample next to its outputs.

    Raises:
        ValueError: ``top_k`` exceeds the number of classes.
    """

    def __init__(self, shapes: Mapping[str, Any], formats: Formats, marked: bool = False) -> None:
        self.formats, self.marked = formats, marked
        logits = tuple(shapes["logits"][1:])
        self._has_logits = shapes["logits"][0] != 0
        self._top_k = self._has_logits and formats.logits == "top_k"
        self._class_axis = 0 if len(logits) == 3 else len(logits) - 1
        self._classes = logits[self._class_axis] if logits else 1
        features = {name: tuple(shape[1:]) for name, shape in shapes["features"].items()}
        self.layers: tuple[str, ...] = tuple(features)
        self._shapes = features | ({_LOGITS: logits} if self._has_logits else {})
        fields: list[tuple[Any, ...]] = _logit_fields(logits, self._class_axis, formats) if self._has_logits else []
        for layer, shape in features.items():
            fields += _number_fields(layer, shape, formats.features)
        if marked:
            fields.append((FIELD, "<u4"))
        self.dtype = np.dtype(fields)

    def encode(self, outputs: Outputs, marks: Marks | None = None) -> Rows:
        """Return records ``[B]`` of a batch's outputs.

        Args:
            outputs: The batch's outputs.
            marks: The marks of the samples ``[B]``, if they are stored.

        Raises:
            ValueError: A value is not finite, or too large for the type; or the outputs have another size than before.
        """
        self._refuse_other_shapes(outputs)
        size = len(outputs.logits) if self._has_logits else len(outputs.features[self.layers[0]])
        rows = np.zeros(size, self.dtype)
        if self._top_k:
            self._put_top_k(rows, outputs.logits)
        elif self._has_logits:
            _put(rows, _LOGITS, outputs.logits, self.formats.logits)
        for layer in self.layers:
            _put(rows, layer, outputs.features[layer], self.formats.features)
        if self.marked and marks is not None and len(marks) == size:
            rows[FIELD] = marks
        return rows

    def _refuse_other_shapes(self, outputs: Outputs) -> None:
        for name, known in self._shapes.items():
            found = tuple((outputs.logits if name == _LOGITS else outputs.features[name]).shape[1:])
            if found != known:
                raise ValueError(
                    f"a recorded teacher needs outputs of one size, and the {name} of a sample are {list(known)} in one batch "
                    f"and {list(found)} in another: pad or resize every batch to one size in the collate function; for texts, "
                    "give RecordedTeacher(positions=…), the most that a batch has; or use a frozen teacher."
                )

    def decode(self, rows: Rows, like: Tensor) -> Outputs:
        """Return the outputs of records, in the type and on the device of ``like``."""
        if self._top_k:
            logits = self._get_top_k(rows)
        else:
            logits = _get(rows, _LOGITS, self.formats.logits) if self._has_logits else torch.zeros(0)
        features = {layer: _get(rows, layer, self.formats.features).to(like) for layer in self.layers}
        return Outputs(logits.to(like), features)

    def _put_top_k(self, rows: Rows, logits: Tensor) -> None:
        last = logits.detach().float().movedim(self._class_axis + 1, -1)
        _refuse_unstorable(_LOGITS, last, "top_k")
        k = rows.dtype[_LOGITS].shape[-1]
        values, classes = last.topk(k, dim=-1)
        rest = last.scatter(-1, classes, float("-inf")).logsumexp(-1)
        rows[_LOGITS] = values.cpu().numpy()
        rows[f"{_LOGITS}/class"] = classes.cpu().numpy()
        rows[f"{_LOGITS}/rest"] = rest.cpu().numpy()

    def _get_top_k(self, rows: Rows) -> Tensor:
        values = _tensor(rows[_LOGITS]).float()
        classes = _tensor(rows[f"{_LOGITS}/class"].astype(np.int64))
        rest = _tensor(rows[f"{_LOGITS}/rest"]).float()
        others = max(1, self._classes - values.shape[-1])
        # The mass of all others is spread evenly over them.
        filled = (rest - float(np.log(others))).unsqueeze(-1).expand(*rest.shape, self._classes)
        return filled.scatter(-1, classes, values).movedim(-1, self._class_axis + 1)

    def covered(self, outputs: Outputs) -> float:
        """Return the mean share of the teacher's probability in the kept classes; 1 if all are kept."""
        if not self._top_k:
            return 1.0
        k = self.dtype[_LOGITS].shape[-1]
        mass = outputs.logits.detach().float().movedim(self._class_axis + 1, -1).softmax(-1).topk(k, dim=-1)[0].sum(-1)
        return float(mass.mean())


def _logit_fields(shape: tuple[int, ...], class_axis: int, formats: Formats) -> list[tuple[Any, ...]]:
    if formats.logits != "top_k":
        return _number_fields(_LOGITS, shape, formats.logits)
    if not shape:
        raise ValueError("top_k needs a class dimension, and the logits are one number a sample.")
    classes, k = shape[class_axis], formats.top_k or 0
    if k > classes:
        raise ValueError(f"top_k: {k} exceeds the {classes} classes; keep fewer, or store float16.")
    places = shape[:class_axis] + shape[class_axis + 1 :]
    index = "<u2" if classes <= 2**16 else "<u4"
    return [
        (_LOGITS, "<f2", (*places, k)),
        (f"{_LOGITS}/class", index, (*places, k)),
        (f"{_LOGITS}/rest", "<f2", places),
    ]


def _number_fields(name: str, shape: tuple[int, ...], kind: str) -> list[tuple[Any, ...]]:
    if kind == "int8":
        return [(name, "u1", shape), (f"{name}/offset", "<f4"), (f"{name}/step", "<f4")]
    return [(name, "<f2" if kind == "float16" else "<f4", shape)]


def _put(rows: Rows, name: str, values: Tensor, kind: str) -> None:
    values = values.detach().float()
    _refuse_unstorable(name, values, kind)
    if kind == "int8":
        flat = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
        offset, high = flat.amin(1), flat.amax(1)
        step = ((high - offset) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        levels = ((flat - offset.unsqueeze(1)) / step.unsqueeze(1)).round().clamp(0, _LEVELS)
        rows[f"{name}/offset"], rows[f"{name}/step"] = offset.cpu().numpy(), step.cpu().numpy()
        values = levels.reshape(values.shape)
    rows[name] = values.cpu().numpy()


def _get(rows: Rows, name: str, kind: str) -> Tensor:
    values = _tensor(rows[name]).float()
    if kind != "int8":
        return values
    broad = (-1,) + (1,) * (values.dim() - 1)
    offset, step = _tensor(rows[f"{name}/offset"]).reshape(broad), _tensor(rows[f"{name}/step"]).reshape(broad)
    return offset + step * values


def _tensor(array: Rows) -> Tensor:
    return torch.from_numpy(array.copy())  # a field's strides need not be a multiple of its type's size


def _refuse_unstorable(name: str, values: Tensor, kind: str) -> None:
    if not torch.isfinite(values).all():
        raise ValueError(f"the teacher's {name} are not finite; a record of them would teach nothing.")
    largest = float(values.abs().max()) if values.numel() else 0.0
    if kind in ("float16", "top_k") and largest > torch.finfo(torch.float16).max:
        raise ValueError(f"the teacher's {name} reach {largest:.3g}, beyond float16; store them as float32 or int8.")


def dtype_to_json(dtype: np.dtype[Any]) -> list[list[Any]]:
    """Convert a record type to plain lists."""
    return [[name, field[0].base.str, list(field[0].shape)] for name, field in (dtype.fields or {}).items()]
