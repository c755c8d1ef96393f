"""lit-distill: knowledge distillation as PyTorch Lightning modules."""

from typing import TYPE_CHECKING, Any

from lit_distill import functional
from lit_distill.balance import Balance, GradientNorm, Uncertainty
from lit_distill.callbacks import Distill, Unfreeze, strip
from lit_distill.capture.capture import Capture
from lit_distill.criteria import (
    AttentionTransfer,
    Criterion,
    EnsembleTarget,
    FeatureCriterion,
    HardTarget,
    Hint,
    Mutual,
    OnHead,
    OwnTeacher,
    SoftTarget,
    TeacherFree,
)
from lit_distill.criteria.projectors import Projector
from lit_distill.engine.charts import plot_terms
from lit_distill.export import export  # the function: the package of this name is imported by its path
from lit_distill.models import Ensemble, adapt, build, create_model, inherit, load, named_model
from lit_distill.modules import (
    BatchFormat,
    CombinedDistillation,
    DistillationModule,
    FeatureDistillation,
    LogitDistillation,
    MultiTaskDistillation,
    MutualDistillation,
    SelfDistillation,
    SupervisedModule,
)
from lit_distill.outputs import Outputs
from lit_distill.teachers import (
    EMATeacher,
    FrozenTeacher,
    FunctionNetwork,
    FunctionTeacher,
    JointTeacher,
    OnnxNetwork,
    RecordedTeacher,
    Teacher,
    TeacherRuntime,
)
from lit_distill.utils.moved import keep_old_paths

if TYPE_CHECKING:
    from lit_distill.by_name import fit
    from lit_distill.reporting import report

keep_old_paths()

__version__ = "0.1.0"

__all__ = [
    "AttentionTransfer",
    "Balance",
    "BatchFormat",
    "Capture",
    "CombinedDistillation",
    "Criterion",
    "Distill",
    "DistillationModule",
    "EMATeacher",
    "Ensemble",
    "EnsembleTarget",
    "FeatureCriterion",
    "FeatureDistillation",
    "FrozenTeacher",
    "FunctionNetwork",
    "FunctionTeacher",
    "GradientNorm",
    "HardTarget",
    "Hint",
    "JointTeacher",
    "LogitDistillation",
    "MultiTaskDistillation",
    "Mutual",
    "MutualDistillation",
    "OnHead",
    "OnnxNetwork",
    "Outputs",
    "OwnTeacher",
    "Projector",
    "RecordedTeacher",
    "SelfDistillation",
    "SoftTarget",
    "SupervisedModule",
    "Teacher",
    "TeacherFree",
    "TeacherRuntime",
    "Uncertainty",
    "Unfreeze",
    "adapt",
    "build",
    "create_model",
    "export",
    "fit",
    "functional",
    "inherit",
    "load",
    "named_model",
    "plot_terms",
    "report",
    "strip",
]


def __getattr__(name: str) -> Any:
    if name == "fit":  # imported when it is asked for: it needs the command line's parsers
        from lit_distill.by_name import fit

        return fit
    if name == "report":
        from lit_distill.reporting import report

        return report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
