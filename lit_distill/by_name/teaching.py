"""Finds out what of the teacher is to be trained first: nothing, its head, or all of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lit_distill.by_name.measuring import device_here
from lit_distill.by_name.networks import Network, Pixels, adapted
from lit_distill.by_name.request import Training
from lit_distill.data import ImageFolder
from lit_distill.data.folder_facts import FolderFacts
from lit_distill.models.heads import logits_of
from lit_distill.utils.restoring import as_in_evaluation

_LOOKED_AT = 256  # images at most
_DEVIATIONS = 3.0  # above chance, from which on a teacher knows the folder's classes


@dataclass(frozen=True)
class Decision:
    """What of the teacher is trained, and why, in words."""

    training: Training
    why: str


def decide(
    teacher: Network, network: nn.Module, facts: FolderFacts, pixels: Pixels, asked: Training | None
) -> Decision:
    """Decide what of the teacher is trained first.

    Args:
        teacher: What was read of it.
        network: The teacher itself.
        facts: The folder.
        pixels: The images that it will be given.
        asked: What the user wants; found out if None.

    Raises:
        ValueError: The user wants it untrained, and it has other classes than the folder.
    """
    classes = len(facts.classes)
    same = teacher.classes == classes
    if asked == "none" and not same:
        own = teacher.classes or "no"
        raise ValueError(
            f"teacher_training=none: {teacher.name.text} has {own} classes, and the folder {classes}: its head has to be "
            "trained. Leave teacher_training out."
        )
    if asked == "head" and not teacher.head:
        raise ValueError(f"teacher_training=head: the classifier of {teacher.name.text} is not found; train all of it.")
    if asked is not None:
        return Decision(asked, "as asked for")
    if teacher.name.start == "random":
        return Decision("all", "it starts from random weights")
    if same:
        right, count = _right_answers(adapted(network, teacher, pixels), facts, pixels)
        if _knows(right, count, classes):
            return Decision(
                "none", f"its {classes} classes are the folder's: {right} of {count} images are told rightly"
            )
        reason = f"it has as many classes as the folder, but tells {right} of {count} images rightly"
    else:
        has = f"it tells apart {teacher.classes} classes" if teacher.classes else "it has no classifier of its own"
        reason = f"{has}, and the folder has {classes}"
    return Decision("all" if teacher.name.start == "own" or not teacher.head else "head", reason)


def _knows(right: int, count: int, classes: int) -> bool:
    """Return True if so many right answers are no chance."""
    chance = 1 / classes
    return right > count * chance + _DEVIATIONS * math.sqrt(count * chance * (1 - chance))


def _right_answers(network: nn.Module, facts: FolderFacts, pixels: Pixels) -> tuple[int, int]:
    """Return how many of some training and validation images a network tells rightly, and their number."""
    size = None if facts.size == pixels.size else pixels.size[0]
    data = ImageFolder(str(facts.root), image_size=size, mean=pixels.mean, std=pixels.std, num_workers=0)  # type: ignore[arg-type]
    data.setup("fit")
    assert data.train_data is not None
    assert data.val_data is not None
    everything: ConcatDataset[tuple[torch.Tensor, int]] = ConcatDataset([data.train_data, data.val_data])
    step = max(1, len(everything) // _LOOKED_AT)
    chosen = Subset(everything, range(0, step * min(_LOOKED_AT, len(everything)), step))
    right, device = 0, device_here()
    network.to(device)
    with torch.no_grad(), as_in_evaluation(network):
        for images, labels in DataLoader(chosen, batch_size=32):
            right += int((logits_of(network, images.to(device)).argmax(1).cpu() == labels).sum())
    return right, len(chosen)
