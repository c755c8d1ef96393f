"""The look at the data and the networks before the first batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lit_distill import SupervisedModule
from lit_distill.data import Digits
from lit_distill.models import MLP, SmallCNN
from lit_distill.probe import as_in_evaluation, count_parameters, example_batch, unreached_parameters
from lit_distill.rng import collect_rng_state


class Looking(LightningModule):
    """Keeps the example that it finds in ``setup``, and trains nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.example: Any = None
        self.unchanged = False

    def setup(self, stage: str) -> None:
        before = collect_rng_state()
        self.example = example_batch(self.trainer)
        after = collect_rng_state()
        self.unchanged = all(str(before[key]) == str(after[key]) for key in ("python", "numpy"))
        self.unchanged &= torch.equal(before["torch"], after["torch"])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


class Noisy(Dataset[tuple[Tensor, int]]):
    """Samples that draw from every generator."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3,), float(index)) + torch.rand(()) * 0 + random.random() * 0 + np.random.rand() * 0, index


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples of no known length, shuffled by torch's generator."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(6).tolist():
            yield torch.full((3,), float(index)), torch.tensor(index)


class Nothing(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


def as_dict(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    return {"pixel_values": torch.stack([s[0] for s in samples]), "labels": torch.tensor([s[1] for s in samples])}


def look(trainer: Any, source: Any) -> Looking:
    module = Looking()
    if isinstance(source, Digits):
        trainer.fit(module, datamodule=source)
    else:
        trainer.fit(module, source)
    return module


@pytest.fixture
def idle(quick_trainer: Callable[..., Trainer]) -> Any:
    return quick_trainer(limit_train_batches=0, limit_val_batches=0)


class TestExampleBatch:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: DataLoader(Noisy(), batch_size=4),
            lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=1),
            lambda: [DataLoader(Noisy(), batch_size=4), DataLoader(TensorDataset(torch.ones(3, 9)))],
            lambda: {"a": DataLoader(Noisy(), batch_size=4)},
            lambda: CombinedLoader([DataLoader(Noisy(), batch_size=4)], "max_size"),
        ],
        ids=["loader", "workers", "list", "dict", "combined"],
    )
    def test_is_the_first_two_samples(self, idle: Any, make: Callable[[], Any]) -> None:
        module = look(idle, make())
        inputs, target = module.example
        assert torch.equal(inputs, torch.tensor([[0.0] * 3, [1.0] * 3]))
        assert target.tolist() == [0, 1]
        assert module.unchanged

    def test_datamodule(self, idle: Any) -> None:
        data = Digits(batch_size=8)
        module = look(idle, data)
        for position, (image, label) in enumerate(zip(*module.example, strict=True)):
            assert torch.equal(image, data.train_data[position][0])
            assert label == data.train_data[position][1]
        assert module.unchanged

    def test_dict_batches_by_the_loaders_own_collate(self, idle: Any) -> None:
        module = look(idle, DataLoader(Noisy(), batch_size=4, collate_fn=as_dict))
        assert module.example["labels"].tolist() == [0, 1]
        assert module.example["pixel_values"].tolist() == [[0.0] * 3, [1.0] * 3]

    def test_iterable_data(self, idle: Any) -> None:
        module = look(idle, DataLoader(Stream(), batch_size=4))
        inputs, target = module.example
        assert torch.equal(inputs[:, 0], target.float())
        assert len(target) == 4
        assert module.unchanged

    def test_one_sample_is_used_twice(self, idle: Any) -> None:
        data = TensorDataset(torch.tensor([[7.0]]), torch.tensor([1]))
        assert look(idle, DataLoader(data)).example[0].tolist() == [[7.0], [7.0]]

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (DataLoader(TensorDataset(torch.empty(0, 3))), r"training data set \(TensorDataset\) is empty"),
            (DataLoader(Nothing()), "training DataLoader is empty"),
        ],
    )
    def test_empty_data(self, idle: Any, source: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            look(idle, source)

    def test_a_module_with_its_own_loader(self, idle: Any) -> None:
        class Own(Looking):
            def train_dataloader(self) -> DataLoader[Any]:
                return DataLoader(Noisy(), batch_size=3)

        module = Own()
        idle.fit(module)
        assert module.example[1].tolist() == [0, 1]

    def test_no_data_is_said_before_the_first_step(self, quick_trainer: Callable[..., Trainer]) -> None:
        with pytest.raises(ValueError, match=r"data set .TensorDataset. is empty"):
            quick_trainer().fit(SupervisedModule(MLP(3)), DataLoader(TensorDataset(torch.empty(0, 3))))


class TestAsInEvaluation:
    def test_restores_modes_buffers_and_random_states(self) -> None:
        model = SmallCNN(2)
        model.stage2.eval()
        modes = [child.training for child in model.modules()]
        buffers = [buffer.clone() for buffer in model.buffers()]
        state = collect_rng_state()
        with as_in_evaluation(model):
            assert not any(child.training for child in model.modules())
            model(torch.randn(3, 1, 8, 8))
            random.random(), np.random.rand()
        assert [child.training for child in model.modules()] == modes
        for before, after in zip(buffers, model.buffers(), strict=True):
            assert torch.equal(before, after)
        after_state = collect_rng_state()
        assert torch.equal(state["torch"], after_state["torch"])
        assert (state["python"], state["numpy"]) == (after_state["python"], after_state["numpy"])

    def test_restores_after_an_error(self) -> None:
        model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
        with pytest.raises(RuntimeError, match="stop"), as_in_evaluation(model):
            raise RuntimeError("stop")
        assert all(child.training for child in model.modules())


def test_unreached_parameters() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    assert unreached_parameters(model["a"](torch.ones(1, 2)).sum(), model) == ["b.weight", "b.bias"]


def test_count_parameters() -> None:
    assert count_parameters(nn.Linear(3, 4)) == 16
