"""Two doors to the same rooms: a distillation module, and ``Distill`` in a module of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import BatchFormat, Distill, DistillationModule
from lit_distill.batch.labels import Task
from lit_distill.criteria import Criterion, HardTarget, SoftTarget

Make = Callable[[], Any]


class Net(nn.Module):
    """Two stages and a head, for grey images of 8 x 8."""

    def __init__(self, width: int = 4, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.stage1 = nn.Conv2d(channels, width, 3, padding=1)
        self.stage3 = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage3(F.relu(self.stage1(images))).flatten(1))


class Around(nn.Module):
    """A network and what is made of it: ``function(network, images)``."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Any], **options: int) -> None:
        super().__init__()
        self.net = Net(**options)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(self.net, images)


class Own(Criterion):
    """A criterion of the user's own."""

    compares_logits = True

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, student: Any, teacher: Any, target: Tensor | None) -> Any:
        return self.function(student, teacher)


class Host(LightningModule):
    """A module that knows nothing of distillation; ``loss`` is its own, of its output and the batch."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.model(batch[0]), batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.model(batch[0]), batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def cross_entropy(outputs: Any, batch: Any) -> Tensor:
    return F.cross_entropy(outputs, batch[1])


def of_the_outputs(outputs: Tensor, batch: Any) -> Tensor:
    """A loss without labels."""
    return outputs.float().square().mean()


class Watch(Callback):
    """Sees whether a batch began, and an optimizer stepped."""

    def __init__(self) -> None:
        self.batches = self.steps = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.batches += 1

    def on_before_zero_grad(self, *args: Any) -> None:
        self.steps += 1


def images(count: int = 8, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or (1, 8, 8)), generator=torch.Generator().manual_seed(1))


def classes(count: int = 8, number: int = 10) -> Tensor:
    return torch.randint(0, number, (count,), generator=torch.Generator().manual_seed(2))


def with_value(tensor: Tensor, place: int, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


def loader(x: Any = None, y: Any = None, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    x = images() if x is None else x
    y = classes(len(x)) if y is None else y
    data: Any = TensorDataset(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else list(zip(x, y, strict=True))
    return DataLoader(data, batch_size=batch_size, **options)


def collated(batch: Callable[[], Any]) -> DataLoader[Any]:
    """A loader all of whose batches are what a function gives."""
    return DataLoader([(image, 0) for image in images()], batch_size=4, collate_fn=lambda samples: batch())


@dataclass
class Case:
    """A set-up, by what makes its parts; by default one that is right."""

    student: Make = Net
    teacher: Make = lambda: Net(6)
    criteria: Make = lambda: {"hard": HardTarget(), "soft": SoftTarget()}
    weights: dict[str, float] | None = None
    data: Make = loader
    task: Task = "multiclass"
    loss: Callable[[Any, Any], Tensor] = cross_entropy
    format: BatchFormat | None = None
    callbacks: Callable[[], Sequence[Callback]] = tuple
    trainer: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] | None = None
    balance: Make = lambda: None
    host: Callable[..., LightningModule] = Host


def through_module(case: Case, make_trainer: Callable[..., Trainer], watch: Watch) -> LightningModule:
    criteria = case.criteria()
    weights = {name: (case.weights or {}).get(name, 1.0) for name in criteria}
    module = DistillationModule(
        case.student(),
        case.teacher(),
        criteria,
        weights,
        case.task,
        batch_format=case.format,
        schedules=case.schedules,
        balance=case.balance(),
    )
    make_trainer(callbacks=[*case.callbacks(), watch], **case.trainer).fit(module, case.data())
    return module


def through_callback(case: Case, make_trainer: Callable[..., Trainer], watch: Watch) -> LightningModule:
    criteria = {name: one for name, one in case.criteria().items() if name != "hard" or case.loss is not cross_entropy}
    weights = {name: weight for name, weight in (case.weights or {}).items() if name in (*criteria, "task")}
    guest = Distill(
        case.teacher(),
        criteria,
        weights or dict.fromkeys(criteria, 1.0),
        schedules=case.schedules,
        balance=case.balance(),
        batch_format=case.format,
        task=case.task,
    )
    module = case.host(case.student(), case.loss)
    make_trainer(callbacks=[*case.callbacks(), guest, watch], **case.trainer).fit(module, case.data())
    return module


DOORS = {"module": through_module, "Distill": through_callback}


def around(function: Callable[[nn.Module, Tensor], Any], **options: int) -> Callable[[], nn.Module]:
    return lambda: Around(function, **options)


def rows(bad: Mapping[str, Any]) -> list[Any]:
    """Return a test's parameters for each bad set-up and each door that has words for it."""
    found = []
    for what, row in bad.items():
        case, *words = row
        for door, said in zip(DOORS, (words * 2)[:2], strict=True):
            if said:
                found.append(pytest.param(door, case, said, id=f"{door}: {what}"))
    return found
