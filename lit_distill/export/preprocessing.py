"""What turns an image into the student's input, read from the run's own data set, and the names of its classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from lit_distill.data.class_names import class_names
from lit_distill.export.inference import Normalisation

Step = dict[str, Any]
_DEPTH = 8  # data sets in data sets


def steps_of(module: LightningDataModule | None, loader: Any = None) -> list[Step] | None:
    """Return the steps from an image to an input, as plain values; None if they are unknown.

    Args:
        module: The run's DataModule; those of this package say it themselves.
        loader: Validation data, of whose data set the ``transform`` is read.
    """
    transform = getattr(module, "plain_transform", None)
    if transform is None:
        transform = next(
            (found for one in _inside(getattr(loader, "dataset", None)) for found in [_transform(one)] if found), None
        )
    return [step for one in _flat(transform) for step in _described(one)] if transform is not None else None


def classes_of(module: LightningDataModule | None, loader: Any = None) -> list[str] | None:
    """Return the names of the classes in the order of the logits, from the data set's ``classes``; None if it has none."""
    return list(class_names(module, getattr(loader, "dataset", None))) or None


def normalisation_in(steps: Sequence[Step] | None) -> Normalisation:
    """Return the normalisation that ends the steps.

    Raises:
        ValueError: They are unknown, or do not end with one.
    """
    last = steps[-1] if steps else {}
    if set(last) != {"normalize"}:
        raise ValueError(
            "the normalisation is to be inside the file, and the data set's transform shows none as its last step: give "
            "mean and std."
        )
    return Normalisation(tuple(last["normalize"]["mean"]), tuple(last["normalize"]["std"]))


def _inside(dataset: Any) -> Iterable[Any]:
    """Yield a data set and those that it is a part of."""
    for _ in range(_DEPTH):
        if dataset is None:
            return
        yield dataset
        dataset = getattr(dataset, "dataset", None)


def _transform(dataset: Any) -> Any:
    return getattr(dataset, "transform", None)


def _flat(transform: Any) -> list[Any]:
    """Return the transforms inside a ``Compose`` or an ``nn.Sequential``."""
    inner = list(transform) if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", None)
    return [transform] if inner is None else [one for each in inner for one in _flat(each)]


def _described(transform: Any) -> list[Step]:
    kind = type(transform).__name__
    if kind == "Resize":
        return [{"resize_shorter_side" if _one_side(transform.size) else "resize": _plain(transform.size)}]
    if kind == "CenterCrop":
        return [{"center_crop": _plain(transform.size)}]
    if kind == "Normalize":
        return [{"normalize": {"mean": _plain(transform.mean), "std": _plain(transform.std)}}]
    if kind == "ToTensor" or (kind == "ToDtype" and getattr(transform, "scale", False)):
        return [{"divide_by": 255}]
    if kind in ("ToImage", "PILToTensor", "ToPureTensor", "Identity"):
        return []
    return [{"other": repr(transform)}]


def _one_side(size: Any) -> bool:
    return isinstance(size, int) or len(size) == 1


def _plain(value: Any) -> Any:
    values = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(values, (list, tuple)):
        return values[0] if len(values) == 1 and isinstance(values[0], int) else list(values)
    return values
