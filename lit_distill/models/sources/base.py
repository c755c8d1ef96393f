"""What every source of networks answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lit_distill.utils.names import first_line


@dataclass(frozen=True)
class Described:
    """What a network says of the images that it takes.

    Attributes:
        size: Height and width; None if it says nothing, as networks for any size do.
        mean: Per channel, of pixels in [0, 1]; None if it says nothing.
        std: Per channel; None if it says nothing.
        where: Where this was read, in words; empty if it says nothing.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    where: str = ""


class Source(ABC):
    """A place that knows networks by name.

    Attributes:
        prefix: What stands before the colon in a name.
        package: The package to install.
    """

    prefix: ClassVar[str] = ""
    package: ClassVar[str] = ""

    @abstractmethod
    def check(self, name: str) -> None:
        """Refuse a name that is not known, with the nearest that is.

        Raises:
            ValueError: It is not, or the package is not installed.
        """

    @abstractmethod
    def make(self, name: str, num_classes: int | None) -> nn.Module:
        """Make a network with random weights, with its own number of classes if None."""

    @abstractmethod
    def pretrained(self, name: str, num_classes: int | None, tag: str | None) -> nn.Module:
        """Make a network with pretrained weights: the usual ones, or those of a ``tag``.

        With another number of classes than the weights have, the classifier is new.

        Raises:
            ValueError: There are no such weights, or they cannot be had.
        """

    @abstractmethod
    def describe(self, name: str, network: nn.Module) -> Described:
        """Return what a network says of its images."""

    def suggestions(self, name: str) -> Sequence[str]:
        """Return whole names that a name without a source may stand for."""
        return ()

    def absent(self) -> ValueError:
        """Return the error for a package that is not installed."""
        return ValueError(f"names of {self.prefix}: need a package: pip install {self.package}")

    def unreachable(self, name: str, error: BaseException) -> ValueError:
        """Return the error for weights that cannot be fetched, with what to do."""
        whole = f"{self.prefix}:{name}"
        offline = type(error).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
        why = "there is no network, and no copy here" if offline else first_line(error).rstrip(".")
        return ValueError(
            f"the pretrained weights of {whole} cannot be had: {why}. Where there is no network, "
            f"fetch the file elsewhere and write {whole}@FILE; {whole}@random starts from random weights."
        )


def pair(size: object) -> tuple[int, int] | None:
    """Return a height and a width from one number, a sequence of one or two, or None."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and size and all(isinstance(side, int) for side in size):
        return int(size[0]), int(size[-1])
    return None


def numbers(values: object) -> tuple[float, ...] | None:
    """Return a list of numbers as a tuple; None if it is none."""
    if isinstance(values, (list, tuple)) and values and all(isinstance(value, (int, float)) for value in values):
        return tuple(float(value) for value in values)
    return None
