"""Recorded outputs of texts that are padded to differing lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import DistillationModule, Hint, RecordedTeacher, SoftTarget
from lit_distill.outputs import Outputs
from lit_distill.recording.padding import cut_positions, pad_positions, where_counted

KEEP = torch.arange(4) < torch.tensor([[2], [4]])
OUTPUTS = Outputs(torch.randn(2, 4, 3), {"body": torch.randn(2, 4, 5), "pooled": torch.randn(2, 5)}, KEEP)


def test_what_is_filled_up_is_cut_to_what_it_was() -> None:
    filled = pad_positions(OUTPUTS, KEEP, 7)
    assert filled.logits.shape == (2, 7, 3)
    assert filled.features["body"].shape == (2, 7, 5)
    assert filled.features["pooled"] is OUTPUTS.features["pooled"]
    assert not filled.logits[:, 4:].any()
    again = cut_positions(filled, KEEP, 7)
    assert torch.equal(again.logits, OUTPUTS.logits)
    assert torch.equal(again.features["body"], OUTPUTS.features["body"])


def test_what_does_not_count_becomes_zero() -> None:
    found = where_counted(OUTPUTS, KEEP)
    assert torch.equal(found.logits[KEEP], OUTPUTS.logits[KEEP])
    assert not found.logits[~KEEP].any()


@pytest.mark.parametrize(
    ("mask", "positions", "message"),
    [
        (None, 7, "has no mask"),
        (KEEP.unsqueeze(1), 7, r"needs a mask \[B, T\]"),
        (~KEEP, 7, "padding_side to 'right'"),
        (KEEP, 3, r"4 positions, and RecordedTeacher\(positions=3\)"),
    ],
)
def test_what_cannot_be_stored_is_refused(mask: Tensor | None, positions: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pad_positions(OUTPUTS, mask, positions)


class Tagger(nn.Module):
    calls = 0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.body, self.fc = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        self.calls += 1
        return {"logits": self.fc(self.body(self.words(input_ids)))}


def collate(lengths: list[int]) -> dict[str, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = (torch.arange(max(lengths)) + torch.tensor(lengths)[:, None]) % 20
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_recording_of_texts_teaches_as_the_live_teacher(
    quick_trainer: Callable[..., Trainer], tmp_path: Path, in_folder: bool
) -> None:
    def trained(teacher: Any) -> list[Tensor]:
        torch.manual_seed(0)
        student = Tagger(6)
        criteria = {"soft": SoftTarget(), "hint": Hint("body", "body")}
        module = DistillationModule(
            student,
            teacher,
            criteria,  # type: ignore[arg-type]
            {"soft": 1.0, "hint": 1.0},
            optimizer=lambda p: torch.optim.SGD(p, 0.1),
        )
        data = DataLoader([3, 9, 5, 7, 4, 8], batch_size=2, collate_fn=collate, shuffle=True)  # type: ignore[arg-type]
        torch.manual_seed(1)
        quick_trainer(max_epochs=3).fit(module, data)
        return [parameter.detach() for parameter in student.parameters()]

    network = Tagger(8)
    path = tmp_path / "record" if in_folder else None
    recorded = RecordedTeacher(network, path, logits="float32", features="float32", positions=9)
    for live, again in zip(trained(network), trained(recorded), strict=True):
        torch.testing.assert_close(live, again, rtol=1e-5, atol=1e-6)
    assert recorded.recorded == 6
