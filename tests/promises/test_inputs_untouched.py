"""A network that changes what another one reads is refused, in every scheme; one that changes its own values is let be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import (
    Distill,
    EMATeacher,
    Ensemble,
    HardTarget,
    JointTeacher,
    LogitDistillation,
    MutualDistillation,
    RecordedTeacher,
    SoftTarget,
    SupervisedModule,
)
from lit_distill.criteria import Criterion
from lit_distill.utils.notices import DistillationWarning
from tests.plain import Plain

Tally = Callable[..., None]
MakeTrainer = Callable[..., Trainer]
PROMISE = "a network that changes what another reads is refused"
RIGHT = "a network that changes nothing that another reads is accepted"


class Net(nn.Module):
    """A linear layer, and what is done to its input first."""

    def __init__(self, first: Callable[[Net, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first = first
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(self, x) if self.first is not None else x)


def writes(write: Callable[[Tensor], Any]) -> Callable[[Net, Tensor], Tensor]:
    def first(net: Net, x: Tensor) -> Tensor:
        write(x)
        return x

    return first


def through_numpy(x: Tensor) -> None:
    x.numpy()[:] -= 1


WRONG: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "sub_ and div_": writes(lambda x: x.sub_(0.5).div_(0.25)),
    "ReLU(inplace=True)": lambda net, x: net.relu(x),
    "a view": writes(lambda x: x.view(-1).mul_(2)),
    "a column": writes(lambda x: x[:, 0].zero_()),
    "detached": writes(lambda x: x.detach().sub_(1)),
    ".data": writes(lambda x: x.data.mul_(2)),
    ".data replaced": writes(lambda x: setattr(x, "data", x.data * 2)),
    "NumPy": writes(through_numpy),
}
HARMLESS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "a new tensor": lambda net, x: x - 0.5,
    "a clone": lambda net, x: x.clone().sub_(0.5),
    "inside": lambda net, x: net.relu(x + 0),
}


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(8, 6), torch.randint(0, 3, (8,))), batch_size=4)


SCHEMES: dict[str, Callable[[Net], LightningModule]] = {
    "student": lambda net: LogitDistillation(net, Net()),
    "teacher": lambda net: LogitDistillation(Net(), net),
    "student of a joint teacher": lambda net: LogitDistillation(net, JointTeacher(Net())),
    "joint teacher": lambda net: LogitDistillation(Net(), JointTeacher(net)),
    "student of its average": lambda net: LogitDistillation(net, EMATeacher()),
    "student of a record": lambda net: LogitDistillation(net, RecordedTeacher(Net())),
    "first member": lambda net: LogitDistillation(Net(), Ensemble([net, Net()])),
    "last member": lambda net: LogitDistillation(Net(), Ensemble([Net(), net])),
    "first peer": lambda net: MutualDistillation([net, Net()]),
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [*SCHEMES, "Distill's student", "Distill's teacher"])
def test_in_training(scheme: str, tally: Tally, quick_trainer: MakeTrainer) -> None:
    def fit(net: Net) -> None:
        if scheme in SCHEMES:
            quick_trainer().fit(SCHEMES[scheme](net), data())
            return
        student, teacher = (net, Net()) if scheme.endswith("student") else (Net(), net)
        quick_trainer(callbacks=[Distill(teacher)]).fit(Plain(student), data())

    for change in WRONG.values():
        with pytest.raises(ValueError, match=r"changes what it is called with \(inputs.*x = x - mean"):
            fit(Net(change))
        tally(PROMISE)
    for change in HARMLESS.values():
        fit(Net(change))
        tally(RIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("who", ["student", "teacher", "first peer"])
def test_in_evaluation_alone(who: str, stage: str, tally: Tally, quick_trainer: MakeTrainer) -> None:
    for change in WRONG.values():
        with pytest.raises(ValueError, match="changes what it is called with"):
            getattr(quick_trainer(), stage)(SCHEMES[who](Net(change)), data(), verbose=False)
        tally(PROMISE)
    for change in HARMLESS.values():
        getattr(quick_trainer(), stage)(SCHEMES[who](Net(change)), data(), verbose=False)
        tally(RIGHT)


def test_only_where_it_evaluates(tally: Tally, quick_trainer: MakeTrainer) -> None:
    def change(net: Net, x: Tensor) -> Tensor:
        return x if net.training else x.sub_(1)

    with pytest.raises(ValueError, match="the student Net changes"):
        quick_trainer().fit(LogitDistillation(Net(change), Net()), data(), data())
    tally(PROMISE)


def test_in_some_steps_only(tally: Tally, quick_trainer: MakeTrainer) -> None:
    steps = []

    def change(net: Net, x: Tensor) -> Tensor:
        steps.append(1)
        return x.sub_(1) if len(steps) > 2 else x

    with pytest.raises(ValueError, match="the student Net changes"):
        quick_trainer(max_epochs=3).fit(LogitDistillation(Net(change), Net()), data())
    tally(PROMISE)


@pytest.mark.parametrize("change", [*WRONG.values(), *HARMLESS.values()], ids=[*WRONG, *HARMLESS])
def test_where_nobody_else_reads_it(change: Any, tally: Tally, quick_trainer: MakeTrainer) -> None:
    quick_trainer().fit(SupervisedModule(Net(change)), data(), data())
    quick_trainer().predict(LogitDistillation(Net(change), Net()), data())
    tally(RIGHT, 2)


class Entry(nn.Module):
    """Takes a dict as one object, and does something to it."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.change = change
        self.head = nn.Linear(6, 3)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        x = batch["x"]
        self.change(batch)
        return self.head(x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda batch: batch.pop("x"), r"\['x'\]: taken out"),
        (lambda batch: batch.update(x=batch["x"] * 2), r"\['x'\]: replaced"),
        (
            lambda batch: batch["more"].append(torch.ones(1)) or batch["more"][0].add_(1),
            r"\['more'\]\[0\]: changed in place",
        ),
    ],
)
def test_entries_of_a_dict(change: Any, words: str) -> None:
    from lit_distill.batch.batch import Arguments, Batch

    batch = {"x": torch.randn(2, 6), "more": [torch.zeros(1)]}
    module = LogitDistillation(Entry(change), Entry(lambda batch: None))
    with pytest.raises(ValueError, match=words):
        module.dry_run(Batch(Arguments((batch,), {}), torch.zeros(2, dtype=torch.long)))
    LogitDistillation(Entry(lambda batch: batch.update(new=1)), Entry(lambda batch: None)).dry_run(
        Batch(Arguments(({"x": torch.randn(2, 6)},), {}), torch.zeros(2, dtype=torch.long))
    )


class Spoils(Criterion):
    """Writes to what it is given."""

    needs_target = True

    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which

    def forward(self, student: Any, teacher: Any, target: Tensor | None) -> Tensor:
        assert target is not None
        if self.which == "labels":
            target[target == 0] = 1
            target.add_(0 if self.training else 1)
        elif self.which == "teacher":
            teacher.logits.div_(2)
        return student.logits.square().mean()


@pytest.mark.parametrize("which", ["labels", "teacher"])
def test_a_criterion_that_changes_what_the_others_read(which: str, tally: Tally, quick_trainer: MakeTrainer) -> None:
    criteria = {"bad": Spoils(which), "soft": SoftTarget(), "hard": HardTarget()}
    module = LogitDistillation(Net(), Net(), criteria=criteria, weights=dict.fromkeys(criteria, 1.0))
    with pytest.raises(ValueError, match=rf"criterion 'bad' \(Spoils\): it changes what it is given \({which}"):
        quick_trainer().fit(module, data())
    tally(PROMISE)


# A teacher that changes itself -----------------------------------------------------------------------------------------


class Own(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("loose", torch.zeros(()), persistent=False)
        self.norm = nn.BatchNorm1d(6)


class Counts(Own):
    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.head(x)


class CountsData(Own):
    def forward(self, x: Tensor) -> Tensor:
        self.steps.data += 1
        return self.head(x)


class KeepsTraining(Own):
    def train(self, mode: bool = True) -> KeepsTraining:
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


class Renormalises(Own):
    def forward(self, x: Tensor) -> Tensor:
        self.head.weight.data = F.normalize(self.head.weight.data + 0.1)  # another value at every call
        return self.head(x)


class Draws(Own):
    def forward(self, x: Tensor) -> Tensor:
        self.steps.copy_(torch.rand(()))
        return self.head(x)


class Remembers(Own):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.past = torch.cat([self.past, x])
        return self.head(x + self.past.mean(0))


@pytest.mark.parametrize("through", ["module", "Distill"])
@pytest.mark.parametrize("kind", [Counts, CountsData, KeepsTraining, Renormalises, Draws, Remembers])
def test_a_teacher_that_changes_itself(
    kind: type[nn.Module], through: str, tally: Tally, quick_trainer: MakeTrainer
) -> None:
    teacher = kind()
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    module = LogitDistillation(Net(), teacher) if through == "module" else Plain(Net())
    guests = [Distill(teacher)] if through == "Distill" else []
    with pytest.raises(ValueError, match=f"the frozen teacher {kind.__name__} changes itself: its (buffer|parameter)"):
        quick_trainer(callbacks=guests).fit(module, data())
    assert all(torch.equal(value, before[name]) for name, value in teacher.named_buffers())
    tally("a frozen teacher that changes itself is refused")


def test_a_teacher_whose_part_stays_in_training_mode_is_told_so(quick_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match=r"After eval\(\) 'norm' is still in training mode"):
        quick_trainer().fit(LogitDistillation(Net(), KeepsTraining()), data())


class Random(Own):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(x))


class Restless(Own):
    def forward(self, x: Tensor) -> Tensor:
        self.loose += 1
        return self.head(x)


@pytest.mark.parametrize(
    ("kind", "words"), [(Random, "gives two outputs for one batch"), (Restless, "'loose' at every call")]
)
@pytest.mark.filterwarnings("ignore:the frozen teacher .* changed during the fit")
def test_what_may_be_meant_is_told(kind: type[nn.Module], words: str, quick_trainer: MakeTrainer) -> None:
    with pytest.warns(DistillationWarning, match=words):
        quick_trainer().fit(LogitDistillation(Net(), kind()), data())


def test_a_change_from_outside_is_told_at_the_end(quick_trainer: MakeTrainer, tally: Tally) -> None:
    teacher = Net()

    class Meddling(LogitDistillation):
        def on_train_epoch_end(self) -> None:
            teacher.head.bias.data += 1

    with pytest.warns(DistillationWarning, match=r"Net changed during the fit: its parameter 'head.bias'"):
        quick_trainer().fit(Meddling(Net(), teacher), data())
    with torch.no_grad():
        teacher.head.bias.zero_()  # between fits it may be changed
    tally("a frozen teacher that something else changes in a fit is reported")
