"""Mistakes as people make them: each criterion, teacher, network or module here has one."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill import Criterion, DistillationModule, FeatureCriterion, Outputs
from lit_distill.batch.batch import Inputs
from lit_distill.teachers import Teacher
from tests.doctor.setups import Net


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, dim: int = -1) -> Tensor:
    """``KL(p_t || p_s)`` summed over classes, mean over the batch, with T²."""
    log_s, log_t = F.log_softmax(student / temperature, dim), F.log_softmax(teacher / temperature, dim)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum() / len(student)


class OnLogits(Criterion):
    """What the mistaken criteria on logits share; right as it is."""

    compares_logits = True

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return self.compare(student.logits.float(), teacher.logits.float(), target)

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student, teacher, self.temperature)


class OnFeatures(FeatureCriterion):
    """What the mistaken criteria on features share; right as it is."""

    def __init__(self, project: bool = True) -> None:
        super().__init__("stage", "stage", project=project)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        (s, t), *_ = self.pair_features(student, teacher)
        return self.compare(s, t)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student, teacher)


# Signs and minima --------------------------------------------------------------------------------


class NegativeKL(OnLogits):
    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        log_s, log_t = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
        return (log_t.exp() * (log_s - log_t)).sum(-1).mean()


class AddedLikeness(FeatureCriterion):
    """Adds the correlation of the channels beside a KL, in place of one minus it (as torchdistill's DIST+)."""

    def __init__(self) -> None:
        super().__init__("stage", "stage")

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        (s, t), *_ = self.pair_features(student, teacher)
        s, t = (F.normalize(f @ f.T, dim=1) for f in (s, t))
        return kl(student.logits, teacher.logits) + F.cosine_similarity(s, t, dim=1).mean()


class ProbabilitiesAsLogs(OnLogits):
    """F.kl_div takes log-probabilities first."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return F.kl_div(F.softmax(student, -1), F.softmax(teacher, -1), reduction="batchmean")


class OneSideSoftened(OnLogits):
    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        log_s, log_t = F.log_softmax(student, -1), F.log_softmax(teacher / self.temperature, -1)
        return self.temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1).mean()


# Parameters --------------------------------------------------------------------------------------


class ListedScales(OnFeatures):
    """VID with its variances in a plain list (as in mdistiller)."""

    def build(self, student: Outputs, teacher: Outputs) -> None:
        super().build(student, teacher)
        width = teacher.features["stage"].shape[-1]
        self.log_scales = [nn.Parameter(torch.full((width,), 5.0))]

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = F.softplus(self.log_scales[0]) + 1e-5
        return 0.5 * ((student - teacher).pow(2) / variance + variance.log()).mean()


class ListedProjector(OnFeatures):
    """A projector in a plain list."""

    def __init__(self) -> None:
        super().__init__(project=False)
        self.regressors: list[nn.Module] = []

    def build(self, student: Outputs, teacher: Outputs) -> None:
        super().build(student, teacher)
        if not self.regressors:
            self.regressors.append(nn.Linear(student.features["stage"].shape[-1], teacher.features["stage"].shape[-1]))

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(self.regressors[0](student), teacher)


class FrozenProjection(OnFeatures):
    """A projector that never gets a gradient."""

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        with torch.no_grad():
            projected = self.projectors[0](teacher.features["stage"].new_ones(student.features["stage"].shape))
        student_side = student.features["stage"].float()
        return F.mse_loss(student_side.mean(-1), (teacher.features["stage"] - projected).mean(-1))


class FixedProjector(OnFeatures):
    """A projector that is frozen along with all else that came from the teacher."""

    def build(self, student: Outputs, teacher: Outputs) -> None:
        super().build(student, teacher)
        self.projectors.requires_grad_(False)


class Uncoupled(OnFeatures):
    """The projector runs without gradients."""

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        with torch.no_grad():
            (s, t), *_ = self.pair_features(student, teacher)
        return F.mse_loss(s, t) + 0 * student.features["stage"].sum()


class StudentAlone(DistillationModule):
    """Its optimizer is made of the student alone, and its own check of that is gone."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


class StudentAloneUnchecked(StudentAlone):
    def on_fit_start(self) -> None:
        self.student.train()


class HeadReplaced(DistillationModule):
    """Replaces a layer after the optimizer was made."""

    def on_train_start(self) -> None:
        super().on_train_start()
        assert isinstance(self.student, Net)
        self.student.head = nn.Linear(8, 5)


class RateOfZero(DistillationModule):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.student.parameters()}, {"params": self.criteria.parameters(), "lr": 0.0}]
        return torch.optim.SGD(groups, lr=0.1)


class Undone(DistillationModule):
    """Loads its weights back after every step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.saved = {name: value.clone() for name, value in self.criteria.state_dict().items()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.criteria.load_state_dict(self.saved)


# Gradients ---------------------------------------------------------------------------------------


class Rebuilt(FeatureCriterion):
    """The mean of a list of losses through torch.tensor (as in CA-MKD's AVERAGE_LOSS)."""

    def __init__(self) -> None:
        super().__init__("stage", "stage", project=True)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return torch.tensor([F.mse_loss(s, t) for s, t in self.pair_features(student, teacher)]).mean()


class DetachedTwice(Criterion):
    """Both sides of the feature term are detached."""

    compares_logits = True
    student_layers = ("stage",)
    teacher_layers = ("stage",)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        s, t = student.features["stage"].detach(), teacher.features["stage"].detach()
        return kl(student.logits, teacher.logits) + F.mse_loss(s.mean(-1), t.mean(-1))


class PartDetached(OnLogits):
    """One of two terms on the same logits is cut off."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student, teacher) + F.mse_loss(student.detach(), teacher)


# Masks, batches, classes -------------------------------------------------------------------------


class Unmasked(OnLogits):
    """Ignores the mask."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student.flatten(0, -2), teacher.flatten(0, -2), self.temperature)


class MaskOfAMean(OnLogits):
    """Multiplies a mean by the mask, and takes the mean again (as in MLKD)."""

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        assert student.mask is not None
        value = kl(student.logits.flatten(0, -2), teacher.logits.flatten(0, -2), self.temperature)
        return (value * student.mask).mean()


class Neighbours(OnFeatures):
    """Correlation congruence as some code has it: the product of a sample's and the next one's distance."""

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        distance = (student - teacher).abs()
        return (distance[:-1] * distance[1:]).sum(1).mean()


class MeanOverClasses(OnLogits):
    """nn.KLDivLoss's default reduction."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        temperature = self.temperature
        log_s, p_t = F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
        return temperature**2 * nn.KLDivLoss()(log_s, p_t)


class MeanWithLabels(MeanOverClasses):
    """The same beside a cross-entropy, in one criterion, as most tutorials have it."""

    needs_target = True

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        return 0.3 * F.cross_entropy(student, target) + 0.7 * super().compare(student, teacher, target)


class OverTokens(OnLogits):
    """The softmax over dimension 1 of [B, T, C]."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student, teacher, self.temperature, dim=1) / student.shape[-1]


class SumOfTokens(OnLogits):
    """'batchmean' of [B, T, C] divides by B alone."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student, teacher, self.temperature)


class SumOverBatch(OnLogits):
    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student, teacher, self.temperature) * len(student)


class Relational(OnFeatures):
    """Right, and dependent on the batch."""

    def __init__(self) -> None:
        super().__init__(project=False)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(F.normalize(student @ student.T, dim=1), F.normalize(teacher @ teacher.T, dim=1))


class NotReduced(OnLogits):
    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return (student - teacher).pow(2).mean(-1)


# Numbers -----------------------------------------------------------------------------------------


class LogOfSoftmax(OnLogits):
    """Overflows in float32 at a gap of 120 (as DKD's authors' code)."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        p_s, p_t = F.softmax(student, -1), F.softmax(teacher, -1)
        return (p_t * (p_t.log() - p_s.log())).sum(-1).mean()


class NanToZero(LogOfSoftmax):
    """The same, painted over (as in SDD)."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        value = super().compare(student, teacher, target)
        return value if bool(torch.isfinite(value)) else 0 * student.nan_to_num().sum()


class NarrowSquares(OnLogits):
    """Finite in float32, and not in float16."""

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return (student.logits - teacher.logits).pow(2).mean()


class RootAtZero(OnFeatures):
    """The gradient of a norm is not finite where the two agree."""

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).pow(2).sum(-1).sqrt().mean()


class NoSquare(OnLogits):
    """T² is missing."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return kl(student, teacher, self.temperature) / self.temperature**2


class NoSquareWithLabels(NoSquare):
    """The same beside a cross-entropy."""

    needs_target = True

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        return 0.1 * F.cross_entropy(student, target) + 0.9 * super().compare(student, teacher, target)


class JumpingBeta(OnLogits):
    """Jensen-Shannon with a special case at beta = 0 (as in TRL's generalised JSD)."""

    def __init__(self, beta: float = 0.0) -> None:
        super().__init__()
        self.beta = beta

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        if self.beta == 0:
            return kl(student, teacher)
        p_s, p_t = F.softmax(student, -1), F.softmax(teacher, -1)
        log_m = (self.beta * p_t + (1 - self.beta) * p_s + 1e-30).log()
        log_s, log_t = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
        return (self.beta * p_t * (log_t - log_m) + (1 - self.beta) * p_s * (log_s - log_m)).sum(-1).mean()


class Slow(OnLogits):
    """Costs far more than the student."""

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        time.sleep(0.02)
        return kl(student, teacher, self.temperature)


# Teachers ----------------------------------------------------------------------------------------


class ForgetfulTeacher(Teacher):
    """Never calls eval()."""

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        with torch.no_grad():
            return self.capture.run(inputs, mask)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        return self(inputs, mask)


class CarefulTeacher(ForgetfulTeacher):
    """Right."""

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        self.model.eval()
        return super().__call__(inputs, mask)


class RestlessTeacher(CarefulTeacher):
    """In evaluation mode, and moves its weights towards the batch's statistics all the same."""

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        outputs = super().__call__(inputs, mask)
        with torch.no_grad():
            self.model.head.bias.sub_(0.01 * outputs.logits.mean(0))
        return outputs


class AlwaysDropping(Net):
    """F.dropout drops whatever the mode is, unless it is told."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.3))


class TrainedTeacher(DistillationModule):
    """Puts the whole teacher into training mode, and into the optimizer."""

    def configure_optimizers(self) -> Any:
        assert self.teacher is not None
        self.teacher.requires_grad_(True)
        return torch.optim.SGD([*self.parameters(), *self.teacher.parameters()], lr=0.1)


class SecondTeacher(DistillationModule):
    """Asks a network of its own that it has frozen, and never put into evaluation mode."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.extra = Net(16).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            wanted = self.extra(batch[0])
        return super().training_step(batch, batch_idx) + kl(self.student(batch[0]), wanted)
