"""Models that the configs and tests need, and the loading of any other.

May import ``recording``, ``criteria`` and everything below them.
"""

from lit_distill.models.adapt import Adapted, adapt
from lit_distill.models.cifar_resnet import CifarResNet, resnet8, resnet20, resnet32, resnet44, resnet56, resnet110
from lit_distill.models.ensemble import Ensemble
from lit_distill.models.inherit import inherit
from lit_distill.models.loading import build, create_model, load
from lit_distill.models.named import named_model
from lit_distill.models.peers import Peers
from lit_distill.models.small import MLP, MultiHeadCNN, SmallCNN

__all__ = [
    "MLP",
    "Adapted",
    "CifarResNet",
    "Ensemble",
    "MultiHeadCNN",
    "Peers",
    "SmallCNN",
    "adapt",
    "build",
    "create_model",
    "inherit",
    "load",
    "named_model",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
]
