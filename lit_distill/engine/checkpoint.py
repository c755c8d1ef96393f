"""The library's entry in a checkpoint: the criteria's names, the features' shapes, the random states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from lit_distill.batch.layout import usual_channel_dim
from lit_distill.engine.auto_weights import AutoWeights
from lit_distill.engine.found_layers import FoundLayers
from lit_distill.engine.found_standardization import adopt_standardization, describe_standardization
from lit_distill.engine.named_criteria import AUTO
from lit_distill.engine.settings_record import (
    changes_of_settings,
    changes_of_teacher,
    class_name,
    describe_settings,
    describe_teacher,
)
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.teachers import Teacher
from lit_distill.utils.notices import warn
from lit_distill.utils.plain import as_plain
from lit_distill.utils.rng import collect_rng_state, collect_rng_states, restore_own_rng_state

ENTRY_KEY = "lit_distill"


class CheckpointEntry:
    """The library's own entry in a Lightning checkpoint, of plain types.

    The shapes allow projectors to be rebuilt without data; the random states make a resumed run equal to an uninterrupted
    one; the settings and the teacher's digest let a run warn of differences.
    """

    def __init__(self) -> None:
        self.task: str | None = None
        self._settings: dict[str, Any] | None = None
        self._teacher: dict[str, Any] | None = None
        self._shapes: dict[str, Any] | None = None
        self._rng: list[dict[str, Any]] = []  # by rank
        self._read: list[str] = []
        self.found = FoundLayers()

    def record_reading(self, lines: Sequence[str]) -> None:
        """Record what is read of a batch, for people who open the checkpoint."""
        self._read = list(lines)

    def record_settings(self, criteria: WeightedCriteria, teacher: Teacher | None) -> None:
        """Record the settings and the teacher of this run, before its first batch."""
        self._settings = describe_settings(criteria, self.task)
        self._teacher = describe_teacher(teacher)

    def changes(self, checkpoint: Mapping[str, Any], settings: bool = True) -> list[str]:
        """Return a line for each difference in ``settings`` and teacher between this run and the one of a checkpoint."""
        entry = checkpoint.get(ENTRY_KEY)
        if not isinstance(entry, Mapping):
            return []
        lines = changes_of_settings(entry.get("settings"), self._settings) if settings else []
        return lines + changes_of_teacher(entry.get("teacher"), self._teacher)

    def record_shapes(self, student: Outputs, teacher: Outputs) -> None:
        """Record the shapes of an example's outputs."""
        self._shapes = {"student": student.shapes(), "teacher": teacher.shapes()}

    def check_shapes(self, student: Outputs, teacher: Outputs) -> None:
        """Refuse features whose number of channels differs from what the projectors were built for."""
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

    def write(self, checkpoint: dict[str, Any], criteria: WeightedCriteria, this_rank_only: bool = False) -> None:
        """Add the entry to a checkpoint; with ``this_rank_only``, no other process is saving, as after an error in this one."""
        states = [collect_rng_state()] if this_rank_only else collect_rng_states()
        entry = {
            "criteria": {name: class_name(criterion) for name, criterion in criteria.criteria().items()},
            "layers": self.found.describe(criteria),
            "standardized": describe_standardization(criteria),
            "shapes": self._shapes,
            "rng": states[0],
            "rng_of_other_ranks": states[1:],
            "read": list(self._read),
            "settings": self._settings,
            "teacher": self._teacher,
        }
        checkpoint[ENTRY_KEY] = as_plain(entry)

    def read(self, checkpoint: Mapping[str, Any], criteria: WeightedCriteria) -> bool:
        """Read the entry of a checkpoint, and build the criteria's layers, so that the weights load strictly.

        Return True if criteria read other layers of the networks than before.

        Raises:
            ValueError: The checkpoint is not of a distillation, is of one with other criteria, or is damaged.
        """
        entry = checkpoint.get(ENTRY_KEY)
        if entry is None:
            raise ValueError(
                "this checkpoint was not made by lit-distill, so a run cannot continue from it. To use its weights, load "
                "them into the teacher or the student: lit_distill.models.load(model, checkpoint)."
            )
        try:
            self._check_criteria(entry["criteria"], criteria)
            shapes = entry["shapes"]
            changed = self.found.adopt(entry.get("layers"), shapes, criteria)  # older checkpoints have no such entry
            if changed and self._shapes is not None:
                self._shapes, self._settings = shapes, describe_settings(criteria, self.task)
            if self._shapes is None and shapes is not None:
                criteria.build(Outputs.from_shapes(shapes["student"]), Outputs.from_shapes(shapes["teacher"]))
                self._shapes = shapes
            if adopt_standardization(entry, criteria) and self._settings is not None:
                self._settings = describe_settings(criteria, self.task)
            criteria.reuse_guard.record_loaded(criteria.parts())
            self._expect_found(entry.get("settings"), criteria)
            self._rng = [entry["rng"], *entry.get("rng_of_other_ranks", ())]  # older checkpoints: only the first rank's
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, MemoryError) as error:
            raise ValueError(
                f"the checkpoint is damaged: its entry of lit-distill cannot be read ({type(error).__name__}: {error})."
            ) from error
        return changed

    def _expect_found(self, settings: Any, criteria: WeightedCriteria) -> None:
        """Have weights found anew if those in the checkpoint are of other criteria."""
        if isinstance(criteria.balance, AutoWeights) and settings is not None:
            found = [name for name in settings["criteria"] if settings["weights"].get(name) == AUTO]
            criteria.balance.expect(
                found == [name for name, weight in criteria.given_weights.items() if weight == AUTO]
            )

    def _check_criteria(self, made: Mapping[str, str], criteria: WeightedCriteria) -> None:
        names = {name: class_name(criterion) for name, criterion in criteria.criteria().items()}
        if made != names:
            raise ValueError(
                f"the checkpoint was made with the criteria {_list(made)}, and this run has {_list(names)}; "
                "use the config that it was made with, or load only the student: lit_distill.models.load."
            )

    def restore_rng(self, trainer: Trainer, last: bool) -> None:
        """Restore the random state of this process, for a run that continues from a checkpoint.

        Called before Lightning makes the iterator over the training data, which draws: when the checkpoint is read, since a
        scheduler may ask for the number of batches, and at the start of the fit, the ``last`` time.
        """
        try:
            if self._rng:
                restore_own_rng_state(self._rng, trainer.global_rank)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
            raise ValueError(
                f"the checkpoint is damaged: its random states cannot be restored ({type(error).__name__}: {error})."
            ) from error
        if self._rng and not last and len(self._rng) != trainer.world_size:
            warn(
                f"the checkpoint holds the random states of {_processes(len(self._rng))}, and this run has "
                f"{_processes(trainer.world_size)}: what is drawn from here on (augmentation, dropout, the order of samples) "
                "is not what a run without a break would have drawn."
            )
        if last:
            self._rng = []

    def forget_rng(self) -> None:
        """Drop the checkpoint's random states."""
        self._rng = []


def _processes(number: int) -> str:
    return f"{number} process{'es' * (number != 1)}"


def _width(shape: Sequence[int]) -> tuple[int, int]:
    """Return a feature's number of dimensions and of channels: layers of criteria are sized by these."""
    return len(shape), shape[usual_channel_dim(len(shape))]


def _list(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({path.rpartition('.')[2]})" for name, path in names.items())
