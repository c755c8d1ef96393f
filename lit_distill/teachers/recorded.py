"""A teacher that runs once over the training data; the student learns from the recorded outputs."""

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
    """Runs the teacher once over views of the training data, and reads the recorded outputs from then on.

    Only what the criteria read is recorded: logits, features of the named layers, or both. With random augmentation, MixUp
    or CutMix, ``views`` of every sample are recorded, and training sees exactly these, one per epoch in turn, drawn again
    from their seed; no pixels are stored. With MixUp, the samples that share a batch are fixed for each view.

    Any later run with the same teacher, data and transforms uses a recording in a folder; a different one is refused, and an
    unfinished one is completed. The teacher itself runs in evaluation, on the first and every 64th batch of an epoch, and on
    batches with samples that differ from those recorded: changed data are refused in the epoch that meets them. The outputs
    of all samples must have one size: pad texts to one length.

    Args:
        model: The teacher's network.
        path: Folder of the recording, created if it is missing; in memory, for this fit only, if None.
        views: Views of each sample to record, at least 1; required if the training data are augmented at random.
        seed: Seed of the views.
        logits: How logits are stored: ``float32``, ``float16``, ``int8`` or ``top_k``.
        top_k: Number of classes to keep per sample with ``logits: top_k``; the probability of the others is kept as their
            sum, and spread evenly over them when read.
        features: How features are stored: ``float32``, ``float16`` or ``int8``.
        pool_features: Store the mean of each feature over its positions, ``[B, C]``, instead of the whole map.
        ignore_versions: Accept a recording made with other versions of PyTorch, torchvision, NumPy or Pillow,
            whose random numbers or decoding may differ.
        runtime: How to run the teacher when it records; unchanged if None.
        positions: Most positions of a sequence, if batches are padded to different lengths: outputs per token are stored at
            this length. The batch's mask says which positions count, and the padding comes last.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.

    Examples:
        >>> teacher = RecordedTeacher(nn.Linear(4, 3), views=2, logits="int8")
        >>> teacher.is_recorded
        False
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
        self._last: list[Session | None] = [None]  # the last fit's, with any student: shared by copies
        self._weights = weights_mark(self.model)
        self._like = torch.zeros(())

    def _reset(self) -> None:
        super()._reset()
        self._session = None

    @property
    def recorded(self) -> int:
        """Number of views that the last fit recorded, without those recorded before."""
        session = self._last[0]
        report = session.report if session is not None else None
        return report.rows if report is not None else 0

    @property
    def is_recorded(self) -> bool:
        """True if the last fit found or made all of its recording."""
        return self._last[0] is not None and self._last[0].report is not None

    @property
    def gives_all_logits(self) -> bool:
        return self.settings.formats.logits != "top_k"

    def on_fit_start(self, trainer: Trainer, read_batch: Callable[[Any], Batch]) -> None:
        """Record what is missing, and replay the training data in this fit."""
        self.on_fit_end()
        self._session = self._last[0] = None
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a few batches are not worth a recording
            self._weights = weights_mark(self.model)
            self._session = self._last[0] = Session(
                trainer, self.settings, read_batch, self._live, self._calibrate, self._marks, self._far_apart
            )

    def on_train_start(self, trainer: Trainer, read_inputs: Callable[[Any], Inputs]) -> None:
        if self._session is None:  # the recording has prepared the runtime's copy
            super().on_train_start(trainer, read_inputs)

    def prefetch(self, inputs: Inputs, mask: Tensor | None = None) -> None:
        """Do nothing: the outputs are recorded."""

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
                "they cannot be matched. Use a frozen teacher."
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
        outputs = self._in_student_type(recorded)
        return outputs if self.positions is None else cut_positions(outputs, mask, self.positions)

    def _far_apart(self, recorded: Outputs, live: Outputs, mask: Tensor | None) -> Tensor:
        """Return True for the samples whose live outputs differ from the recorded ones, ``[B]``."""
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
        """Prepare the runtime's copy, from batches that are the same in every process and run."""
        if self.runtime is not None:
            self.prepare_runtime(lambda: [batch.for_teacher for batch in batches()])

    def _stored(self, outputs: Outputs, mask: Tensor | None) -> Outputs:
        """Return the outputs in the shape that is recorded."""
        small = self._pooled(outputs)
        return small if self.positions is None else pad_positions(small, mask, self.positions)

    def _pooled(self, outputs: Outputs) -> Outputs:
        """Average features over positions if ``pool_features`` is set."""
        if not self.pool_features:
            return outputs
        features = {name: pooled(feature, outputs.mask) for name, feature in outputs.features.items()}
        return replace(outputs, features=features)

    def _marks(self) -> dict[str, Any]:
        """Return what the outputs depend on, except the data."""
        layers = list(self.capture.layers)
        precision = self.runtime.precision if self.runtime is not None else "32"
        outputs = {"logits": self.needs_logits, "layers": layers, "pooled": self.pool_features}
        if self.positions is not None:
            outputs["positions"] = self.positions
        return {**fingerprint_model(self.model), "precision": precision, **outputs}
