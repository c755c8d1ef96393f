"""Small networks for small images, such as handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lit_distill.utils.arguments import check_named, check_numbers, check_size


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with BatchNorm, average pooling and a linear classifier.

    Args:
        width: Channels of the first stage; the second and third have twice as many.
        num_classes: Number of classes.
        in_channels: Channels of the images.
    """

    def __init__(self, width: int = 32, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        width, in_channels = check_size("width", width), check_size("in_channels", in_channels)
        num_classes = check_size("num_classes", num_classes)
        self.stage1 = _conv(in_channels, width)
        self.stage2 = _conv(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.stage3 = _conv(2 * width, 2 * width)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for images ``[B, in_channels, H, W]``."""
        x = self.stage3(self.pool(self.stage2(self.stage1(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class MultiHeadCNN(nn.Module):
    """The layers of ``SmallCNN`` up to the pooling, and one linear head per task.

    Args:
        heads: Number of classes by task; a task's head is the layer ``heads.<task>``.
        width: Channels of the first stage; the second and third have twice as many.
        in_channels: Channels of the images.
    """

    def __init__(self, heads: dict[str, int], width: int = 32, in_channels: int = 1) -> None:
        super().__init__()
        check_named("heads", heads, "{'kind': 10, 'colour': 3}")
        heads = {task: check_size(f"heads[{task!r}]", classes) for task, classes in heads.items()}
        width, in_channels = check_size("width", width), check_size("in_channels", in_channels)
        self.stage1 = _conv(in_channels, width)
        self.stage2 = _conv(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.stage3 = _conv(2 * width, 2 * width)
        self.heads = nn.ModuleDict({task: nn.Linear(2 * width, classes) for task, classes in heads.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return logits ``[B, classes]`` by task for images ``[B, in_channels, H, W]``."""
        pooled = self.stage3(self.pool(self.stage2(self.stage1(x)))).mean((2, 3))
        return {task: head(pooled) for task, head in self.heads.items()}


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class MLP(nn.Module):
    """A perceptron on flattened inputs.

    Args:
        in_features: Values in a flattened input; 64 for the digits.
        hidden: Widths of the hidden layers.
        num_classes: Number of classes.
    """

    def __init__(self, in_features: int = 64, hidden: Sequence[int] = (16,), num_classes: int = 10) -> None:
        super().__init__()
        widths = [check_size("in_features", in_features), *map(int, check_numbers("hidden", hidden, least=1))]
        num_classes = check_size("num_classes", num_classes)
        self.hidden = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for inputs ``[B, …]``."""
        logits: Tensor = self.classifier(self.hidden(x.flatten(1)))
        return logits
