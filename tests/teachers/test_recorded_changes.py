"""A recording notices within an epoch that the data or the teacher are no longer what it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lit_distill import FeatureDistillation, LogitDistillation, RecordedTeacher, SoftTarget
from lit_distill.outputs import Outputs
from lit_distill.recording.encoding import Encoding, Formats

MakeTrainer = Callable[..., Trainer]


class Rows(Dataset[Tensor]):
    """Samples whose transform can be switched."""

    def __init__(self, count: int = 16) -> None:
        self.count, self.scale = count, 1.0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.linspace(-1, 1, 4) * (index + 1) / 4 * self.scale


class Mixed(LightningDataModule):
    """Mixes batches after they are on the device, until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.on = True

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Rows(), batch_size=8)

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return 0.5 * batch + 0.5 * batch[torch.randperm(len(batch))] if self.on else batch


class At(Callback):
    """Does something at the start of an epoch."""

    def __init__(self, epoch: int, action: Callable[[], Any]) -> None:
        self.epoch, self.action, self.batches = epoch, action, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.action()

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        self.batches += 1


def distillation(teacher: nn.Module | None = None, **settings: Any) -> LogitDistillation:
    recorded = RecordedTeacher(teacher or nn.Linear(4, 3), logits="float32", **settings)
    return LogitDistillation(nn.Linear(4, 3), recorded, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})


def stretch(rows: Rows) -> None:
    rows.scale = 3.0


@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_another_transform_stops_the_fit_before_the_next_step(
    quick_trainer: MakeTrainer, tmp_path: Path, folder: bool
) -> None:
    rows = Rows()
    at = At(2, lambda: stretch(rows))
    module = distillation(path=tmp_path / "record" if folder else None)
    with pytest.raises(
        ValueError, match=r"8 of the 8 samples of batch 0 of epoch 2 are not those that were recorded.*transform"
    ):
        quick_trainer(max_epochs=4, callbacks=[at]).fit(module, DataLoader(rows, batch_size=8))
    assert at.batches == 4


def test_mixing_that_is_switched_off_in_a_transfer_hook_stops_the_fit(quick_trainer: MakeTrainer) -> None:
    data = Mixed()
    at = At(1, lambda: setattr(data, "on", False))
    with pytest.raises(ValueError, match=r"samples of batch 0 of epoch 1 are not the teacher's outputs.*MixUp"):
        quick_trainer(max_epochs=3, callbacks=[at]).fit(distillation(views=2), datamodule=data)
    assert at.batches == 2


def test_a_transform_that_was_changed_before_a_resumed_run_stops_it(quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="half")
    rows, teacher = Rows(), nn.Linear(4, 3)
    trainer = quick_trainer(enable_checkpointing=True, callbacks=[keep])
    trainer.fit(distillation(teacher, path=tmp_path / "record"), DataLoader(rows, batch_size=8))

    class Later(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            stretch(rows)  # after the recording was found to fit

    at = At(-1, lambda: None)
    with pytest.raises(ValueError, match="samples of batch 0 of epoch 1 are not those that were recorded"):
        quick_trainer(max_epochs=3, callbacks=[Later(), at]).fit(
            distillation(teacher, path=tmp_path / "record"),
            DataLoader(rows, batch_size=8),
            ckpt_path=tmp_path / "half.ckpt",
        )
    assert at.batches == 0


def test_weights_that_are_loaded_during_the_fit_stop_it_and_are_named(quick_trainer: MakeTrainer) -> None:
    teacher = nn.Linear(4, 3)
    at = At(1, lambda: teacher.load_state_dict(nn.Linear(4, 3).state_dict()))
    with pytest.raises(ValueError, match="the teacher's weights were changed after its outputs were recorded"):
        quick_trainer(max_epochs=3, callbacks=[at]).fit(distillation(teacher), DataLoader(Rows(), batch_size=8))


def test_the_teacher_is_asked_about_one_batch_an_epoch(quick_trainer: MakeTrainer) -> None:
    calls: list[int] = []
    teacher = nn.Linear(4, 3)
    at = At(0, calls.clear)  # what the recording itself took
    teacher.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    at.action = lambda: None
    quick_trainer(max_epochs=5, callbacks=[at]).fit(distillation(teacher), DataLoader(Rows(), batch_size=2))
    # The look ahead (2 samples), the example (2), the recording (8 times 2), and one batch of each of 5 epochs.
    assert sum(calls) == 2 + 2 + 16 + 5 * 2


# One size ----------------------------------------------------------------------------------------------------------


def token_lengths(lengths: list[int]) -> Tensor:
    return torch.ones(len(lengths), max(lengths), dtype=torch.long)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.fc = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.words(ids))


@pytest.mark.parametrize("logits", ["float32", "float16", "int8", "top_k"])
@pytest.mark.parametrize("length", [3, 7])
def test_outputs_of_another_length_are_refused_with_the_reason(
    quick_trainer: MakeTrainer, logits: Any, length: int
) -> None:
    top = {"top_k": 2} if logits == "top_k" else {}
    teacher = RecordedTeacher(Tokens(), logits=logits, **top)
    module = LogitDistillation(Tokens(), teacher, criteria={"soft": SoftTarget()}, weights={"soft": 1.0})
    data = DataLoader([3, 5, length, 2], batch_size=2, collate_fn=token_lengths)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"outputs of one size.*\[5, 4\] in one batch and \[{length}, 4\].*pad"):
        quick_trainer().fit(module, data)


def test_maps_of_another_size_are_refused_with_the_reason(quick_trainer: MakeTrainer) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean((2, 3)))

    def collate(sizes: list[int]) -> Any:
        return torch.ones(len(sizes), 1, max(sizes), max(sizes)), torch.zeros(len(sizes), dtype=torch.long)

    module = FeatureDistillation(Net(), RecordedTeacher(Net()), student_layer="conv", teacher_layer="conv")
    with pytest.raises(
        ValueError, match=r"the conv of a sample are \[4, 8, 8\] in one batch and \[4, 6, 6\] in another"
    ):
        quick_trainer().fit(module, DataLoader([8, 8, 6, 6], batch_size=2, collate_fn=collate))  # type: ignore[arg-type]


def test_equal_sizes_are_recorded_as_before(quick_trainer: MakeTrainer) -> None:
    module = LogitDistillation(
        Tokens(), RecordedTeacher(Tokens()), criteria={"soft": SoftTarget()}, weights={"soft": 1.0}
    )
    quick_trainer().fit(module, DataLoader(TensorDataset(torch.randint(0, 20, (6, 5))), batch_size=2))
    assert module._teacher.recorded == 6


def test_an_encoding_takes_any_number_of_samples_of_the_size_it_knows() -> None:
    encoding = Encoding(Outputs(torch.zeros(2, 5)).shapes(), Formats("float32"))
    assert len(encoding.encode(Outputs(torch.randn(7, 5)))) == 7
    with pytest.raises(ValueError, match="outputs of one size"):
        encoding.encode(Outputs(torch.randn(7, 6)))
