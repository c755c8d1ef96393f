"""Teacher and student get their own view of one sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import BatchFormat, Distill, LogitDistillation, RecordedTeacher
from tests.callbacks.guests import Theirs, fit, network, theirs

OWN = BatchFormat(teacher_input_key="waveform")


def batches(labels: str = "label") -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "image": torch.randn(5, generator=generator),
            "waveform": torch.randn(9, generator=generator),
            labels: torch.tensor(i % 3),
        }
        for i in range(12)
    ]
    return DataLoader(rows, batch_size=4)  # type: ignore[arg-type]


def listener() -> tuple[nn.Module, list[Tensor]]:
    """A teacher of another modality, and what it is called with."""
    model, seen = nn.Linear(9, 3), []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    return model, seen


def expected() -> list[Tensor]:
    return [batch["waveform"] for batch in batches()]


def test_in_a_module_in_training_and_in_validation(quick_trainer: Any) -> None:
    teacher, seen = listener()
    module = LogitDistillation(network(), teacher, batch_format=OWN)
    quick_trainer(num_sanity_val_steps=0).fit(module, batches(), batches())
    trained, validated = seen[1:4], seen[4:]  # the first is the look ahead
    assert all(map(torch.equal, trained, expected()))
    assert all(map(torch.equal, validated, expected()))


def test_recorded(quick_trainer: Any) -> None:
    teacher, seen = listener()
    module = LogitDistillation(network(), RecordedTeacher(teacher), batch_format=OWN)
    quick_trainer(max_epochs=2, limit_val_batches=0).fit(module, batches())
    assert all(tensor.shape[1] == 9 for tensor in seen)


def test_in_a_module_of_theirs(tmp_path: Path) -> None:
    class Pictures(Theirs):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch["image"]), batch["label"])

    teacher, seen = listener()
    fit(theirs(Pictures), Distill(teacher, batch_format=OWN), tmp_path, data=batches(), max_epochs=1)
    assert all(map(torch.equal, seen[1:], expected()))


def test_a_key_that_is_missing_is_named_before_the_first_batch(quick_trainer: Any) -> None:
    teacher, _ = listener()
    module = LogitDistillation(network(), teacher, batch_format=BatchFormat(teacher_input_key="sound"))
    with pytest.raises(ValueError, match=r"no entry 'sound' in the batch; it has \['image', 'label', 'waveform'\]"):
        quick_trainer().fit(module, batches())
