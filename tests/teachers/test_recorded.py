"""A teacher whose predictions are made once and recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.transforms import v2

from lit_distill import FeatureDistillation, FrozenTeacher, LogitDistillation, RecordedTeacher
from lit_distill.data import Digits
from lit_distill.models import MLP, SmallCNN

SAMPLES = 22
MakeTrainer = Callable[..., Trainer]


class Counting(nn.Module):
    """Counts the samples that run through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        return self.model(x)


class Comparing(LogitDistillation):
    """Keeps how far the teacher's outputs are from what it would say live, and the inputs' order."""

    distances: list[float]
    order: list[float]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        given = self._teacher(batch[0]).logits
        live = self.teacher.eval()(batch[0]) if not isinstance(self.teacher, Counting) else self.teacher.model(batch[0])
        self.distances.append(float((given - live).abs().max()))
        self.order += batch[0].flatten(1)[:, 0].tolist()
        return super().training_step(batch, batch_idx)


@pytest.fixture
def data() -> TensorDataset:
    return TensorDataset(torch.randn(SAMPLES, 1, 8, 8), torch.arange(SAMPLES) % 10)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def make(kind: type[FrozenTeacher], counting: bool = False) -> Comparing:
    torch.manual_seed(3)
    student, network = SmallCNN(2), SmallCNN(3)
    module = Comparing(student, kind(Counting(network) if counting else network), optimizer=sgd)
    module.distances, module.order = [], []
    return module


@pytest.mark.parametrize(
    "settings",
    [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}, {"shuffle": True, "num_workers": 1}],
    ids=["in order", "shuffled", "drop_last", "workers"],
)
def test_equals_the_live_teacher_step_by_step(
    data: TensorDataset, settings: dict[str, Any], quick_trainer: MakeTrainer
) -> None:
    runs = []
    for kind in (FrozenTeacher, RecordedTeacher):
        seed_everything(1, verbose=False)
        module = make(kind)
        quick_trainer(max_epochs=3).fit(module, DataLoader(data, batch_size=4, **settings))
        runs.append(module)
    online, recorded = runs
    assert recorded.order == online.order
    assert len(recorded.distances) == 3 * (5 if settings.get("drop_last") else 6)
    assert max(recorded.distances) < 1e-6
    for name, value in online.student.state_dict().items():
        torch.testing.assert_close(recorded.student.state_dict()[name], value, atol=1e-5, rtol=0)


def test_a_loader_with_its_own_generator_keeps_its_order(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    orders = []
    for kind in (FrozenTeacher, RecordedTeacher):
        module = make(kind)
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(data, batch_size=4, shuffle=True, generator=generator)
        quick_trainer(max_epochs=2).fit(module, loader)
        orders.append(module.order)
    assert orders[0] == orders[1]


def test_the_teacher_runs_once_a_sample(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    module = make(RecordedTeacher, counting=True)
    module.__class__ = LogitDistillation
    ran = []

    trainer = quick_trainer(max_epochs=4)
    module.on_fit_start = lambda: ran.append(module.teacher.count)
    trainer.fit(module, DataLoader(data, batch_size=4, shuffle=True))
    assert module.teacher.count - ran[0] == SAMPLES  # the dry run's two samples come before
    assert module._teacher.recorded == SAMPLES


def test_samples_that_the_recording_missed_are_recorded_when_seen(
    data: TensorDataset, quick_trainer: MakeTrainer
) -> None:
    module = make(RecordedTeacher)
    quick_trainer(max_epochs=1).fit(module, DataLoader(data, batch_size=8, drop_last=True))
    assert module._teacher.recorded == 16
    rest = data.tensors[0][14:]
    torch.testing.assert_close(module._teacher(rest).logits, module.teacher(rest))
    assert module._teacher.recorded == SAMPLES


def test_samples_keep_apart(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    module = make(RecordedTeacher)
    quick_trainer().fit(module, DataLoader(data, batch_size=4))
    x = data.tensors[0]
    order = torch.randperm(SAMPLES)
    live = module.teacher(x)
    torch.testing.assert_close(module._teacher(x[order]).logits, live[order])
    assert len({tuple(row.tolist()) for row in module._teacher(x).logits}) == SAMPLES


@pytest.mark.parametrize("inputs", ["tuple", "mapping"])
def test_several_inputs_make_one_key(inputs: str) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.stack([a.float(), b.sum(1)], 1)

    teacher = RecordedTeacher(Two())
    a, b = torch.tensor([1, 1, 2]), torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    given: Any = (a, b) if inputs == "tuple" else {"a": a, "b": b}
    teacher._record(given)
    assert teacher.recorded == 3
    assert teacher(given).logits.tolist() == [[1.0, 1.0], [1.0, 2.0], [2.0, 1.0]]


def test_validation_data_are_not_recorded(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    module = make(RecordedTeacher)
    other = DataLoader(TensorDataset(torch.randn(6, 1, 8, 8), torch.arange(6)), batch_size=3)
    trainer = quick_trainer(max_epochs=2)
    trainer.validate(module, other, verbose=False)
    trainer.fit(module, DataLoader(data, batch_size=4), other)
    assert module._teacher.recorded == SAMPLES
    assert max(module.distances) < 1e-5


def test_records_follow_the_type(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    module = make(RecordedTeacher)
    quick_trainer().fit(module, DataLoader(data, batch_size=4))
    module.double()
    assert module._teacher(data.tensors[0]).logits.dtype == torch.float64


def test_resume_equals_an_uninterrupted_run(data: TensorDataset, quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(data, batch_size=4, shuffle=True)

    seed_everything(2, verbose=False)
    whole = make(RecordedTeacher)
    quick_trainer(max_epochs=3).fit(whole, loader())
    seed_everything(2, verbose=False)
    half = make(RecordedTeacher)
    keep = ModelCheckpoint(tmp_path, filename="half")
    quick_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep]).fit(half, loader())
    seed_everything(77, verbose=False)
    rest = make(RecordedTeacher)
    quick_trainer(max_epochs=3).fit(rest, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert whole.order == half.order + rest.order
    for name, value in whole.student.state_dict().items():
        torch.testing.assert_close(rest.student.state_dict()[name], value, atol=1e-6, rtol=0)


class TestRefused:
    """What a record would be wrong for is refused before the first step."""

    def refuse(self, module: LogitDistillation, message: str, trainer: Trainer, source: Any) -> None:
        before = copy.deepcopy(dict(module.student.named_parameters()))
        arguments = {"datamodule": source} if isinstance(source, Digits) else {"train_dataloaders": source}
        with pytest.raises(ValueError, match=message):
            trainer.fit(module, **arguments)
        assert trainer.global_step == 0
        assert all(torch.equal(value, before[name]) for name, value in module.student.named_parameters())

    def test_random_augmentation(self, quick_trainer: MakeTrainer) -> None:
        data = Digits(augment=[v2.RandomCrop(8, padding=2)])
        self.refuse(make(RecordedTeacher), r"differs each time it is read \(random augm", quick_trainer(), data)

    @pytest.mark.parametrize("mix", [v2.MixUp(num_classes=10), v2.CutMix(num_classes=10)])
    def test_mixing(self, quick_trainer: MakeTrainer, mix: nn.Module) -> None:
        torch.manual_seed(4)
        module = LogitDistillation(SmallCNN(2), RecordedTeacher(SmallCNN(2)))
        self.refuse(module, "change after they are loaded", quick_trainer(), Digits(mix=mix))

    def test_features(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        module: Any = FeatureDistillation(SmallCNN(2), RecordedTeacher(SmallCNN(2)), "stage3", "stage3")
        message = "recorded teacher holds logits alone, and the criteria read its layers stage3"
        self.refuse(module, message, quick_trainer(), DataLoader(data, batch_size=4))

    def test_several_loaders(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        class First(LogitDistillation):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return super().training_step(batch["a"], batch_idx)

        module = First(SmallCNN(2), RecordedTeacher(SmallCNN(2)))
        loaders = {"a": DataLoader(data, batch_size=4), "b": DataLoader(data, batch_size=4)}
        self.refuse(module, "reads one DataLoader, not a dict", quick_trainer(), loaders)

    def test_iterable_data(self, quick_trainer: MakeTrainer) -> None:
        class Stream(IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter([(torch.ones(4), torch.tensor(0))] * 4)

        module = LogitDistillation(MLP(4), RecordedTeacher(MLP(4)))
        self.refuse(module, "an iterable one cannot be read twice", quick_trainer(), DataLoader(Stream(), batch_size=2))

    def test_a_change_beyond_the_first_samples_is_found_in_the_first_epoch(
        self, data: TensorDataset, quick_trainer: MakeTrainer
    ) -> None:
        class Late(Dataset[Any]):
            def __len__(self) -> int:
                return SAMPLES

            def __getitem__(self, index: int) -> Any:
                image, label = data[index]
                return (image + torch.rand(()) if index >= 16 else image), label

        module = make(RecordedTeacher)
        with pytest.raises(ValueError, match="from one epoch to the next"):
            quick_trainer().fit(module, DataLoader(Late(), batch_size=4, shuffle=True))

    def test_other_data_are_recorded_anew(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        module = make(RecordedTeacher)
        quick_trainer().fit(module, DataLoader(data, batch_size=4))
        other = TensorDataset(torch.randn(6, 1, 8, 8), torch.arange(6))
        quick_trainer().fit(module, DataLoader(other, batch_size=4))
        assert module._teacher.recorded == 6
        assert max(module.distances) < 1e-5
