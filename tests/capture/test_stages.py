"""Which layers end the stages of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from lit_distill.capture.observing import ForwardPass, LayerCall, observe
from lit_distill.capture.stages import find_stages, stages_of
from lit_distill.models import MLP, SmallCNN, adapt, resnet20
from tests.capture.expert_stages import (
    FLAT,
    HUGGING_FACE,
    LATER_HUGGING_FACE,
    LATER_TIMM,
    LATER_TORCHVISION,
    TIMM,
    TORCHVISION,
)
from tests.capture.networks import HUGGING_FACE as NETWORKS
from tests.capture.networks import Tagger, UNet, inputs_of


def ends(network: nn.Module, inputs: Any) -> list[str]:
    return [end.layer for end in find_stages(network, inputs).ends]


def call_of(done: ForwardPass, layer: str) -> LayerCall:
    path, _, index = layer.partition("#")
    return next(call for call in done.calls if call.path == path and call.index == int(index or 0))


def disagreements(network: nn.Module, inputs: Any, expected: Sequence[str]) -> list[str]:
    """Return the ends that only one side names; two names of the same tensor agree."""
    done = observe(network, inputs)
    found = {id(call_of(done, end.layer).output): end.layer for end in stages_of(done, 2).ends}
    known = {id(call_of(done, layer).output): layer for layer in expected}
    return [f"+{found[one]}" for one in found.keys() - known.keys()] + [
        f"-{known[one]}" for one in known.keys() - found.keys()
    ]


@pytest.mark.parametrize("name", [name for name in HUGGING_FACE if name != "segformer"])
def test_the_ends_of_hugging_face_networks_are_an_experts(name: str) -> None:
    assert not disagreements(NETWORKS[name](), inputs_of(name), HUGGING_FACE[name])


def test_a_stage_that_arranges_its_tokens_as_a_map_ends_itself() -> None:
    found = find_stages(NETWORKS["segformer"](), inputs_of("segformer")).ends
    if not FLAT:  # no module of it arranges tokens as a map
        assert [end.layer for end in found] == list(HUGGING_FACE["segformer"])
        return
    assert [end.layer for end in found] == [f"segformer.stages.{number}" for number in range(4)]
    assert found[0].feature.shape == (2, 8, 16, 16)


def test_maps_of_one_position_end_a_stage() -> None:
    assert ends(resnet20(), torch.randn(2, 3, 4, 4)) == ["layer1", "layer2", "layer3"]


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_the_ends_of_torchvision_networks_are_an_experts(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    network = getattr(torchvision.models, name)(num_classes=10)
    assert not disagreements(network, torch.randn(2, 3, 64, 64), TORCHVISION[name])


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "vit_tiny_patch16_224", "levit_128s", "pvt_v2_b0"])
def test_the_ends_of_timm_networks_are_an_experts(name: str) -> None:
    timm = pytest.importorskip("timm")
    assert not disagreements(timm.create_model(name), torch.randn(2, 3, 224, 224), TIMM[name])


def test_own_networks() -> None:
    assert ends(resnet20(), torch.randn(2, 3, 32, 32)) == ["layer1", "layer2", "layer3"]
    assert ends(SmallCNN(), torch.randn(2, 1, 8, 8)) == ["stage2", "stage3"]
    assert ends(MLP(hidden=(16, 8)), torch.randn(2, 64)) == ["hidden.0", "hidden"]
    wrapped = ends(adapt(resnet20(), size=16), torch.randn(2, 3, 32, 32))
    assert [name.rpartition(".")[2] for name in wrapped] == ["layer1", "layer2", "layer3"]


def test_a_plain_convolutional_network_ends_its_stages_before_pooling() -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    assert ends(network, torch.randn(2, 3, 8, 8)) == ["1", "4"]


def test_recurrent_layers_end_stages() -> None:
    stages = find_stages(Tagger(), torch.randint(0, 20, (2, 6)))
    assert [end.layer for end in stages.ends] == ["first", "second"]
    assert [end.depth for end in stages.ends] == [0.5, 1.0]


def test_encoder_and_decoder_of_a_u_net_have_stages_of_their_own() -> None:
    assert ends(UNet(), torch.randn(2, 3, 8, 8)) == ["down1", "down2", "middle", "up2", "up1"]


def test_encoder_and_decoder_share_the_depth() -> None:
    stages = find_stages(NETWORKS["t5"](), inputs_of("t5"))
    assert [end.depth for end in stages.ends] == [0.25, 0.5, 0.75, 1.0]


def test_channels_come_where_criteria_expect_them() -> None:
    stages = find_stages(NETWORKS["swin"](), inputs_of("swin"))
    assert [tuple(end.feature.shape) for end in stages.ends] == [(2, 256, 16), (2, 64, 32)]


def test_a_network_of_one_layer_has_no_stage() -> None:
    assert not ends(nn.Linear(4, 3), torch.randn(2, 4))
    assert not ends(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4))
    assert not ends(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(2, 4))


def test_the_head_is_the_input_of_the_last_linear_layer() -> None:
    head = find_stages(SmallCNN(), torch.randn(2, 1, 8, 8)).head
    assert head is not None
    assert (head.layer, head.feature.shape) == ("classifier:input", (2, 64))


def test_the_network_is_left_as_it_was() -> None:
    network = resnet20().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    find_stages(network, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("later", [False, True])
def test_nine_in_ten_ends_are_an_experts(later: bool) -> None:
    """Ends that only one side names count as wrong, each."""
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    wrong = total = 0
    for name, expected in (LATER_TIMM if later else TIMM).items():
        network = timm.create_model(name)
        size = network.default_cfg["input_size"][-1]
        wrong += len(disagreements(network, torch.randn(2, 3, size, size), expected))
        total += len(expected)
    for name, expected in (LATER_TORCHVISION if later else TORCHVISION).items():
        network = getattr(torchvision.models, name)(num_classes=10)
        wrong += len(disagreements(network, torch.randn(2, 3, 64, 64), expected))
        total += len(expected)
    for name, expected in (LATER_HUGGING_FACE if later else HUGGING_FACE).items():
        wrong += len(disagreements(NETWORKS[name](), inputs_of(name), expected))
        total += len(expected)
    assert wrong <= 0.1 * total, f"{wrong} wrong, {total} expected"


NORMED = ("gpt2", "llama")  # their last hidden state is what the last norm makes of the last block's output


@pytest.mark.parametrize(
    "name", ["bert", "distilbert", "albert", "gpt2", "llama", "vit", "convnext", "resnet", "wav2vec2"]
)
def test_the_ends_are_the_hidden_states_of_hugging_face(name: str) -> None:
    network, inputs = NETWORKS[name]().eval(), inputs_of(name)
    done = observe(network, inputs)
    ends = [call_of(done, end.layer).output for end in stages_of(done, 2).ends]
    with torch.no_grad():
        made = (
            network(**inputs, output_hidden_states=True)
            if isinstance(inputs, dict)
            else network(inputs, output_hidden_states=True)
        )
    states = made.hidden_states[1:]  # the first is the embedding
    assert len(ends) == len(states)
    for end, state in list(zip(ends, states, strict=True))[: -1 if name in NORMED else None]:
        torch.testing.assert_close(end, state)
