"""LightningModules that know nothing of distillation, with ``Distill``, as the doctor's tests examine them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import Criterion, Distill
from lit_distill.doctor import Finding, Report, report
from lit_distill.teachers import FrozenTeacher, Teacher
from tests.doctor import bugs
from tests.doctor.setups import Net, vectors


class Classifier(LightningModule):
    """The usual one."""

    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Module = Net(8)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


class CallsItself(Classifier):
    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class MadeInSetup(Classifier):
    def __init__(self) -> None:
        super().__init__()
        del self.model

    def setup(self, stage: str) -> None:
        self.model = Net(8)


class Adversarial(Classifier):
    """Differentiates for its inputs, which it makes anew in each step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].clone().requires_grad_()
        loss = F.cross_entropy(self.model(x), batch[1])
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + slope.pow(2).sum()


class Frozen(Classifier):
    """The module itself is the student, and trains a head on layers that are frozen, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        del self.model
        self.backbone = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.1)).requires_grad_(False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class WithNeck(Classifier):
    """Has a frozen network beside the student."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Linear(12, 12).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.neck.eval()
        return F.cross_entropy(self.model(self.neck(batch[0])), batch[1])


class Unfreezes(Callback):
    """Trains the neck from the second step on."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            pl_module.neck.requires_grad_(True)
            trainer.optimizers[0].add_param_group({"params": list(pl_module.neck.parameters())})


class AllPadding(Classifier):
    """Embeds tokens, of which a batch has none but padding, so that the sparse gradient has no values."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(3, 12, padding_idx=0, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        padding = self.words(torch.zeros(len(batch[0]), dtype=torch.long))
        return F.cross_entropy(self.model(batch[0] + padding), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KeepsItsLoss(Classifier):
    """Keeps a step's graph, so that it cannot be copied."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.last = super().training_step(batch, batch_idx)
        return self.last


class HeadAlone(Classifier):
    """Its optimizer holds the head alone, and the rest is not frozen."""

    def configure_optimizers(self) -> Any:
        assert isinstance(self.model, Net)
        return torch.optim.SGD(self.model.head.parameters(), lr=0.1)


class TeacherToo(Classifier):
    """Its optimizer holds the teacher, which its list keeps out of the module."""

    held: list[nn.Module]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for network in [self.model, *self.held] for p in network.parameters()], lr=0.1)


class Listed(nn.Module):
    """A student whose layers are in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 8)
        self.layers = [nn.Linear(8, 5)]

    def forward(self, x: Tensor) -> Any:
        return self.layers[0](torch.relu(self.first(x)))


class Undone(Callback):
    """Loads the criteria's weights back after every step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.saved = {name: value.clone() for name, value in pl_module.lit_distill.state_dict().items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.lit_distill.load_state_dict(self.saved)


class FailsInTraining(bugs.OnLogits):
    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        if torch.is_grad_enabled():
            raise ValueError("only now")
        return super().compare(student, teacher, target)


class SteepScale(bugs.OnLogits):
    """Has a parameter with a gradient of a thousand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        return super().compare(student, teacher, target) + 1e3 * self.scale


def observing(network: nn.Module) -> FrozenTeacher:
    """A teacher whose layers are read already."""
    teacher = FrozenTeacher(network)
    teacher.capture_layers(["stem", "stage"])
    return teacher


def hosted(
    criteria: dict[str, Criterion] | None = None,
    kind: type[Classifier] = Classifier,
    teacher: nn.Module | Teacher | None = None,
    weight: float = 1.0,
    **options: Any,
) -> tuple[Any, DataLoader[Any], Distill]:
    """A module, its data, whose labels the teacher knows, and the callback."""
    torch.manual_seed(0)
    given = teacher or Net(16)
    data = vectors(given.model if isinstance(given, Teacher) else given)
    if isinstance(given, Teacher):
        given.model.train()  # as a network is when it is made
    weights = None if criteria is None else dict.fromkeys(criteria, weight)
    return kind(), data, Distill(given, criteria, weights, **options)


def examined(criterion: Criterion | None = None, precision: str | None = None, steps: int = 3, **setup: Any) -> Report:
    module, data, guest = hosted(None if criterion is None else {"term": criterion}, **setup)
    return report(module, data, {"callbacks": [guest], "precision": precision}, steps)


def found(*args: Any, **setup: Any) -> dict[tuple[str, str], Finding]:
    return {(finding.check, finding.severity): finding for finding in examined(*args, **setup).findings}


def severe(findings: dict[tuple[str, str], Finding]) -> set[str]:
    return {check for check, severity in findings if severity == "bug"}
