"""A teacher that predicts once: its distributions are recorded, and the student is fitted on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill.batch import Inputs, tensors_of
from lit_distill.outputs import Outputs
from lit_distill.teachers.frozen import FrozenTeacher

_DRAWN_TWICE = 16


class RecordedTeacher(FrozenTeacher):
    """Runs the teacher once over the training data, before the first step, and reads its logits ever after.

    A sample is known by the bytes of its inputs, so that any DataLoader and any order will do, and a
    sample can never get another's record. It is only right where the training inputs are the same in
    every epoch; random augmentation and MixUp are found out and refused. Logits alone are recorded.

    Args:
        model: The teacher.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._records: dict[bytes, Tensor] = {}
        self._unseen = 0

    @property
    def recorded(self) -> int:
        """Number of samples on record."""
        return len(self._records)

    def prepare(self, trainer: Trainer, read: Callable[[Any], Inputs]) -> None:
        """Record the whole training loader.

        Raises:
            ValueError: Features are wanted, the loader is of an unknown kind, or its samples change.
        """
        if self.capture.layers:
            raise ValueError(
                f"a recorded teacher holds logits alone, and the criteria read its layers "
                f"{', '.join(self.capture.layers)}; use a frozen teacher, or criteria on logits."
            )
        loader = trainer.train_dataloader
        if not isinstance(loader, DataLoader):
            raise ValueError(f"a recorded teacher reads one DataLoader, not a {type(loader).__name__}.")
        self._records = {}
        with isolate_rng(), _isolate_generators(loader):
            samples = _refuse_changing_samples(loader)
            for batch in loader:
                self._record(read(batch))
        rank_zero_info(f"Recorded the teacher's distributions for {self.recorded:,} samples.")
        self._unseen = samples - self.recorded

    def _record(self, inputs: Inputs) -> None:
        logits = super().__call__(inputs).logits.detach()
        for key, row in zip(_fingerprints(inputs), logits, strict=True):
            self._records[key] = row.clone()

    def __call__(self, inputs: Inputs, mask: Tensor | None = None, *, calibrate: bool = False) -> Outputs:
        if calibrate or not self._records:  # the dry run comes before the recording
            return super().__call__(inputs, mask, calibrate=calibrate)
        keys = _fingerprints(inputs)
        missing = {key for key in keys if key not in self._records}
        if len(missing) > self._unseen:
            raise ValueError(
                f"{len(missing)} inputs of a training batch are not on record: they change after they are loaded "
                "(MixUp, CutMix, augmentation on the device) or from one epoch to the next. Turn that off, or use a "
                "frozen teacher."
            )
        if missing:  # samples that the recording pass did not see: dropped as an incomplete batch, or another rank's
            self._unseen -= len(missing)
            self._record(inputs)
        return Outputs(torch.stack([self._records[key] for key in keys]), mask=mask)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        return super().__call__(inputs, mask)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().apply(fn)
        self._records = {key: fn(row) for key, row in self._records.items()}


def _fingerprints(inputs: Inputs) -> list[bytes]:
    """One digest a sample, of the bytes of everything that enters the model for it."""
    columns = [tensor.detach().cpu().contiguous() for tensor in tensors_of(inputs) if tensor.dim()]
    columns = [tensor.reshape(len(tensor), -1) for tensor in columns]
    digests = []
    for rows in zip(*columns, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            digest.update(row.view(torch.uint8).numpy().tobytes())
        digests.append(digest.digest())
    return digests


@contextmanager
def _isolate_generators(loader: DataLoader[Any]) -> Iterator[None]:
    """Put the loader's own generators back, so that training draws the order that it would have drawn."""
    owners = (loader, loader.sampler, loader.batch_sampler)
    found = [getattr(owner, "generator", None) for owner in owners]
    states = [(generator, generator.get_state()) for generator in found if isinstance(generator, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _refuse_changing_samples(loader: DataLoader[Any]) -> int:
    """Read some samples twice; the number of all samples."""
    dataset = loader.dataset
    if not isinstance(dataset, Sized):
        raise ValueError("a recorded teacher needs a data set of known length; an iterable one cannot be read twice.")
    for index in range(min(_DRAWN_TWICE, len(dataset))):
        first, second = dataset[index], dataset[index]
        pairs = zip(tensors_of(first), tensors_of(second), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise ValueError(
                f"sample {index} of the training data differs each time it is read (random augmentation), so a record "
                "of the teacher would not match it. Turn the augmentation off, or use a frozen teacher."
            )
    return len(dataset)
