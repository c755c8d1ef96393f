"""Models that the configs and tests need, and the loading of any other."""

from lit_distill.models.cifar_resnet import (
    CifarResNet,
    resnet8,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)
from lit_distill.models.loading import build, load
from lit_distill.models.small import MLP, SmallCNN

__all__ = [
    "MLP",
    "CifarResNet",
    "SmallCNN",
    "build",
    "load",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
]
