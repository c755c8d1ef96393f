"""The data of an export: calibration batches of the training split, and validation batches with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_distill.batch.batch import Batch, Inputs, Target
from lit_distill.batch.reading import BatchReader
from lit_distill.teachers.calibration import calibration_batches, in_plain_order
from lit_distill.utils.lightning_names import is_overridden

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Part:
    """A batch of validation data."""

    inputs: Inputs
    target: Target | None
    mask: Tensor | None


class Data:
    """Batches, read as a fit reads them.

    Args:
        reader: Takes batches apart.
        calibration: Training batches, a loader as a rule; None for those of ``module``.
        validation: Validation batches; None for those of ``module``.
        module: The run's own DataModule.
    """

    def __init__(
        self,
        reader: BatchReader,
        calibration: Iterable[Any] | None = None,
        validation: Iterable[Any] | None = None,
        module: LightningDataModule | None = None,
    ) -> None:
        self._reader, self._module = reader, module
        if module is not None:
            module.prepare_data()
            module.setup("fit")
        self._training = calibration if calibration is not None else _loader(module, "train")
        self._validation = validation if validation is not None else _loader(module, "val")
        if calibration is not None and calibration is validation:
            raise ValueError(
                "calibration and validation are the same data: what was calibrated on them proves nothing there."
            )

    @property
    def loader(self) -> Any:
        """The validation data; None if there are none."""
        return self._validation

    def calibration(self) -> list[Inputs]:
        """Return up to 256 training inputs in a few batches.

        Raises:
            ValueError: There are none.
        """
        if self._training is None:
            raise ValueError(
                "int8 needs calibration data, and there are none: give calibration=train_loader, or a DataModule with training "
                "data as data=."
            )
        with isolate_rng():
            found = [self._read(batch).inputs for batch in calibration_batches(self._training)]
        if not found:
            raise ValueError("int8 needs calibration data, and the training loader is empty.")
        return found

    def training(self, most: int) -> list[Part]:
        """Return training batches of up to ``most`` samples, spread over the data set; none if there are no such data."""
        with isolate_rng():
            read = map(self._read, calibration_batches(self._training, most) if self._training is not None else ())
            return [Part(one.inputs, one.target, one.mask) for one in read]

    def validation(self, most: int) -> list[Part]:
        """Return validation batches of about ``most`` samples, spread over the data set; none if there are no such data."""
        parts: list[Part] = []
        seen = 0
        loader = self._validation if self._validation is not None else ()
        with isolate_rng():
            for batch in calibration_batches(loader, most) if in_plain_order(loader) else loader:
                read = self._read(batch)
                parts.append(_cut(Part(read.inputs, read.target, read.mask), read.size, most - seen))
                seen += read.size
                if seen >= most:
                    break
        if not parts and self._validation is not None:
            raise ValueError("the validation data are empty.")
        return parts

    def _read(self, batch: Any) -> Batch:
        if self._module is not None:
            batch = self._module.on_before_batch_transfer(batch, 0)
            batch = self._module.transfer_batch_to_device(batch, _CPU, 0)
            batch = self._module.on_after_batch_transfer(batch, 0)
        return Batch(batch) if isinstance(batch, Tensor) else self._reader.read(batch)


def _cut(part: Part, size: int, most: int) -> Part:
    """Return the first ``most`` samples of a plain batch; others stay whole."""
    plain = isinstance(part.inputs, Tensor) and isinstance(part.target, Tensor) and part.mask is None
    if size <= most or not plain:
        return part
    return Part(part.inputs[:most], part.target[:most], None)  # type: ignore[index]


def _loader(module: LightningDataModule | None, part: str) -> Any:
    """Return a DataModule's loader, the first of several; None if it has none."""
    if module is None:
        return None
    name = f"{part}_dataloader"
    if not is_overridden(name, module):
        return None
    loaders = getattr(module, name)()
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    return (loaders[0] if loaders else None) if isinstance(loaders, (list, tuple)) else loaders


def first_samples(tensors: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    """Return the first samples of each tensor, the only one twice if two are needed."""
    return tuple(
        torch.cat([tensor] * count)[:count] if len(tensor) < count else tensor[:count].clone() for tensor in tensors
    )
