"""lit-distill: knowledge distillation as PyTorch Lightning modules."""

from lit_distill.capture import Capture
from lit_distill.criteria import AttentionTransfer, Criterion, FeatureCriterion, HardTarget, Hint, SoftTarget
from lit_distill.models import build, load
from lit_distill.modules import (
    BatchFormat,
    CombinedDistillation,
    DistillationModule,
    FeatureDistillation,
    LogitDistillation,
    SupervisedModule,
)
from lit_distill.outputs import Outputs
from lit_distill.projectors import Projector
from lit_distill.teachers import FrozenTeacher, JointTeacher, RecordedTeacher, Teacher, TeacherRuntime

__version__ = "0.1.0"

__all__ = [
    "AttentionTransfer",
    "BatchFormat",
    "Capture",
    "CombinedDistillation",
    "Criterion",
    "DistillationModule",
    "FeatureCriterion",
    "FeatureDistillation",
    "FrozenTeacher",
    "HardTarget",
    "Hint",
    "JointTeacher",
    "LogitDistillation",
    "Outputs",
    "Projector",
    "RecordedTeacher",
    "SoftTarget",
    "SupervisedModule",
    "Teacher",
    "TeacherRuntime",
    "build",
    "load",
]
