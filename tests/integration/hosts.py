"""LightningModules as their authors write them: none knows of distillation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchvision.models import resnet18
from torchvision.models.segmentation import FCN
from torchvision.transforms import v2
from transformers import BertConfig, BertForSequenceClassification

SENTENCES = [
    "a warm and funny film",
    "dull from start to end",
    "the cast is great and the plot is warm",
    "a dull plot and a cast to forget",
    "funny and great",
    "forget it",
    "great film",
    "a film that is dull dull dull",
]


class ImageClassifier(LightningModule):
    """In the style of Bolts and of countless projects: MixUp inside the step, a metric, hyper-parameters."""

    def __init__(self, width: int = 8, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = small_network(width)
        self.train_accuracy = MulticlassAccuracy(num_classes=4)
        self.seen: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        share = 0.8
        mixed = share * images + (1 - share) * images.flip(0)
        logits = self.model(mixed)
        loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels.flip(0))
        self.train_accuracy(logits, labels)
        self.seen.append(len(images))
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", self.train_accuracy, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.hparams["lr"], momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)]


def small_network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 4),
    )  # fmt: skip


def image_loader(size: int = 8, count: int = 16, batch_size: int = 4, channels: int = 1) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, size, size, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % 4), batch_size=batch_size)


class ReferenceClassifier(LightningModule):
    """torchvision's reference training: CutMix or MixUp of the loader's batches, label smoothing, weight decay by group."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"classifier": resnet18(num_classes=4)})
        self.mix = v2.RandomChoice([v2.MixUp(num_classes=4), v2.CutMix(num_classes=4)])
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.mix(*batch) if self.trainer.training else batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        output = self.net["classifier"](batch[0])
        return {"loss": self.loss(output, batch[1]), "output": output.detach()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        norms = [p for m in self.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
        chosen = {id(p) for p in norms}
        others = [p for p in self.parameters() if id(p) not in chosen]
        groups = [{"params": others, "weight_decay": 1e-4}, {"params": norms, "weight_decay": 0.0}]
        return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


class TextClassifier(LightningModule):
    """A Hugging Face classifier, called with all that the tokenizer made, its own loss returned."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.model = bert(layers)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        outputs = self.model(**batch)
        self.log("loss", outputs.loss)
        return outputs.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def bert(layers: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def text_loader() -> DataLoader[Any]:
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(["[PAD]", *words])}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(pad_id=0)
    rows = [
        {
            "input_ids": torch.tensor(e.ids),
            "attention_mask": torch.tensor(e.attention_mask),
            "labels": torch.tensor(i % 2),
        }
        for i, e in enumerate(tokenizer.encode_batch(SENTENCES))
    ]
    return DataLoader(rows, batch_size=4)  # type: ignore[arg-type]


class Segmenter(LightningModule):
    """Dense prediction with torchvision's FCN head, whose output is a dict; made in ``setup``, as many do."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width

    def setup(self, stage: str) -> None:
        self.segmenter = segmentation_network(self.width)
        self.iou = MulticlassJaccardIndex(num_classes=3)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        logits = self.segmenter(batch[0])["out"]
        self.iou(logits, batch[1])
        self.log("iou", self.iou)
        return F.cross_entropy(logits, batch[1], ignore_index=255)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def segmentation_network(width: int) -> FCN:
    layers = [("stem", nn.Conv2d(3, width, 3, stride=2, padding=1)), ("out", nn.Conv2d(width, width, 3, padding=1))]
    backbone = nn.Sequential()
    for name, layer in layers:
        backbone.add_module(name, layer)
    return FCN(_Named(backbone), nn.Conv2d(width, 3, 1))


class _Named(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layers(x)}


def segmentation_loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 16, 16, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 3, (8, 16, 16), generator=generator)), batch_size=4)
