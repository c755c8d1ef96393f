"""The LightningModules that users train: one per scheme, on the base ``DistillationModule``.

May import everything but ``cli``, ``doctor`` and ``chain``.
"""

from lit_distill.batch.batch import BatchFormat
from lit_distill.modules.base import DistillationModule
from lit_distill.modules.combined import CombinedDistillation
from lit_distill.modules.feature import FeatureDistillation
from lit_distill.modules.logit import LogitDistillation
from lit_distill.modules.multitask import MultiTaskDistillation
from lit_distill.modules.mutual import MutualDistillation
from lit_distill.modules.self_distillation import SelfDistillation
from lit_distill.modules.supervised import SupervisedModule

__all__ = [
    "BatchFormat",
    "CombinedDistillation",
    "DistillationModule",
    "FeatureDistillation",
    "LogitDistillation",
    "MultiTaskDistillation",
    "MutualDistillation",
    "SelfDistillation",
    "SupervisedModule",
]
