"""Chooses the numbers of a training that nobody has given."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lit_distill.by_name.networks import Network
from lit_distill.by_name.request import Request, Training
from lit_distill.data.folder_facts import FolderFacts

_LARGEST_BATCH, _LEAST_BATCH = 64, 8
_EPOCHS, _MOST_EPOCHS = 30, 100
_STEPS = 1000  # that random weights are trained at least, within the most epochs
_HEAD_STEPS, _HEAD_EPOCHS, _MOST_HEAD_EPOCHS = 300, 5, 30
_HEAD_RATE, _RANDOM_RATE, _FINE_RATE = 3e-3, 1e-3, 3e-4


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast a network is trained."""

    epochs: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """The numbers of all trainings.

    Attributes:
        batch_size: Of all.
        student: With a teacher and without.
        teacher: Of the teacher; None if it is not trained.
    """

    batch_size: int
    student: TrainingSettings
    teacher: TrainingSettings | None

    def steps(self, facts: FolderFacts) -> int:
        """Return the steps of an epoch."""
        return math.ceil(facts.counts["train"] / self.batch_size)


def choose_recipe(
    request: Request, student: Network, teacher: Network, training: Training, facts: FolderFacts
) -> Recipe:
    """Choose what is not given."""
    size = request.batch_size or _batch_size(facts.counts["train"])
    steps = math.ceil(facts.counts["train"] / size)
    of_student = _whole(student, steps, request.epochs)
    if training == "none":
        return Recipe(size, of_student, None)
    if training == "all":
        return Recipe(size, of_student, _whole(teacher, steps, request.teacher_epochs or request.epochs))
    epochs = request.teacher_epochs or min(max(math.ceil(_HEAD_STEPS / steps), _HEAD_EPOCHS), _MOST_HEAD_EPOCHS)
    return Recipe(size, of_student, TrainingSettings(epochs, _HEAD_RATE))


def _whole(network: Network, steps: int, epochs: int | None) -> TrainingSettings:
    random = network.name.start in ("random", "own")
    needed = min(max(math.ceil(_STEPS / steps), _EPOCHS), _MOST_EPOCHS) if random else _EPOCHS
    return TrainingSettings(epochs or needed, _RANDOM_RATE if random else _FINE_RATE)


def _batch_size(images: int) -> int:
    """Return a batch size of which an epoch of so many images leaves no single image: BatchNorm cannot train on one."""
    wanted = min(_LARGEST_BATCH, max(_LEAST_BATCH, 2 ** round(math.log2(max(images / 10, 1)))))
    return next((size for size in range(wanted, 1, -1) if images % size != 1), wanted)
