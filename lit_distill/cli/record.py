"""``lit-distill record``: the recording of a config's RecordedTeacher, and no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from lit_distill.cli.config_files import find_configs
from lit_distill.cli.fit import DistillationCLI
from lit_distill.teachers import RecordedTeacher


class RecordingCLI(DistillationCLI):
    """A fit that ends before its first batch, once its teacher is recorded, and leaves nothing else behind."""

    saves_config = False

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Make a Trainer of no epochs, loggers and checkpoints."""
        callbacks = self._get(self.config_init, "trainer")["callbacks"] or []
        kept = [
            one
            for one in (callbacks if isinstance(callbacks, list) else [callbacks])
            if not isinstance(one, Checkpoint)
        ]
        nothing = {"max_epochs": 0, "num_sanity_val_steps": 0, "logger": False, "enable_checkpointing": False}
        return super().instantiate_trainer(**{**options, **nothing, "callbacks": kept})

    def before_fit(self) -> None:
        """Refuse a set-up that records nothing."""
        teacher = self._recorded()
        if teacher is None or teacher.settings.path is None:
            raise SystemExit(
                "lit-distill record: the config's teacher must be a lit_distill.RecordedTeacher with a path, the folder "
                "to record to."
            )
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise SystemExit("lit-distill record: trainer.fast_dev_run records nothing; leave it out.")

    def after_fit(self) -> None:
        """Refuse to end as if all were well if nothing was recorded."""
        teacher = self._recorded()
        if teacher is not None and not teacher.is_recorded:
            raise SystemExit("lit-distill record: nothing was recorded, as the trainer reads no training batches.")

    def _recorded(self) -> RecordedTeacher | None:
        teacher = getattr(self.model, "_teacher", None)
        return teacher if isinstance(teacher, RecordedTeacher) else None


def main(arguments: Sequence[str]) -> None:
    """Record a teacher; the words are those of ``fit``."""
    RecordingCLI(["fit", *find_configs(arguments)])
