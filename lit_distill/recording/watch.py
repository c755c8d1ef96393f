"""When to compare a recording with the live teacher, and what a difference means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_distill.recording.replay import Delivered
from lit_distill.recording.store import StaleRecording
from lit_distill.utils.names import listed
from lit_distill.utils.notices import warn

EVERY = 64  # batches: at most 1.6 % of the teacher's passes, apart from the first batch of each epoch
_ENOUGH = 8
_MOST_NAMED = 10


class Watch:
    """Checks a recording, in a folder or ``memory``, during one fit.

    The live teacher is run on the first batch of the fit and of each epoch, on every 64th batch of an epoch, and on
    each batch with samples whose marks differ. Samples whose bits differ, but not the teacher's outputs, may be
    used: they have other labels, or another number of threads sums in another order.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._epoch, self._batch = -1, -1
        self._asked: tuple[int, int] | None = None
        self._changed: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._delivered = Delivered([])
        self._warned, self._alike, self._compares = False, 0, True

    def begin(self, epoch: int, batch: int, delivered: Delivered, recorded: NDArray[np.uint32] | None) -> None:
        """Go on to a batch; ``recorded`` are the marks of its samples in the recording, if it has any."""
        self._epoch, self._batch, self._delivered = epoch, batch, delivered
        known = self._compares and recorded is not None and delivered.marks is not None
        changed = recorded != delivered.marks if known else np.zeros(len(delivered.keys))
        self._changed = np.asarray(changed, dtype=bool)

    @property
    def is_due(self) -> bool:
        """True if the live teacher is to be run on this batch."""
        asked, now = self._asked, (self._epoch, self._batch)
        regular = asked != now and (asked is None or asked[0] != self._epoch or self._batch % EVERY == 0)
        return regular or bool(self._changed.any())

    def judge(self, far: Tensor) -> None:
        """Refuse the recording if the live teacher's outputs are far from the recorded ones, True in ``[B]``."""
        self._asked = (self._epoch, self._batch)
        others = far.cpu().numpy().astype(bool)
        if others.any():
            raise StaleRecording(self._refusal(others))
        if self._changed.any():
            self._accept()

    def _accept(self) -> None:
        if not self._warned:
            self._warned = True
            warn(
                f"{self._counted(self._changed)} are not bit for bit those recorded in {self._where}, and the teacher's "
                "outputs are the same, so the recording is used: labels, paths or other numbers have changed, or another "
                "number of threads rounds sums differently. The teacher runs on each such batch, which takes time; record "
                "anew to save it."
            )
        self._alike = self._alike + 1 if bool(self._changed.all()) else 0
        if self._alike == _ENOUGH:
            self._compares = False
            warn(
                f"every sample of {_ENOUGH} batches in a row differs in bits from those recorded in {self._where}, and the "
                "teacher's outputs are the same: bits are no longer compared in this fit. The teacher runs on every "
                f"{EVERY}th batch."
            )

    def _refusal(self, others: NDArray[np.bool_]) -> str:
        changed = others & self._changed
        if changed.any():
            return (
                f"{self._counted(changed)} are not those that were recorded in {self._where}: {self._named(changed)}. The data "
                "set, the order of its samples or a transform has changed since, or draws from a generator other than "
                "Python's, NumPy's and PyTorch's global ones, which cannot be had again. Put it back as it was, delete the "
                "recording to make it anew, or use a frozen teacher."
            )
        return (
            f"the recorded outputs of {self._counted(others)} are not the teacher's outputs for these inputs: they change "
            "after the data set has read them, in a way that the recording cannot repeat (a transform, MixUp or an image "
            "size that is switched between epochs or steps, a change inside training_step, a generator of its own). Take "
            "that out, or use a frozen teacher."
        )

    def _counted(self, others: NDArray[np.bool_]) -> str:
        count, size = int(others.sum()), len(self._delivered.keys)
        return f"{count} of the {size} samples of batch {self._batch} of epoch {self._epoch}"

    def _named(self, others: NDArray[np.bool_]) -> str:
        indices = [str(index) for (_, index), other in zip(self._delivered.keys, others, strict=True) if other]
        return f"sample{'s' * (len(indices) > 1)} {listed(indices, _MOST_NAMED)}"
