"""Where the queries, keys and values of a network's last self-attention are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill import Capture
from lit_distill.capture.attention import last_attention
from lit_distill.capture.observing import observe
from lit_distill.models import resnet8
from tests.capture.networks import HUGGING_FACE, inputs_of


def found(network: nn.Module, inputs: Any) -> tuple[str, ...]:
    return last_attention(observe(network, inputs), inputs)


THREE = {
    "bert": "bert.encoder.layer.3.attention.self.{query,key,value}",
    "distilbert": "distilbert.transformer.layer.1.attention.{q_lin,k_lin,v_lin}",
    "albert": "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.{query#3,key#3,value#3}",
    "t5": "decoder.block.1.layer.0.SelfAttention.{q,k,v}",  # and not the attention to the encoder, which runs later
    "llama": "model.layers.3.self_attn.{q_proj,k_proj,v_proj}",
    "gpt2": "transformer.h.3.attn.{c_attn}",
}


@pytest.mark.parametrize("name", THREE)
def test_of_hugging_face_networks(name: str) -> None:
    path, _, ends = THREE[name].strip("}").partition("{")
    assert found(HUGGING_FACE[name](), inputs_of(name)) == tuple(path + end for end in ends.split(","))


def test_of_timm_networks() -> None:
    timm = pytest.importorskip("timm")
    images = torch.randn(2, 3, 32, 32)
    vit = timm.models.VisionTransformer(img_size=32, patch_size=8, num_classes=3, embed_dim=24, depth=2, num_heads=2)
    assert found(vit, images) == ("blocks.1.attn.qkv",)


def test_grouped_queries_share_values() -> None:
    import transformers as hf

    config = hf.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=16,
        vocab_size=20,
    )
    assert len(found(hf.LlamaForCausalLM(config), {"input_ids": torch.ones(2, 4, dtype=torch.long)})) == 3


class Attention(nn.Module):
    """Self-attention of two heads, whose projections are side by side, in one order or the other."""

    def __init__(self, by_head: bool) -> None:
        super().__init__()
        self.by_head = by_head
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        made = self.qkv(x)
        if self.by_head:
            q, k, v = made.unflatten(-1, (2, 3, 4)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = made.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed


def test_projections_in_the_order_of_heads_are_not_taken_for_queries_keys_and_values() -> None:
    inputs = torch.randn(2, 5, 8)
    assert found(Attention(by_head=False), inputs) == ("qkv",)
    assert found(Attention(by_head=True), inputs) == ()


def test_a_network_without_attention_has_none() -> None:
    assert found(resnet8(), torch.randn(2, 3, 32, 32)) == ()


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_multihead_attention_is_read_by_its_weights(batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    inputs = torch.randn(3, 5, 8) if batch_first else torch.randn(5, 3, 8)
    assert found(network, inputs) == ("layers.1.self_attn:qkv",)
    capture = Capture(network, ["layers.1.self_attn:qkv", "layers.0"])
    outputs = capture.run(inputs)
    given = outputs.features["layers.0"]
    attention = network.layers[1].self_attn
    expected = given @ attention.in_proj_weight.T + attention.in_proj_bias
    torch.testing.assert_close(outputs.features["layers.1.self_attn:qkv"], expected)
    assert expected.shape == (3, 5, 24)
    outputs.features["layers.1.self_attn:qkv"].sum().backward()
    assert attention.in_proj_weight.grad is not None


def test_attention_to_something_else_is_not_self_attention() -> None:
    layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=6)
    with pytest.raises(ValueError, match="':qkv' reads self-attention"):
        Capture(nn.Sequential(layer), ["0:qkv"])
    with pytest.raises(ValueError, match="':qkv' reads an nn.MultiheadAttention, and this is a Linear"):
        Capture(nn.Sequential(nn.Linear(3, 3)), ["0:qkv"])
