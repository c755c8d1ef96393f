"""A network that first converts another network's images to those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.criteria.base import at_least_float32
from lit_distill.utils.arguments import check_network, check_numbers, check_whole

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision turn colour to grey


def adapt(
    model: nn.Module,
    size: int | tuple[int, int] | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    student_mean: list[float] | None = None,
    student_std: list[float] | None = None,
    channels: int | None = None,
) -> nn.Module:
    """Return a network that takes the student's images and passes the model what it was trained on.

    In this order: the student's normalisation is undone, grey becomes colour or colour grey, the image is resized
    (bilinear, antialiased) and then normalised for the model. What is not given is left out. The model's layers
    are called ``model.…`` from then on: ``model.layer3``.

    Args:
        model: The network, most likely a teacher; it stays as it is.
        size: Height and width of the model's images; one number for both.
        mean: The mean to subtract for the model, per channel, from pixels in the range that the data set gives before its
            own normalisation (usually [0, 1]).
        std: The standard deviation to divide by for the model.
        student_mean: The mean that the data set has subtracted.
        student_std: The standard deviation that it has divided by.
        channels: The model's channels: 3 from grey images repeats them, 1 from colour is their luminance.

    Raises:
        ValueError: Nothing is to be done, one of a mean and a standard deviation is missing, or a value is out of range.

    Example:
        >>> teacher = adapt(nn.Conv2d(3, 2, 3), size=8, channels=3)  # grey 4x4 images become 8x8 in colour
        >>> teacher(torch.zeros(1, 1, 4, 4)).shape
        torch.Size([1, 2, 6, 6])
    """
    return Adapted(model, size, mean, std, student_mean, student_std, channels)


class Adapted(nn.Module):
    """A network with a conversion of images before it; ``adapt`` makes it and describes its arguments.

    Attributes:
        model: The network itself.
    """

    mean: Tensor | None
    std: Tensor | None
    student_mean: Tensor | None
    student_std: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        size: int | tuple[int, int] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        student_mean: list[float] | None = None,
        student_std: list[float] | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if all(option is None for option in (size, mean, std, student_mean, student_std, channels)):
            raise ValueError(
                "adapt has nothing to do: give a size, a mean and std, a student_mean and student_std, or channels."
            )
        check_network("model", model)
        self.model = model
        self.size = _check_size(size)
        channels = None if channels is None else check_whole("channels", channels)
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, not {channels}.")
        self.channels = channels
        _check_normalisation("", mean, std)
        _check_normalisation("student_", student_mean, student_std)
        for name, values in {
            "mean": mean,
            "std": std,
            "student_mean": student_mean,
            "student_std": student_std,
        }.items():
            # Buffers: they follow the device, and distinguish recorded teachers.
            self.register_buffer(
                name, None if values is None else torch.tensor(check_numbers(name, values)).view(-1, 1, 1)
            )

    def forward(self, images: Tensor) -> Any:
        """Return the model's output for the student's images ``[B, C, H, W]``."""
        given, wanted = (self.student_mean, self.student_std), (self.mean, self.std)
        return self.model(adapt_images(images, given, wanted, self.channels, self.size))

    def extra_repr(self) -> str:
        return f"size={self.size}, channels={self.channels}"


def adapt_images(
    images: Tensor,
    given: tuple[Tensor | None, Tensor | None] = (None, None),
    wanted: tuple[Tensor | None, Tensor | None] = (None, None),
    channels: int | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Convert images ``[B, C, H, W]``, normalised by a given mean and std ``[C, 1, 1]``, to those that a network wants.

    Raises:
        ValueError: They are no such images, or have neither 1 nor 3 channels, which are to change.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"adapt takes floating-point images [B, C, H, W], and was given {images.dtype} {list(images.shape)}."
        )
    for name, value in (("student_mean", given[0]), ("mean", wanted[0])):
        after = channels if name == "mean" and channels is not None else images.shape[1]
        if value is not None and value.shape[0] not in (1, after):
            raise ValueError(f"{name} has {value.shape[0]} channels, and the images have {after} there.")
    pixels = at_least_float32(images)  # PyTorch resizes no bfloat16 on the CPU, and pixels need the digits
    if given[0] is not None and given[1] is not None:
        pixels = pixels * given[1] + given[0]
    if channels is not None and pixels.shape[1] != channels:
        pixels = _to_channels(pixels, channels)
    if size is not None and tuple(pixels.shape[2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    if wanted[0] is not None and wanted[1] is not None:
        pixels = (pixels - wanted[0]) / wanted[1]
    return pixels.to(images.dtype)


torch.fx.wrap("adapt_images")  # one node in a traced graph: what it does depends on the images' shape


def _to_channels(pixels: Tensor, channels: int) -> Tensor:
    if pixels.shape[1] == 1:
        return pixels.expand(-1, channels, -1, -1)
    if pixels.shape[1] == 3:
        return (pixels * pixels.new_tensor(_LUMA).view(-1, 1, 1)).sum(1, keepdim=True)
    raise ValueError(f"images of {pixels.shape[1]} channels cannot be brought to {channels}; only 1 and 3 can.")


def _check_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = size if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be one number, or a height and a width, not {size}.")
    return check_whole("size", sides[0], least=1), check_whole("size", sides[1], least=1)


def _check_normalisation(owner: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if (mean is None) != (std is None):
        raise ValueError(f"{owner}mean and {owner}std belong together; give both.")
    if mean is None or std is None:
        return
    check_numbers(f"{owner}mean", mean)
    check_numbers(f"{owner}std", std, above=0)
    if len(mean) != len(std) or not mean:
        raise ValueError(f"{owner}mean has {len(mean)} channels and {owner}std {len(std)}; give as many to both.")
