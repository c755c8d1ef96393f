"""What is right must run: set-ups that look like bad ones, through both doors, with a student that learns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_distill import BatchFormat
from lit_distill.balance import GradientNorm
from lit_distill.callbacks import Unfreeze
from lit_distill.criteria import CTKD, DKD, NKD, RKD, AttentionTransfer, HardTarget, Hint, LogitMSE, SoftTarget
from lit_distill.schedules import Linear, Step
from lit_distill.teachers import JointTeacher
from lit_distill.utils.notices import DistillationWarning
from tests.promises.bad_inputs.doors import (
    DOORS,
    Case,
    Host,
    Net,
    Own,
    Watch,
    around,
    classes,
    collated,
    images,
    loader,
    of_the_outputs,
    with_value,
)
from tests.promises.conftest import Tally

NAN, INF = float("nan"), float("inf")
pytestmark = pytest.mark.slow  # many small fits
MakeTrainer = Callable[..., Trainer]


def partly_frozen(part: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = Net()
        network.get_submodule(part).requires_grad_(False)
        return network

    return make


def zero_head() -> nn.Module:
    network = Net()
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    return network


class Adapted(Net):
    """A frozen network with low-rank additions."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.down, self.up = nn.Linear(256, 2, bias=False), nn.Linear(2, 10, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        below = self.stage3(F.relu(self.stage1(x))).flatten(1)
        return self.head(below) + self.up(self.down(below))


class Normalised(nn.Module):
    """With a norm of a kind, over maps or over vectors."""

    def __init__(self, norm: Callable[[int], nn.Module], vectors: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = norm(4)
        self.head = nn.Linear(4 if vectors else 144, 10)
        self.vectors = vectors

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.head(self.norm(maps.mean((2, 3))) if self.vectors else self.norm(maps).flatten(1))


class FrozenNorm(Normalised):
    """Whose norm stays in eval mode."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d, vectors=True)
        self.train()

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self


class Checkpointed(Net):
    """Recomputes its second stage in the backward pass."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.stage1(x))
        return self.head(checkpoint(self.stage3, first, use_reentrant=self.reentrant).flatten(1))


class Masked(Net):
    """Holds a mask of minus infinity, as attention does, and adds it before a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((8, 8), -INF).triu(1))
        self.fixed = nn.Parameter(torch.tensor([-INF]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x + self.mask).softmax(-1))


class TakesNaN(Net):
    """Reads NaN as 0: missing pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.nan_to_num(x))


class Observed(Net):
    """Counts the range of its inputs, which begins at infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.observer = torch.ao.quantization.MinMaxObserver()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.observer(x))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Net(6)


class ThawsItself(Callback):
    """A user's own: the first stage trains from the second epoch on."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._network(pl_module).requires_grad_(False)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self._network(pl_module).requires_grad_(True)

    def _network(self, module: Any) -> nn.Module:
        return (module.student if hasattr(module, "student") else module.model).stage1


def thaw(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.requires_grad = True


class ThawsByHelpers(Callback):
    """A user's own: what its hook calls sets which parameters train."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.thaw_one(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.thaw_one(pl_module)

    def thaw_one(self, module: Any) -> None:
        thaw((module.student if hasattr(module, "student") else module.model).stage1)


class Finetuning(BaseFinetuning):
    """Lightning's, of the first stage."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze((pl_module.student if hasattr(pl_module, "student") else pl_module.model).stage1)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            module = (pl_module.student if hasattr(pl_module, "student") else pl_module.model).stage1
            self.unfreeze_and_add_param_group(module, optimizer)


class EvaluatesNorms(Callback):
    """A user's own: BatchNorm is in eval mode in training."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def criterion(function: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    return lambda: {"soft": SoftTarget(), "mine": Own(function)}


def masked_classes(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).masked_fill(torch.arange(10) == 9, -INF)


def flat(outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def of_task(task: Any, outputs: int, y: Callable[[], Any], **options: Any) -> Case:
    compare = LogitMSE() if task == "regression" else SoftTarget(task=task)
    given: dict[str, Any] = {"criteria": lambda: {"hard": HardTarget(task=task), "soft": compare}, **options}
    return Case(flat(outputs), flat(outputs), data=lambda: loader(y=y()), task=task, loss=of_the_outputs, **given)


def lone(count: int = 9, **options: Any) -> Callable[[], Any]:
    return lambda: loader(images(count), batch_size=4, **options)


def vectors() -> nn.Module:
    return Normalised(nn.BatchNorm1d, vectors=True)


UNKNOWN = {"loss": of_the_outputs, "criteria": lambda: {"hard": HardTarget(), "soft": SoftTarget()}}
RIGHT: dict[str, Case] = {
    "the plain set-up": Case(),
    # Frozen in part, and later not.
    "the first stage frozen": Case(partly_frozen("stage1")),
    "the head frozen": Case(partly_frozen("head")),
    "a hint above what is frozen": Case(
        partly_frozen("stage1"), criteria=lambda: {"soft": SoftTarget(), "hint": Hint("stage3", "stage3")}
    ),
    "low-rank additions": Case(Adapted),
    "a head of zeros": Case(zero_head),
    "a head of zeros under a hint": Case(
        zero_head, criteria=lambda: {"soft": SoftTarget(), "hint": Hint("stage3", "stage3")}
    ),
    "a criterion whose gradient is 0": Case(criteria=criterion(lambda s, t: (s.logits * 0).mean())),
    "a criterion at its minimum": Case(criteria=criterion(lambda s, t: F.relu(s.logits.mean() - 1e6))),
    "a weight of 0 without gradient": Case(
        criteria=criterion(lambda s, t: t.logits.mean()), weights={"soft": 1.0, "mine": 0.0, "task": 1.0}
    ),
    "a weight of 0 and NaN": Case(
        criteria=criterion(lambda s, t: t.logits.mean() * NAN), weights={"soft": 1.0, "mine": 0.0, "task": 1.0}
    ),
    "a weight that rises": Case(
        criteria=lambda: {"soft": SoftTarget(), "hint": Hint("stage1", "stage1")},
        schedules={"hint.weight": Linear(0.0, 1.0, 2)},
    ),
    "a weight that falls": Case(schedules={"soft.weight": Step(1.0, {1: 0.0})}),
    "BaseFinetuning": Case(callbacks=lambda: [Finetuning()], trainer={"max_epochs": 2}),
    "a callback that freezes and thaws": Case(callbacks=lambda: [ThawsItself()], trainer={"max_epochs": 2}),
    "a hint on a layer that is thawed": Case(
        partly_frozen("stage1"),
        criteria=lambda: {"soft": SoftTarget(), "hint": Hint("stage1", "stage1")},
        callbacks=lambda: [ThawsItself()],
        trainer={"max_epochs": 2},
    ),
    "a hint on a layer that is thawed by helpers": Case(
        partly_frozen("stage1"),
        criteria=lambda: {"soft": SoftTarget(), "hint": Hint("stage1", "stage1")},
        callbacks=lambda: [ThawsByHelpers()],
        trainer={"max_epochs": 2},
    ),
    "a compiled student": Case(lambda: torch.compile(Net(), backend="eager")),  # whose len() is an error
    "a learned temperature": Case(criteria=lambda: {"soft": CTKD()}),
    "gradient norms balanced": Case(
        criteria=lambda: {"soft": SoftTarget(), "mse": LogitMSE()}, balance=lambda: GradientNorm("soft")
    ),
    # Networks of other kinds.
    "gradient checkpointing": Case(Checkpointed),
    "re-entrant gradient checkpointing": Case(lambda: type("Reentrant", (Checkpointed,), {"reentrant": True})()),
    "a lazy student": Case(lazy, flat(10)),
    "a quantisation observer": Case(Observed),
    "minus infinity in a mask": Case(Masked, Masked),
    "classes left out by minus infinity": Case(
        around(masked_classes),
        around(masked_classes),
        data=lambda: loader(y=classes(8, 9)),
        criteria=lambda: {"hint": Hint("net.stage3", "net.stage3")},
    ),
    "NaN that the networks read as 0": Case(TakesNaN, TakesNaN, data=lambda: loader(with_value(images(), 0, NAN))),
    "infinity that the networks bound": Case(
        around(lambda net, x: net(x.clamp(-3, 3))),
        around(lambda net, x: net(x.clamp(-3, 3))),
        data=lambda: loader(with_value(images(), 0, INF)),
    ),
    "a teacher of inference tensors": Case(teacher=in_inference_mode),
    "a teacher in bfloat16": Case(teacher=lambda: Net(6).bfloat16()),
    "a teacher in float64": Case(teacher=lambda: Net(6).double()),
    "a teacher that returns a dict": Case(teacher=around(lambda net, x: {"logits": net(x)})),
    "a teacher that returns a tuple": Case(teacher=around(lambda net, x: (net(x), {}))),
    "a teacher in train mode": Case(teacher=lambda: Net(6).train()),
    "a joint teacher": Case(teacher=lambda: JointTeacher(Net(6))),
    "a student in eval mode": Case(lambda: Net().eval()),
    "log-softmax to a soft target": Case(teacher=around(lambda net, x: net(x).log_softmax(-1))),
    "logits that lie in [0, 1]": Case(teacher=around(lambda net, x: net(x).sub(net(x).min()).div(9.0).clamp(0, 1))),
    "one class": of_task("binary", 1, lambda: classes(8, 2)),
    "attention without a projector": Case(
        criteria=lambda: {"soft": SoftTarget(), "at": AttentionTransfer("stage1", "stage1")}
    ),
    "relations of a batch": Case(criteria=lambda: {"rkd": RKD("head", "head")}),
    # Data of other kinds.
    "labels of int32": Case(data=lambda: loader(y=classes().int()), **UNKNOWN),
    "labels of uint8": Case(data=lambda: loader(y=classes().byte()), **UNKNOWN),
    "class probabilities": Case(data=lambda: loader(y=F.one_hot(classes(), 10) * 0.9 + 0.01)),
    "one-hot labels": Case(data=lambda: loader(y=F.one_hot(classes(), 10)), **UNKNOWN),
    "labels that are not known first": Case(
        data=lambda: loader(y=torch.cat([torch.full((4,), -1), classes(4)])),
        format=BatchFormat(missing_label=-1),
        **UNKNOWN,
    ),
    "no label known at all": Case(
        data=lambda: loader(y=torch.full((8,), -100)),
        criteria=lambda: {"hard": HardTarget(), "dkd": DKD(), "nkd": NKD(), "soft": SoftTarget()},
        loss=of_the_outputs,
    ),
    "255 for not known": Case(
        data=lambda: loader(y=with_value(classes(), 0, 255)), format=BatchFormat(missing_label=255), **UNKNOWN
    ),
    "NaN for not known": of_task(
        "regression", 1, lambda: with_value(torch.randn(8), 0, NAN), format=BatchFormat(missing_label=NAN)
    ),
    "binary labels of truth": of_task("binary", 1, lambda: classes(8, 2).bool()),
    "binary probabilities": of_task("binary", 1, lambda: torch.rand(8)),
    "multilabel of -100": of_task("multilabel", 3, lambda: torch.full((8, 3), -100)),
    "numbers far from 0": of_task("regression", 1, lambda: torch.randn(8) * 1e4),
    "a dict batch": Case(
        lambda: Net(),
        data=lambda: collated(lambda: [images(4), classes(4)]),
    ),
    # Batches of one.
    "one alone, left out": Case(vectors, data=lone(drop_last=True)),
    "one alone, over maps": Case(lambda: Normalised(nn.BatchNorm2d), data=lone()),
    "one alone, GroupNorm": Case(lambda: Normalised(lambda width: nn.GroupNorm(2, width), vectors=True), data=lone()),
    "one alone, LayerNorm": Case(lambda: Normalised(nn.LayerNorm, vectors=True), data=lone()),
    "one alone, a frozen norm": Case(FrozenNorm, data=lone()),
    "one alone, a norm in eval mode by a callback": Case(vectors, data=lone(), callbacks=lambda: [EvaluatesNorms()]),
    "one alone, never reached by limit_train_batches": Case(vectors, data=lone(), trainer={"limit_train_batches": 2}),
    "one alone, never reached by max_steps": Case(vectors, data=lone(), trainer={"max_steps": 2}),
    "one alone, of the teacher in eval mode": Case(teacher=vectors, data=lone()),
    "batches of one without BatchNorm": Case(data=lambda: loader(images(3), batch_size=1)),
    "two alone": Case(vectors, data=lone(10)),
    "accumulated": Case(trainer={"accumulate_grad_batches": 2}),
    "clipped": Case(trainer={"gradient_clip_val": 0.1}),
}


# Beside Distill, Lightning's own optimizer takes no parameters that are not made yet.
ROWS = [(what, door) for what in RIGHT for door in DOORS if (what, door) != ("a lazy student", "Distill")]


@pytest.mark.parametrize(("what", "door"), ROWS)
def test_a_right_set_up_runs(what: str, door: str, quick_trainer: MakeTrainer, tally: Tally) -> None:
    case, watch = RIGHT[what], Watch()
    made: list[nn.Module] = []

    def student() -> nn.Module:
        made.append(case.student())
        return made[-1]

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the (student|teacher) .*returns", category=DistillationWarning)
        warnings.filterwarnings("ignore", category=DistillationWarning)
        DOORS[door](Case(**{**vars(case), "student": student}), quick_trainer, watch)
    assert watch.steps
    assert all(parameter.isfinite().all() for parameter in made[0].parameters() if parameter.requires_grad)
    tally("valid setups that look like bad ones run")


def test_unfreezing_by_epochs_runs(quick_trainer: MakeTrainer, tally: Tally) -> None:
    case = Case(callbacks=lambda: [Unfreeze(["stage1"], 1)], trainer={"max_epochs": 2})
    DOORS["module"](case, quick_trainer, Watch())
    tally("valid setups that look like bad ones run")


def test_a_whole_student_frozen_by_a_finetuning_callback_runs(quick_trainer: MakeTrainer, tally: Tally) -> None:
    class Backbone(Host):
        """Whose student is the backbone that Lightning's callback thaws; the head is beside it."""

        def __init__(self, model: nn.Module, loss: Any) -> None:
            super().__init__(model, loss)
            self.backbone = model
            self.last = nn.Linear(10, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(self.last(self.model(batch[0])), batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    case = Case(callbacks=lambda: [BackboneFinetuning(1, verbose=False)], trainer={"max_epochs": 2}, host=Backbone)
    watch = Watch()
    DOORS["Distill"](case, quick_trainer, watch)
    assert watch.steps
    tally("valid setups that look like bad ones run")


def test_mixed_up_labels_run(quick_trainer: MakeTrainer, tally: Tally) -> None:
    shares = 0.3 * F.one_hot(classes(4), 10) + 0.7 * F.one_hot(classes(4).flip(0), 10)
    case = Case(data=lambda: collated(lambda: (0.3 * images(4) + 0.7 * images(4).flip(0), shares)))
    DOORS["module"](case, quick_trainer, Watch())
    tally("valid setups that look like bad ones run")
