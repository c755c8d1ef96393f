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
from lit_distill.batch.as_trained import on_device
from lit_distill.batch.examples import training_data
from lit_distill.data import Digits
from lit_distill.models import MLP
from lit_distill.utils.rng import collect_rng_state


class Looking(LightningModule):
    """Keeps the example that it finds in ``setup``, and trains nothing."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.example: Any = None
        self.unchanged = False
        self.whole = whole
        self.seen: list[Any] = []

    def setup(self, stage: str) -> None:
        before = collect_rng_state()
        self.example = training_data(self.trainer).example(self.whole)
        after = collect_rng_state()
        self.unchanged = all(str(before[key]) == str(after[key]) for key in ("python", "numpy"))
        self.unchanged &= torch.equal(before["torch"], after["torch"])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch)

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


def look(trainer: Any, source: Any, whole: bool = False) -> Looking:
    module = Looking(whole)
    if isinstance(source, Digits):
        trainer.fit(module, datamodule=source)
    else:
        trainer.fit(module, source)
    return module


@pytest.fixture
def idle(quick_trainer: Callable[..., Trainer]) -> Any:
    return quick_trainer(limit_train_batches=0, limit_val_batches=0)


class TestExampleBatch:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_is_the_first_two_samples_of_the_sampler(self, idle: Any, workers: int) -> None:
        module = look(idle, DataLoader(Noisy(), batch_size=4, sampler=[3, 1, 0], num_workers=workers))
        inputs, target = module.example
        assert torch.equal(inputs, torch.tensor([[3.0] * 3, [1.0] * 3]))
        assert target.tolist() == [3, 1]
        assert module.unchanged

    def test_is_a_whole_batch_where_that_is_wanted(self, idle: Any) -> None:
        module = look(idle, DataLoader(Noisy(), batch_size=4, sampler=[3, 1, 0, 2]), whole=True)
        assert module.example[1].tolist() == [3, 1, 0, 2]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: [DataLoader(Noisy(), batch_size=4), DataLoader(TensorDataset(torch.ones(3, 9)))],
            lambda: {"a": DataLoader(Noisy(), batch_size=4), "b": DataLoader(TensorDataset(torch.ones(3, 9)))},
            lambda: CombinedLoader([DataLoader(Noisy(), batch_size=4), DataLoader(Stream(), batch_size=2)], "max_size"),
        ],
        ids=["list", "dict", "combined"],
    )
    def test_of_several_loaders_has_their_structure(self, idle: Any, make: Callable[[], Any]) -> None:
        module = look(idle, make())
        assert len(module.example) == 2
        first = module.example["a"] if isinstance(module.example, dict) else module.example[0]
        assert first[1].tolist() == [0, 1]
        assert module.unchanged

    def test_a_samplers_generator_and_counters_stay_as_they_were(self, idle: Any) -> None:
        class Counting(torch.utils.data.Sampler[int]):
            passes = 0

            def __iter__(self) -> Iterator[int]:
                self.passes += 1
                return iter(range(5))

            def __len__(self) -> int:
                return 5

        sampler, generator = Counting(), torch.Generator().manual_seed(3)
        state = generator.get_state()
        look(idle, DataLoader(Noisy(), batch_size=4, sampler=sampler))
        assert sampler.passes == 0
        look(idle, DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator))
        assert torch.equal(generator.get_state(), state)

    def test_generators_and_counters_of_the_users_own_stay_as_they_were(self, idle: Any) -> None:
        class Drawing(torch.utils.data.Sampler[int]):
            def __init__(self) -> None:
                self.numpy, self.python = np.random.default_rng(0), random.Random(0)
                self.counts = {"passes": 0}

            def __iter__(self) -> Iterator[int]:
                self.counts["passes"] += 1
                return iter([int(self.numpy.integers(5)), self.python.randrange(5)])

            def __len__(self) -> int:
                return 2

        class OwnNoise(Dataset[Tensor]):
            def __init__(self) -> None:
                self.rng = np.random.default_rng(0)

            def __len__(self) -> int:
                return 5

            def __getitem__(self, index: int) -> Tensor:
                return torch.tensor(self.rng.random())

        sampler, data = Drawing(), OwnNoise()
        look(idle, DataLoader(data, batch_size=2, sampler=sampler))
        assert sampler.counts == {"passes": 0}
        assert sampler.numpy.random() == np.random.default_rng(0).random()
        assert sampler.python.random() == random.Random(0).random()
        assert data.rng.random() == np.random.default_rng(0).random()

    def test_the_batch_sampler_may_name_samples_in_any_way(self, idle: Any) -> None:
        class Sized(Dataset[Tensor]):
            def __getitem__(self, key: Any) -> Tensor:
                index, size = key
                return torch.full((size,), float(index))

        loader = DataLoader(Sized(), batch_sampler=[[(2, 7), (4, 7), (6, 7)]])  # type: ignore[arg-type]
        assert look(idle, loader).example.tolist() == [[2.0] * 7, [4.0] * 7]

    def test_workers_read_where_the_loader_has_workers(self, idle: Any) -> None:
        class InWorkers(Dataset[int]):
            def __len__(self) -> int:
                return 4

            def __getitem__(self, index: int) -> int:
                assert torch.utils.data.get_worker_info() is not None, "opened in the main process"
                return index

        assert look(idle, DataLoader(InWorkers(), batch_size=2, num_workers=1)).example.tolist() == [0, 1]

    def test_datamodule(self, idle: Any) -> None:
        data = Digits(batch_size=8)
        module = look(idle, data)
        known = {(image.numpy().tobytes(), int(label)) for image, label in data.train_data}
        assert all((image.numpy().tobytes(), int(label)) in known for image, label in zip(*module.example, strict=True))
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

    def test_a_stream_loses_no_batch_and_is_read_once(self, quick_trainer: Callable[..., Trainer]) -> None:
        class Once(IterableDataset[Tensor]):
            def __init__(self) -> None:
                self.source = (torch.tensor(float(i)) for i in range(6))

            def __iter__(self) -> Iterator[Tensor]:
                yield from self.source

        for make in (lambda: DataLoader(Once(), batch_size=2), lambda: (torch.full((2,), float(i)) for i in range(3))):
            module = look(quick_trainer(max_epochs=1, limit_val_batches=0), make())
            assert len(module.seen) == 3
            assert module.seen[0] is module.example

    def test_later_epochs_of_a_stream_are_whole(self, quick_trainer: Callable[..., Trainer]) -> None:
        module = look(quick_trainer(max_epochs=3, limit_val_batches=0), DataLoader(Stream(), batch_size=3))
        assert len(module.seen) == 6
        for epoch in range(3):
            targets = torch.cat([target for _, target in module.seen[2 * epoch : 2 * epoch + 2]])
            assert sorted(targets.tolist()) == list(range(6))

    def test_a_loader_is_made_once_and_again_only_where_it_is_to_be_reloaded(
        self, quick_trainer: Callable[..., Trainer]
    ) -> None:
        class Own(Looking):
            made = 0

            def train_dataloader(self) -> DataLoader[Any]:
                self.made += 1
                return DataLoader(Noisy(), batch_size=3)

        for reload, expected in ((0, 1), (1, 3)):
            module = Own()
            quick_trainer(max_epochs=3, limit_val_batches=0, reload_dataloaders_every_n_epochs=reload).fit(module)
            assert module.made == expected

    def test_data_given_to_a_second_fit_are_its_own(self, quick_trainer: Callable[..., Trainer]) -> None:
        class Failing(Looking):
            def setup(self, stage: str) -> None:
                super().setup(stage)
                raise RuntimeError("stop")

        trainer = quick_trainer(max_epochs=1, limit_val_batches=0)
        with pytest.raises(RuntimeError, match="stop"):
            trainer.fit(Failing(), DataLoader(torch.zeros(2, 3)))
        module = Looking()
        trainer.fit(module, DataLoader(torch.ones(2, 3)))
        assert all(bool((batch == 1).all()) for batch in module.seen)

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


class TestOnDevice:
    def test_the_hooks_and_the_precision_of_the_fit_are_used(self, quick_trainer: Callable[..., Trainer]) -> None:
        class Scaled(Looking):
            def setup(self, stage: str) -> None:
                raw = training_data(self.trainer).example()
                self.example = on_device(self.trainer, self, raw, torch.device("cpu"))

            def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
                return batch.float() / 255

        module = Scaled()
        data = DataLoader(torch.full((4, 3), 255, dtype=torch.uint8), batch_size=2)
        quick_trainer(max_epochs=1, limit_val_batches=0).fit(module, data)
        assert module.example.tolist() == [[1.0] * 3] * 2

    def test_networks_in_the_hooks_learn_nothing_from_the_look(self, quick_trainer: Callable[..., Trainer]) -> None:
        from lightning.pytorch import LightningDataModule

        from lit_distill import Distill, LogitDistillation

        class Normalised(LightningDataModule):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm1d(4)

            def train_dataloader(self) -> DataLoader[Any]:
                return DataLoader(TensorDataset(torch.randn(6, 4), torch.randint(0, 3, (6,))), batch_size=2)

            def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
                with torch.no_grad():
                    return self.norm(batch[0]), batch[1]

        class Own(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = nn.Linear(4, 3)

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), 0.1)

        for module, callbacks in (
            (LogitDistillation(nn.Linear(4, 3), nn.Linear(4, 3)), []),
            (Own(), [Distill(nn.Linear(4, 3))]),
        ):
            data = Normalised()
            quick_trainer(max_epochs=1, callbacks=callbacks).fit(module, datamodule=data)
            assert data.norm.num_batches_tracked == 3
