"""Teachers of many kinds, all tiny, for images ``[B, 1, 8, 8]`` or tokens ``[B, 6]``, of 10 classes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from lit_distill import Ensemble
from lit_distill.models import SmallCNN


class CNN(nn.Module):
    """A stem, a stage and a head, which subclasses change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.stage = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(6, 10)

    def features(self, x: Tensor) -> Tensor:
        return self.stage(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x).mean((2, 3))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.stage = kind(8, 12, batch_first=True, num_layers=2, dropout=0.2)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x.flatten(1, 2))[0][:, -1])


class Buffers(nn.Module):
    """No parameter at all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(10, 64))
        self.register_buffer("scale", torch.tensor(0.1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(x.flatten(1), self.weight)


class Formula(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] * 2


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 40, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.fft.rfft2(x).flatten(1) @ self.weight.T).abs()


class Tied(CNN):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(6, 10)
        self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean((2, 3))
        return self.head(pooled) + self.again(pooled)


class Lazy(CNN):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(10)


class Checkpointed(CNN):
    def features(self, x: Tensor) -> Tensor:
        return self.stage(checkpoint(self.stem, x, use_reentrant=False))


class Hooked(CNN):
    """Keeps what its own hooks see."""

    def __init__(self) -> None:
        super().__init__()
        self.stage.register_forward_hook(lambda module, args, output: output * 2)
        self.head.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


class Half(nn.Module):
    """A ``Symmetric`` weight: half of it is learned."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


class TheirModule(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"depth": 2})
        self.net = CNN()

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        self.log("seen", out.mean())
        return out


class Cached(CNN):
    """Keeps a cache that is in no checkpoint, and a count that is a plain attribute."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.mask is None or self.mask.shape[-1] != x.shape[-1]:
            self.mask = torch.ones(x.shape[-1], dtype=x.dtype)
        return super().forward(x * self.mask)


class KeepsItsStem(CNN):
    """Has a part that never trains, by an own ``train``; one parameter is frozen, and asks for no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)

    def train(self, mode: bool = True) -> KeepsItsStem:
        super().train(mode)
        self.stem.eval()
        return self


def with_norm(norm: Callable[[nn.Module], nn.Module]) -> CNN:
    model = CNN()
    model.stage[0] = norm(model.stage[0])
    return model


def parametrized() -> CNN:
    model = CNN()
    parametrize.register_parametrization(model.head, "weight", Half())
    return model


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(SmallCNN(2).eval())


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(CNN().eval(), torch.randn(2, 1, 8, 8))


def exported() -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(CNN().eval(), (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: batch},)).module()


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(CNN().eval(), {nn.Linear})


def quantised_whole() -> nn.Module:
    """No parameter is left, of which its type could be told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {nn.Linear})


class Adjacent(CNN):
    """Holds a sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("graph", torch.eye(6).to_sparse())

    def features(self, x: Tensor) -> Tensor:
        found = super().features(x)
        mixed = torch.sparse.mm(self.graph, found.transpose(0, 1).flatten(1).float())
        return mixed.view(6, len(x), *found.shape[2:]).transpose(0, 1).to(found.dtype)


def timm_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(8, 4, 1, 10, embed_dim=12, depth=2, num_heads=2, drop_rate=0.2, drop_path_rate=0.2)


def hf_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=10))


def hf_bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes: dict[str, Any] = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return BertForSequenceClassification(BertConfig(vocab_size=30, **sizes, max_position_embeddings=16, num_labels=10))


def hf_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=30, n_embd=12, n_layer=2, n_head=2, n_positions=16, num_labels=10, pad_token_id=0)
    )


def in_training_mode(model: nn.Module) -> nn.Module:
    return model.train()


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "CNN": CNN,
    "SmallCNN": lambda: SmallCNN(2),
    "half frozen": KeepsItsStem,
    "timm ViT": timm_vit,
    "Hugging Face ViT": hf_vit,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "TorchScript": scripted,
    "traced": traced,
    "exported": exported,
    "int8 dynamic": quantised,
    "int8 alone": quantised_whole,
    "sparse buffer": Adjacent,
    "spectral_norm": lambda: with_norm(parametrizations.spectral_norm),
    "old spectral_norm": lambda: with_norm(torch.nn.utils.spectral_norm),
    "weight_norm": lambda: with_norm(parametrizations.weight_norm),
    "parametrized": parametrized,
    "tied": Tied,
    "lazy": Lazy,
    "LightningModule": TheirModule,
    "ensemble": lambda: Ensemble([CNN(), SmallCNN(2)]),
    "DataParallel": lambda: nn.DataParallel(CNN()),
    "bfloat16": lambda: CNN().to(torch.bfloat16),
    "float16": lambda: CNN().half(),
    "float64": lambda: CNN().double(),
    "channels last": lambda: CNN().to(memory_format=torch.channels_last),
    "checkpointed": Checkpointed,
    "own hooks": Hooked,
    "buffers alone": Buffers,
    "formula": Formula,
    "complex": Complex,
    "with a cache": Cached,
    "copy": lambda: copy.deepcopy(CNN().eval()),
}
TOKENS: dict[str, Callable[[], nn.Module]] = {"Hugging Face BERT": hf_bert, "Hugging Face GPT-2": hf_gpt2}
HIDDEN = ("TorchScript", "traced", "exported")  # of which no layer can be read
