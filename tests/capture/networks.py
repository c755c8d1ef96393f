"""Small networks of many kinds, by name, each with an input of two samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
_PYRAMID: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32]}

HUGGING_FACE: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_TEXT)),
    "distilbert": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=100)
    ),
    "albert": lambda: hf.AlbertForSequenceClassification(hf.AlbertConfig(embedding_size=16, **_TEXT)),
    "gpt2": lambda: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(n_embd=32, n_layer=4, n_head=2, vocab_size=100, pad_token_id=0)
    ),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=100)
    ),
    "bart": lambda: hf.BartForConditionalGeneration(
        hf.BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            vocab_size=100,
        )
    ),
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(image_size=32, patch_size=8, **{k: v for k, v in _TEXT.items() if k != "vocab_size"})
    ),
    "swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4)
    ),
    "convnext": lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(depths=[1, 1, 2, 1], **_PYRAMID)),
    "resnet": lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(embedding_size=8, depths=[1, 1, 2, 1], layer_type="basic", **_PYRAMID)
    ),
    "segformer": lambda: hf.SegformerForImageClassification(
        hf.SegformerConfig(num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=32, **_PYRAMID)
    ),
    "mobilenet_v2": lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(depth_multiplier=0.25)),
    "wav2vec2": lambda: hf.Wav2Vec2ForSequenceClassification(
        hf.Wav2Vec2Config(
            conv_dim=[16, 16],
            conv_stride=[5, 2],
            conv_kernel=[10, 3],
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=16,
            **{k: v for k, v in _TEXT.items() if k != "vocab_size"},
        )
    ),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(pad_token_id=0, **_TEXT)),
    "electra": lambda: hf.ElectraForSequenceClassification(hf.ElectraConfig(embedding_size=32, **_TEXT)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_TEXT)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=100,
            hidden_size=32,
            num_hidden_layers=4,
            ffn_dim=64,
            num_attention_heads=2,
            word_embed_proj_dim=32,
        )
    ),
    "mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=4, state_size=4)
    ),
    "regnet": lambda: hf.RegNetForImageClassification(
        hf.RegNetConfig(embedding_size=8, depths=[1, 1, 2, 1], groups_width=8, **_PYRAMID)
    ),
    "whisper": lambda: hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            vocab_size=100,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_mel_bins=8,
            max_source_positions=20,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ),
}
TEXT = ("bert", "distilbert", "albert", "gpt2", "roberta", "electra", "llama", "opt", "mamba")


def inputs_of(name: str) -> Any:
    """Return two samples for a Hugging Face network."""
    tokens = torch.randint(1, 100, (2, 8))
    if name in ("t5", "bart"):
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :6]}
    if name == "whisper":
        return {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens}
    if name in TEXT:
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    size = 32 if name in ("vit", "swin") else 64
    return torch.randn(2, 800) if name == "wav2vec2" else torch.randn(2, 3, size, size)


class Tagger(nn.Module):
    """Two recurrent layers over embedded tokens, and a label for each token."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.first = nn.LSTM(width, width, batch_first=True)
        self.second = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(self.embed(tokens))[0])[0])
        return logits


class DoubleConv(nn.Sequential):
    """Two convolutions."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(nn.Conv2d(width, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    """An encoder and a decoder of two levels each, with skip connections."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.down1, self.down2 = DoubleConv(3, width), DoubleConv(width, 2 * width)
        self.middle = DoubleConv(2 * width, 4 * width)
        self.up2, self.up1 = DoubleConv(6 * width, 2 * width), DoubleConv(3 * width, width)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.classify = nn.Conv2d(width, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.down1(images)
        second = self.down2(self.pool(first))
        low = self.middle(self.pool(second))
        up = self.up2(torch.cat([self.grow(low), second], 1))
        logits: Tensor = self.classify(self.up1(torch.cat([self.grow(up), first], 1)))
        return logits
