"""``Distill`` in LightningModules that were not written for it, Lightning's own demos among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos import LightningTransformer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.demos.transformer import Transformer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from lit_distill import AttentionTransfer, Distill, Hint, SoftTarget
from lit_distill.utils.lightning_names import trainer_class
from tests.integration import hosts


def lightning_classifier() -> tuple[LightningModule, Any, Distill]:
    distill = Distill(
        teacher=hosts.small_network(16),
        criteria={"soft": SoftTarget(4), "hint": Hint("2", "2")},
        weights={"task": 0.1, "soft": 0.9, "hint": 1.0},
    )
    return hosts.ImageClassifier(), hosts.image_loader(), distill


def lightning_demo_transformer() -> tuple[LightningModule, Any, Distill]:
    tokens = torch.randint(0, 24, (8, 6))
    distill = Distill(teacher=Transformer(24, ninp=16, nhead=2, nhid=16), student="model")
    module = LightningTransformer(vocab_size=24)
    module.prepare_data = lambda: None  # it would download WikiText
    return module, DataLoader(TensorDataset(tokens, tokens), batch_size=4), distill


def lightning_demo_boring() -> tuple[LightningModule, Any, Distill]:
    distill = Distill(teacher=nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2)), student="layer")
    return BoringModel(), DataLoader(torch.rand(8, 32), batch_size=4), distill


def torchvision_reference() -> tuple[LightningModule, Any, Distill]:
    distill = Distill(
        teacher=resnet18(num_classes=4),
        student="net.classifier",
        criteria={"soft": SoftTarget(1), "attention": AttentionTransfer("layer*", "layer*")},
        weights={"soft": 1.0, "attention": 100.0},
    )
    return hosts.ReferenceClassifier(), hosts.image_loader(32, 4, 2, channels=3), distill


def hugging_face_text() -> tuple[LightningModule, Any, Distill]:
    distill = Distill(
        teacher=hosts.bert(2),
        criteria={"soft": SoftTarget(2), "hidden": Hint("bert.encoder.layer.0", "bert.encoder.layer.1")},
        weights={"soft": 1.0, "hidden": 1.0},
    )
    return hosts.TextClassifier(), hosts.text_loader(), distill


def segmentation() -> tuple[LightningModule, Any, Distill]:
    distill = Distill(
        teacher=hosts.segmentation_network(16),
        student="segmenter",
        criteria={"soft": SoftTarget(1), "hint": Hint("backbone.layers.out", "backbone.layers.out")},
        weights={"soft": 1.0, "hint": 0.5},
    )
    return hosts.Segmenter(), hosts.segmentation_loader(), distill


HOSTS = [
    lightning_classifier,
    lightning_demo_transformer,
    lightning_demo_boring,
    torchvision_reference,
    hugging_face_text,
    segmentation,
]


class _Read(Callback):
    """Every figure that the trainer logged, step by step."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("make", HOSTS, ids=lambda make: make.__name__)
def test_the_loss_is_theirs_and_the_criteria(make: Any, quick_trainer: Any) -> None:
    module, loader, distill = make()
    teacher = distill.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    read = _Read()
    trainer = quick_trainer(trainer_class(module), callbacks=[distill, read], max_epochs=2, log_every_n_steps=1)
    trainer.fit(module, loader)
    names = list(distill.criteria.criteria())
    for figure in read.figures:
        weighted = sum(figure[f"distill/weighted/{name}"] for name in names)
        assert figure["distill/loss"] == pytest.approx(weighted, rel=1e-5)
        assert all(figure[f"distill/criteria/{name}"] > 0 for name in names[1:])
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert not any(name.startswith("lit_distill") for name in module.state_dict())
