"""A teacher that predicts once: its outputs are recorded, and the student is fitted on the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_distill.batch.batch import Batch, Inputs, count_samples
from lit_distill.batch.positions import input_mask
from lit_distill.capture.formats import moved, weights_mark
from lit_distill.criteria.ops.features import pooled
from lit_distill.outputs import Outputs
from lit_distill.recording import FeatureFormat, Formats, LogitFormat
from lit_distill.recording.agreement import disagreeing, is_exact
from lit_distill.recording.fingerprint import fingerprint_model
from lit_distill.recording.padding import cut_positions, pad_positions, where_counted
from lit_distill.recording.session import Session
from lit_distill.recording.settings import Settings
from lit_distill.teachers.frozen import FrozenTeacher
from lit_distill.teachers.runtime.options import TeacherRuntime
from lit_distill.utils.arguments import check_flag, check_whole


class RecordedTeacher(FrozenTeacher):
    """Runs the teacher once over views of the training data, and reads what it said ever after.

    Only what the criteria read is recorded: logits, features of the named layers, or both. With random
    augmentation, MixUp or CutMix, ``views`` of every sample are recorded, and training sees exactly these
    again, one an epoch in turn: they are drawn anew from their seed, and no pixels are stored. With MixUp,
    the samples that meet in a batch are fixed for each view.

    In a folder, a recording is made once and used by any later run on the same teacher, data and
    transforms; another is refused, and one that was cut off is finished. Evaluation asks the live teacher. So do the
    first batch of each epoch, every 64th batch of an epoch, and batches with samples that are not bit for bit those that
    were recorded: data that have changed are refused in the epoch that meets them. All samples' outputs must have one size:
    pad texts to one length.

    Args:
        model: The teacher.
        path: Folder of the recording, made where it is missing; in memory, for this fit alone, where None.
        views: Views of each sample to record; needed where the training data are augmented at random.
        seed: Of the views.
        logits: How logits are stored: ``float32``, ``float16``, ``int8`` or ``top_k``.
        top_k: Number of classes to keep of each sample, with ``logits: top_k``; the mass of the others is kept as
            their sum, and spread evenly over them when read.
        features: How features are stored: ``float32``, ``float16`` or ``int8``.
        pool_features: Store the mean of each feature over its positions, ``[B, C]``, in place of the whole map.
        ignore_versions: Accept a recording made with other versions of PyTorch, torchvision, NumPy or Pillow,
            whose random numbers or decoding may differ.
        runtime: How to run the teacher when it records, as in ``FrozenTeacher``.
        positions: The most positions of a sequence, where batches are padded to differing lengths: outputs for each token
            are stored at this length. The batch's mask says which count, and the padding comes last.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path | None = None,
        views: int | None = None,
        seed: int = 0,
        logits: LogitFormat = "float16",
        top_k: int | None = None,
        features: FeatureFormat = "float16",
        pool_features: bool = False,
        ignore_versions: bool = False,
        runtime: TeacherRuntime | None = None,
        positions: int | None = None,
    ) -> None:
        if runtime is not None and not isinstance(runtime, TeacherRuntime):
            raise TypeError(
                f"RecordedTeacher: runtime is {runtime!r}, a {type(runtime).__name__}; give a TeacherRuntime, such as "
                "TeacherRuntime(precision='bf16'), or None."
            )
        self.positions = None if positions is None else check_whole("RecordedTeacher: positions", positions, least=1)
        formats = Formats(logits, top_k, features)
        self.settings = Settings(path, views, seed, formats, ignore_versions)  # type: ignore[arg-type]  # makes it a Path
        self.pool_features = check_flag("RecordedTeacher: pool_features", pool_features)
        super().__init__(model, runtime)
        self._session: Session | None = None
        self._last: list[Session | None] = [None]  # of all fits, of whichever student: shared by copies
        self._weights = weights_mark(self.model)
        self._like = torch.zeros(())

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._session, self._checked = None, None

    @property
    def recorded(self) -> int:
        """Number of views that the last fit recorded; those that it found on record are not counted."""
        session = self._last[0]
        report = session.report if session is not None else None
        return report.rows if report is not None else 0

    @property
    def is_recorded(self) -> bool:
        """Whether the last fit found, or made, all of its recording."""
        return self._last[0] is not None and self._last[0].report is not None

    def on_fit_start(self, trainer: Trainer, read_batch: Callable[[Any], Batch]) -> None:
        """Replay the training data of this fit, recording what is missing before the first batch."""
        self.on_fit_end()
        self._session = self._last[0] = None
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a few batches are not worth a recording
            self._weights = weights_mark(self.model)
            self._session = self._last[0] = Session(
                trainer, self.settings, read_batch, self._live, self._calibrate, self._marks, self._far
            )

    def on_train_start(self, trainer: Trainer, read_inputs: Callable[[Any], Inputs]) -> None:
        if self._session is None:  # the recording has made the copy that the runtime asks for
            super().on_train_start(trainer, read_inputs)

    def prefetch(self, inputs: Inputs, mask: Tensor | None = None) -> None:
        """Do nothing: the outputs are on record."""

    def on_train_batch_start(self) -> None:
        if self._session is not None:
            self._session.begin_batch()

    def on_fit_end(self) -> None:
        if self._session is not None:
            self._session.end()

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        session = self._session
        if self.capture.finds_overwrites or session is None or session.current is None:
            return self._pooled(super().__call__(inputs, mask))
        if len(session.current.keys) != count_samples(inputs):
            raise ValueError(
                f"a training batch has {count_samples(inputs)} samples, and {len(session.current.keys)} came from the loader: "
                "which is which cannot be told. Use a frozen teacher."
            )
        recorded = replace(session.read(self._like), mask=mask)
        if session.watch.is_due:
            live = self._stored(super().__call__(inputs, mask), mask)
            if weights_mark(self.model) != self._weights:
                raise ValueError(
                    "the teacher's weights were changed after its outputs were recorded. Change them before the fit, or use a "
                    "frozen teacher."
                )
            session.watch.judge(self._far_apart(recorded, live, mask))
        outputs = self._as_the_students(recorded)
        return outputs if self.positions is None else cut_positions(outputs, mask, self.positions)

    def _far(self, recorded: Outputs, live: Outputs, batch: Batch) -> Tensor:
        """The samples of a batch to which the teacher says something else than what is on record, ``[B]``."""
        return self._far_apart(recorded, live, input_mask(batch))

    def _far_apart(self, recorded: Outputs, live: Outputs, mask: Tensor | None) -> Tensor:
        assert self._session is not None
        encoding = self._session.encoding
        again = encoding.decode(encoding.encode(live), self._like)
        recorded = replace(recorded, logits=recorded.logits.to(self._like))
        if self.positions is not None and mask is not None:
            pair = (cut_positions(outputs, mask, self.positions) for outputs in (recorded, again))
            recorded, again = (where_counted(outputs, mask) for outputs in pair)
        plain = self.runtime is None or self.runtime.precision == "32"
        return disagreeing(recorded, again, encoding.formats, plain and is_exact(self.model, self._like.device))

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().apply(fn)
        self._like = moved(fn)(self._like)

    def _live(self, batch: Batch) -> Outputs:
        mask = input_mask(batch)
        return self._stored(super().__call__(batch.for_teacher, mask), mask)

    def _calibrate(self, batches: Callable[[], Sequence[Batch]]) -> None:
        """Make the copy that the runtime asks for, from batches that every process and every run reads alike."""
        if self.runtime is not None:
            self.prepare_runtime(lambda: [batch.for_teacher for batch in batches()])

    def _stored(self, outputs: Outputs, mask: Tensor | None) -> Outputs:
        """The outputs in the shape that is recorded."""
        small = self._pooled(outputs)
        return small if self.positions is None else pad_positions(small, mask, self.positions)

    def _pooled(self, outputs: Outputs) -> Outputs:
        """Features averaged over positions, where that was asked for."""
        if not self.pool_features:
            return outputs
        features = {name: pooled(feature, outputs.mask) for name, feature in outputs.features.items()}
        return replace(outputs, features=features)

    def _marks(self) -> dict[str, Any]:
        """What the outputs depend on, beside the data."""
        layers = list(self.capture.layers)
        precision = self.runtime.precision if self.runtime is not None else "32"
        outputs = {"logits": self.needs_logits, "layers": layers, "pooled": self.pool_features}
        if self.positions is not None:
            outputs["positions"] = self.positions
        return {**fingerprint_model(self.model), "precision": precision, **outputs}
