"""Positions and samples that do not count in training do not count in validation's figures either, whatever the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import BatchFormat
from lit_distill.modules import MultiTaskDistillation, MutualDistillation

QuickTrainer = Callable[..., Trainer]


class Tagger(nn.Module):
    """Says the class 0 of every token; the tokens' number is what it reads."""

    def __init__(self, head: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.zeros_(self.layer.weight)
        with torch.no_grad():
            self.layer.bias.copy_(torch.tensor([head, 0.0, 0.0]))

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.layer(tokens)
        return logits


class TwoTaggers(nn.Module):
    """A head for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"part": Tagger(), "entity": Tagger()})

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {name: head(tokens) for name, head in self.heads.items()}


def texts(several: bool) -> DataLoader[Any]:
    """Sequences of 5 tokens, of which 2 count: those are of class 0, the padding of class 1."""
    labels = torch.tensor([0, 0, 1, 1, 1])
    target: Any = {"part": labels, "entity": labels} if several else labels
    sample = {"tokens": torch.randn(5, 4), "lengths": torch.tensor(2), "labels": target}
    return DataLoader([sample] * 8, batch_size=4)


FORMAT = BatchFormat(target_key="labels", lengths_key="lengths")


def test_lengths_in_the_figures_of_peers(quick_trainer: QuickTrainer) -> None:
    module = MutualDistillation([Tagger(), Tagger(head=1.5)], batch_format=FORMAT)
    figures = quick_trainer().validate(module, texts(several=False), verbose=False)[0]
    for name in ("student", "peer_0", "peer_1"):
        assert figures[f"val/accuracy/{name}"] == 1.0


def test_lengths_in_the_figures_of_several_tasks(quick_trainer: QuickTrainer) -> None:
    heads = {"part": "heads.part", "entity": "heads.entity"}
    module = MultiTaskDistillation(TwoTaggers(), heads, TwoTaggers(), batch_format=FORMAT)
    figures = quick_trainer().validate(module, texts(several=True), verbose=False)[0]
    for task in heads:
        assert figures[f"val/{task}/accuracy/student"] == 1.0
        assert figures[f"val/{task}/accuracy/teacher"] == 1.0


class Rows(nn.Module):
    """Two heads over rows of which some count, as a graph's nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"colour": Tagger(), "shape": Tagger()})

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: head(rows) for name, head in self.heads.items()}


def test_a_mask_of_samples_in_several_tasks(quick_trainer: QuickTrainer) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    batch = {
        "rows": torch.randn(4, 4),
        "counts": torch.tensor([True, True, False, False]),
        "labels": {"colour": labels, "shape": labels},
    }
    heads = {"colour": "heads.colour", "shape": "heads.shape"}
    format_ = BatchFormat(target_key="labels", mask_key="counts")
    module = MultiTaskDistillation(Rows(), heads, batch_format=format_)
    loader = DataLoader([batch], batch_size=None)
    trainer = quick_trainer()
    trainer.fit(module, loader, loader)
    for task in heads:
        assert trainer.callback_metrics[f"val/{task}/accuracy/student"] == 1.0


@pytest.mark.parametrize("option", ["mask_from_labels", "resize_logits"])
def test_options_of_one_tasks_labels_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option}.*one task"):
        MultiTaskDistillation(
            TwoTaggers(), {"part": "heads.part"}, batch_format=BatchFormat(**{option: True}), task="multiclass"
        )


def test_resized_logits_of_peers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"resize_logits.*peers"):
        MutualDistillation([Tagger(), Tagger()], batch_format=BatchFormat(resize_logits=True))
