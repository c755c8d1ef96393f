"""What a checkpoint holds beside weights: the criteria's names, the features' shapes, the random states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from lit_distill.batch.layout import usual_channel_dim
from lit_distill.engine.remembered import (
    changes_of_settings,
    changes_of_teacher,
    class_name,
    describe_settings,
    describe_teacher,
)
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.teachers import Teacher
from lit_distill.utils.notices import tell
from lit_distill.utils.plain import as_plain
from lit_distill.utils.rng import collect_rng_state, collect_rng_states, restore_own_rng_state

NOTE_KEY = "lit_distill"


class CheckpointNote:
    """The library's own entry in a Lightning checkpoint, of plain types.

    The shapes let projectors be rebuilt with no data at hand; the random states make a resumed run equal
    to an uninterrupted one; the settings and the teacher's mark let a run that is another say so.

    Attributes:
        task: The module's, where it has one.
    """

    def __init__(self) -> None:
        self.task: str | None = None
        self._settings: dict[str, Any] | None = None
        self._teacher: dict[str, Any] | None = None
        self._shapes: dict[str, Any] | None = None
        self._rng: list[dict[str, Any]] = []  # by rank
        self._read: list[str] = []

    def remember_reading(self, lines: Sequence[str]) -> None:
        """Keep what was read of a batch, for whoever reads the checkpoint."""
        self._read = list(lines)

    def remember_settings(self, criteria: WeightedCriteria, teacher: Teacher | None) -> None:
        """Keep how this run is set and who teaches, as both are before the first batch."""
        self._settings = describe_settings(criteria, self.task)
        self._teacher = describe_teacher(teacher)

    def changes(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """A line for everything that is otherwise in this run than when a checkpoint was made."""
        return self.changes_of_settings(checkpoint) + self.changes_of_teacher(checkpoint)

    def changes_of_settings(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """The same of the settings alone."""
        note = checkpoint.get(NOTE_KEY)
        if self._settings is None or not isinstance(note, Mapping):
            return []
        return changes_of_settings(note.get("settings"), self._settings)

    def changes_of_teacher(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """The same of the teacher alone."""
        note = checkpoint.get(NOTE_KEY)
        return changes_of_teacher(note.get("teacher"), self._teacher) if isinstance(note, Mapping) else []

    def remember_shapes(self, student: Outputs, teacher: Outputs) -> None:
        """Keep the shapes of an example's outputs."""
        self._shapes = {"student": student.shapes(), "teacher": teacher.shapes()}

    def check_shapes(self, student: Outputs, teacher: Outputs) -> None:
        """Refuse features whose widths differ from those that the projectors were built for.

        Raises:
            ValueError: They differ.
        """
        if self._shapes is None:
            return
        found = {"student": student.shapes(), "teacher": teacher.shapes()}
        for who, shapes in found.items():
            for name, shape in shapes["features"].items():
                known = self._shapes[who]["features"].get(name)
                if known is not None and _width(known) != _width(shape):
                    raise ValueError(
                        f"the {who}'s {name!r} has {_width(shape)[1]} channels ({shape[1:]} a sample), and had "
                        f"{_width(known)[1]} before ({known[1:]})."
                    )

    def write(self, checkpoint: dict[str, Any], criteria: WeightedCriteria, alone: bool = False) -> None:
        """Add the entry.

        Args:
            checkpoint: To add it to.
            criteria: Of the fit.
            alone: The other processes may not be saving: after an error, one may have failed by itself.
        """
        states = [collect_rng_state()] if alone else collect_rng_states()
        note = {
            "criteria": {name: class_name(criterion) for name, criterion in criteria.criteria().items()},
            "shapes": self._shapes,
            "rng": states[0],
            "rng_of_other_ranks": states[1:],
            "read": list(self._read),
            "settings": self._settings,
            "teacher": self._teacher,
        }
        checkpoint[NOTE_KEY] = as_plain(note)

    def read(self, checkpoint: Mapping[str, Any], criteria: WeightedCriteria) -> None:
        """Read the entry: build what has parameters, so that the weights load strictly.

        Raises:
            ValueError: The checkpoint is not of a distillation, or of one with other criteria.
        """
        note = checkpoint.get(NOTE_KEY)
        if note is None:
            raise ValueError(
                "this checkpoint was not made by lit-distill, so a run cannot go on from it. To use its weights, load "
                "them into the teacher or the student: lit_distill.models.load(model, checkpoint)."
            )
        try:
            self._check_criteria(note["criteria"], criteria)
            if self._shapes is None and note["shapes"] is not None:
                shapes = note["shapes"]
                criteria.build(Outputs.from_shapes(shapes["student"]), Outputs.from_shapes(shapes["teacher"]))
                self._shapes = shapes
            criteria.ownership.load(criteria.parts())
            self._rng = [
                note["rng"],
                *note.get("rng_of_other_ranks", ()),
            ]  # older checkpoints have the first rank's alone
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, MemoryError) as error:
            raise ValueError(
                f"the checkpoint is damaged: what lit-distill has noted in it cannot be read ({type(error).__name__}: {error})."
            ) from error

    def _check_criteria(self, made: Mapping[str, str], criteria: WeightedCriteria) -> None:
        names = {name: class_name(criterion) for name, criterion in criteria.criteria().items()}
        if made != names:
            raise ValueError(
                f"the checkpoint was made with the criteria {_list(made)}, and this run has {_list(names)}; "
                "use the config that it was made with, or load only the student: lit_distill.models.load."
            )

    def restore_rng(self, trainer: Trainer, last: bool) -> None:
        """Put the random states back when a run goes on from a checkpoint: each process's own.

        To be called before Lightning makes the iterator over the training data, which draws: as soon as the checkpoint is
        read, since an optimizer's schedule may ask for the number of batches, and at the start of the fit.

        Args:
            trainer: Of the run.
            last: Whether this is the last time.

        Raises:
            ValueError: They are no random states.
        """
        try:
            if self._rng:
                restore_own_rng_state(self._rng, trainer.global_rank)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
            raise ValueError(
                f"the checkpoint is damaged: its random states cannot be restored ({type(error).__name__}: {error})."
            ) from error
        if self._rng and not last and len(self._rng) != trainer.world_size:
            tell(
                f"the checkpoint holds the random states of {_processes(len(self._rng))}, and this run has "
                f"{_processes(trainer.world_size)}: what is drawn from here on (augmentation, dropout, the order of samples) "
                "is not what a run without a break would have drawn."
            )
        if last:
            self._rng = []

    def forget_rng(self) -> None:
        """Leave the random states as they are from now on."""
        self._rng = []


def _processes(number: int) -> str:
    return f"{number} process{'es' * (number != 1)}"


def _width(shape: Sequence[int]) -> tuple[int, int]:
    """A feature's number of dimensions and of channels: what layers of criteria are sized by."""
    return len(shape), shape[usual_channel_dim(len(shape))]


def _list(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({path.rpartition('.')[2]})" for name, path in names.items())
