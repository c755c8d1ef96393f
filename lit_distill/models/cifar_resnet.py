"""The CIFAR ResNets of He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.utils.arguments import check_size

_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A of the paper, section 3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, outputs, H / stride, W / stride]`` for ``[B, inputs, H, W]``."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        shortcut = x
        if self.stride > 1 or self.padding:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(residual + shortcut)


class CifarResNet(nn.Module):
    """A ResNet for 32x32 images: three stages of ``blocks`` blocks, 16, 32 and 64 channels wide.

    Its parameter names are those of the widely shared CIFAR-10 weights (``conv1``, ``bn1``,
    ``layer1.0.conv1``, …, ``linear``), which load strictly.

    Args:
        blocks: Number of blocks per stage; the depth is ``6 * blocks + 2``.
        num_classes: Number of classes.
        in_channels: Of the images; 1 for grey ones.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks, num_classes = check_size("blocks", blocks), check_size("num_classes", num_classes)
        self.conv1 = nn.Conv2d(check_size("in_channels", in_channels), _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], blocks, 1)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks, 2)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks, 2)
        self.linear = nn.Linear(_WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for images ``[B, in_channels, H, W]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def resnet8(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-8: 0.08 M parameters."""
    return CifarResNet(1, num_classes, in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: 0.27 M parameters."""
    return CifarResNet(3, num_classes, in_channels)


def resnet32(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-32: 0.46 M parameters."""
    return CifarResNet(5, num_classes, in_channels)


def resnet44(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-44: 0.66 M parameters."""
    return CifarResNet(7, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: 0.85 M parameters."""
    return CifarResNet(9, num_classes, in_channels)


def resnet110(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-110: 1.7 M parameters."""
    return CifarResNet(18, num_classes, in_channels)
