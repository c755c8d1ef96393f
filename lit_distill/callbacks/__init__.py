"""Callbacks: those that users add to a Trainer, and those that every distillation adds itself.

May import everything but ``modules``, ``cli``, ``doctor`` and ``chain``.
"""

from lit_distill.callbacks.distill.callback import Distill
from lit_distill.callbacks.distill.strip import strip, strip_file
from lit_distill.callbacks.freeze_quantisation import FreezeQuantisation
from lit_distill.callbacks.gradual_pruning import GradualPruning
from lit_distill.callbacks.seed_fit import SeedFit
from lit_distill.callbacks.throughput import Throughput, is_logging_step
from lit_distill.callbacks.train_only import TrainOnly
from lit_distill.callbacks.unfreeze import Unfreeze

__all__ = [
    "Distill",
    "FreezeQuantisation",
    "GradualPruning",
    "SeedFit",
    "Throughput",
    "TrainOnly",
    "Unfreeze",
    "is_logging_step",
    "strip",
    "strip_file",
]
