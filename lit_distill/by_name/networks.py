"""What a named network takes and tells apart, and how a config makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lit_distill.data.folder_facts import FolderFacts, Size
from lit_distill.models import adapt, load
from lit_distill.models.heads import SIZES, classifier_path, first_fitting, why_refused
from lit_distill.models.named import ModelName, read_name
from lit_distill.models.sources import Described

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STARTS = {
    "pretrained": "pretrained weights",
    "random": "random weights",
    "own": "the weights that it is made with",
    "file": "weights of {file}",
}


@dataclass(frozen=True)
class Network:
    """A named network, looked at.

    Attributes:
        name: Its name.
        described: What it says of its images.
        size: Height and width of its images.
        classes: How many it tells apart, as it is named; 0 if it has no classifier of its own.
        head: The path of its classifier once it has the folder's classes; empty if it is not found.
    """

    name: ModelName
    described: Described
    size: Size
    classes: int
    head: str

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean that its images are normalised by."""
        return self.described.mean or IMAGENET[0]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation that its images are normalised by."""
        return self.described.std or IMAGENET[1]

    def words(self) -> str:
        """Return what was read of it as a line."""
        start = _STARTS[self.name.start].format(file=self.name.file)
        where = f" ({self.described.where})" if self.described.where else ""
        mean = "normalised by the mean " + " ".join(f"{value:.3g}" for value in self.mean)
        said = mean if self.described.mean else f"{mean} of ImageNet, as it says none"
        classes = f"{self.classes} classes" if self.classes else "no classifier of its own"
        height, width = self.size
        return f"{self.name.text}: {start}, {classes}, images of {width}x{height} {said}{where}"


def look_at(owner: str, text: str, facts: FolderFacts, wanted: int | None) -> tuple[Network, nn.Module]:
    """Make a network, and find out what it takes and tells apart; return it with its own classes.

    Args:
        owner: ``teacher`` or ``student``.
        text: Its name.
        facts: The folder, for a network that says no size.
        wanted: A size to prefer.

    Raises:
        ValueError: The name is unknown, or the network is no classifier of images, takes no size, or cannot be given the
            folder's classes.
        FileNotFoundError: Its checkpoint is not there.
    """
    name = read_name(owner, text)
    try:
        network = name.make(None)
        described = name.describe(network)
        size, classes = first_fitting(network, _sizes(described, facts, wanted))
        if size is None:
            why = why_refused(network, described.size or (SIZES[0], SIZES[0]))
            raise ValueError(
                f"{text} takes no images of 3 channels, of any size tried from {min(SIZES)} to {max(SIZES)}: {why}"
            )
        classes = 0 if getattr(network, "num_classes", None) == 0 else classes  # timm's backbones put out features
        head = _head(name, network, size, classes, len(facts.classes))
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{owner}: {error}") from error
    return Network(name, described, size, classes, head), network


def _sizes(described: Described, facts: FolderFacts, wanted: int | None) -> Sequence[Size]:
    first = [(wanted, wanted)] if wanted is not None else []
    said = [described.size] if described.size is not None else []
    if not said and facts.size is not None and facts.size[0] == facts.size[1]:
        said = [facts.size]
    return [*first, *said, *((one, one) for one in SIZES)]


def _head(name: ModelName, network: nn.Module, size: Size, classes: int, wanted: int) -> str:
    """Return the path of a network's classifier once it has the wanted classes; make it with them if it has others."""
    whole = network if classes == wanted else name.make(wanted)
    _, given = first_fitting(whole, [size])
    if given != wanted:
        raise ValueError(f"{name.text} tells apart {given} classes even when it is to have the folder's {wanted}.")
    try:
        return classifier_path(whole, size)
    except ValueError:
        return ""


@dataclass(frozen=True)
class Pixels:
    """The images that a fit reads: those of the network with the larger ones, normalised for the student."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def adaptation(self, network: Network) -> dict[str, Any]:
        """Return the options of ``adapt`` that turn these images into a network's; empty if they are its own."""
        found: dict[str, Any] = {}
        if network.size != self.size:
            found["size"] = list(network.size) if network.size[0] != network.size[1] else network.size[0]
        if (network.mean, network.std) != (self.mean, self.std):
            found |= {"mean": list(network.mean), "std": list(network.std)}
            found |= {"student_mean": list(self.mean), "student_std": list(self.std)}
        return found


def shared_pixels(student: Network, teacher: Network) -> Pixels:
    """Return the images that both networks are given."""
    larger = max(student.size, teacher.size, key=lambda size: size[0] * size[1])
    side = max(larger)
    return Pixels((side, side), student.mean, student.std)


def as_config(network: Network, pixels: Pixels, classes: int, checkpoint: str | None = None, bare: bool = False) -> Any:
    """Return the part of a config that makes a network.

    Args:
        network: The network.
        pixels: The images that it is given.
        classes: Its number of classes.
        checkpoint: Fills it with these weights instead of those of its name.
        bare: With no weights of its own, for a checkpoint that is loaded later.
    """
    text = network.name.architecture if checkpoint is not None or bare else network.name.text
    made: Any = {"class_path": "named_model", "init_args": {"name": text, "num_classes": classes}}
    if checkpoint is not None:
        made = {"class_path": "load", "init_args": {"model": made, "checkpoint": checkpoint}}
    options = pixels.adaptation(network)
    return {"class_path": "adapt", "init_args": {"model": made, **options}} if options else made


def filled(network: Network, classes: int, checkpoint: Path | None) -> nn.Module:
    """Make a network, without an adaptation: with a checkpoint's weights, or those of its name if None."""
    if checkpoint is None:
        return network.name.make(classes)
    return load(replace(network.name, start="random", file=None, tag=None).make(classes), checkpoint)


def adapted(model: nn.Module, network: Network, pixels: Pixels) -> nn.Module:
    """Put a network's adaptation before it, if it needs one."""
    options = pixels.adaptation(network)
    return adapt(model, **options) if options else model
