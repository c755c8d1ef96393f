"""Where networks hold their channels, as their modules or the user tell it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lit_distill.batch.batch import BatchFormat
from lit_distill.batch.layout import Placement
from lit_distill.batch.layouts import Layouts
from lit_distill.capture.capture import Capture
from tests.versions import skip_before

IMAGES = torch.rand(2, 3, 32, 32)


def shapes(model: nn.Module, layers: list[str], inputs: Any, **told: Any) -> list[list[int]]:
    """The canonical shapes of a network's layers, without the batch."""
    capture = Capture(model.eval(), layers, **told)
    outputs = capture.run(inputs)
    again = capture.run(inputs)  # what was found is used again
    assert again.shapes() == outputs.shapes()
    return [list(outputs.features[layer].shape[1:]) for layer in layers]


class Stage(nn.Module):
    """A stage of one's own around some modules."""

    def __init__(self, *inner: nn.Module, last: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.inner, self.last = nn.Sequential(*inner), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x))


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ToFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


SERIES, TOKENS, VOLUMES = torch.randn(2, 3, 20), torch.randn(2, 20, 6), torch.randn(2, 1, 4, 6, 8)

# A network, its layer, inputs, and the shape that criteria see: tokens [N, D], maps [C, H, W] or volumes [C, D, H, W].
CASES: dict[str, tuple[Callable[[], nn.Module], str, Tensor, list[int]]] = {
    "Conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3, padding=1)), "0", SERIES, [20, 8]),
    "Conv1d with as many channels as places": (lambda: nn.Sequential(nn.Conv1d(3, 20, 1)), "0", SERIES, [20, 20]),
    "BatchNorm1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8)), "1", SERIES, [20, 8]),
    "ReLU after Conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU()), "1", SERIES, [20, 8]),
    "pooling after Conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 8, 1), nn.MaxPool1d(2)), "1", SERIES, [10, 8]),
    "a stage of Conv1d": (lambda: nn.Sequential(Stage(nn.Conv1d(3, 8, 1), nn.GELU())), "0", SERIES, [20, 8]),
    "what enters a Conv1d": (lambda: nn.Sequential(nn.Identity(), nn.Conv1d(3, 8, 1)), "1:input", SERIES, [20, 3]),
    "what enters a Linear": (lambda: nn.Sequential(nn.Identity(), nn.Linear(6, 8)), "1:input", TOKENS, [20, 6]),
    "Conv1d, then turned": (lambda: nn.Sequential(Stage(nn.Conv1d(3, 8, 1), last=Transposed())), "0", SERIES, [20, 8]),
    "Conv1d of 20, then turned": (
        lambda: nn.Sequential(Stage(nn.Conv1d(3, 20, 1), last=Transposed())),
        "0",
        SERIES,
        [20, 20],
    ),
    "Linear": (lambda: nn.Sequential(nn.Linear(6, 8)), "0", TOKENS, [20, 8]),
    "Linear, then turned": (lambda: nn.Sequential(Stage(nn.Linear(6, 8), last=Transposed())), "0", TOKENS, [20, 8]),
    "LayerNorm": (lambda: nn.Sequential(nn.LayerNorm(6)), "0", TOKENS, [20, 6]),
    "LSTM, batch first": (
        lambda: nn.Sequential(nn.LSTM(6, 5, batch_first=True, bidirectional=True)),
        "0",
        TOKENS,
        [20, 10],
    ),
    "TransformerEncoderLayer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)),
        "0",
        TOKENS,
        [20, 6],
    ),
    "Conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4)), "0", IMAGES, [8, 8, 8]),
    "Conv2d, then channels last": (
        lambda: nn.Sequential(Stage(nn.Conv2d(3, 5, 4, 4), last=ToLast())),
        "0",
        IMAGES,
        [5, 8, 8],
    ),
    "as many channels as rows, then channels last": (
        lambda: nn.Sequential(Stage(nn.Conv2d(3, 8, 4, 4), last=ToLast())),
        "0",
        IMAGES,
        [8, 8, 8],
    ),
    "channels last in a stage": (
        lambda: nn.Sequential(Stage(nn.Conv2d(3, 5, 4, 4), ToLast(), nn.LayerNorm(5), nn.Linear(5, 7))),
        "0",
        IMAGES,
        [7, 8, 8],
    ),
    "channels last inside, first again outside": (
        lambda: nn.Sequential(Stage(nn.Conv2d(3, 5, 4, 4), ToLast(), nn.Linear(5, 7), ToFirst(), nn.ReLU())),
        "0",
        IMAGES,
        [7, 8, 8],
    ),
    "Conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 5, 2, 2)), "0", VOLUMES, [5, 2, 3, 4]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_channels_are_found_from_the_modules(case: tuple[Callable[[], nn.Module], str, Tensor, list[int]]) -> None:
    make, layer, inputs, expected = case
    assert shapes(make(), [layer], inputs) == [expected]


def test_values_keep_their_channel() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 1))
    outputs = Capture(model, ["0"]).run(SERIES)
    assert torch.equal(outputs.features["0"], model(SERIES).transpose(1, 2))


def test_a_sequence_first_lstm_arrives_batch_first() -> None:
    model = nn.Sequential(nn.LSTM(6, 5))
    outputs = Capture(model, ["0"]).run(TOKENS.transpose(0, 1))
    assert outputs.features["0"].shape == (2, 20, 5)
    assert torch.equal(outputs.features["0"], model(TOKENS.transpose(0, 1))[0].transpose(0, 1))


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        pytest.param("swin_tiny_patch4_window7_224", "layers.3", [768, 1, 1], marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", "layers.0", [96, 8, 8], marks=pytest.mark.slow),
        pytest.param("swinv2_cr_tiny_224", "stages.1", [192, 4, 4], marks=pytest.mark.slow),
        ("mambaout_femto", "stages.2", [192, 2, 2]),
        ("convnext_atto", "stages.1", [80, 4, 4]),
        ("vit_tiny_patch16_224", "blocks.2", [5, 192]),
        pytest.param("mixer_s32_224", "blocks.1", [1, 512], marks=pytest.mark.slow),
        ("resnet18", "layer2", [128, 4, 4]),
        ("edgenext_xx_small", "stages.3", [168, 1, 1]),
        pytest.param("poolformer_s12", "stages.1", [128, 4, 4], marks=pytest.mark.slow),
        ("mobilevit_xxs", "stages.3", [64, 2, 2]),
    ],
)
def test_timm(name: str, layer: str, expected: list[int]) -> None:
    if not timm.is_model(name):
        skip_before("timm", "1.0.10", f"it has no {name}")
    sized = {"img_size": 32} if name.startswith(("swin", "vit", "mixer")) else {}
    model = timm.create_model(name, pretrained=False, **sized)
    assert shapes(model, [layer], IMAGES) == [expected]


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        pytest.param("swin_t", "features.3", [192, 4, 4], marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "features.1", [96, 8, 8], marks=pytest.mark.slow),
        ("mobilenet_v3_small", "features.3", [24, 4, 4]),
    ],
)
def test_torchvision(name: str, layer: str, expected: list[int]) -> None:
    assert shapes(getattr(torchvision.models, name)(weights=None), [layer], IMAGES) == [expected]


def test_torchvision_video() -> None:
    model = torchvision.models.video.r3d_18(weights=None)
    assert shapes(model, ["layer2"], torch.rand(1, 3, 4, 16, 16)) == [[128, 2, 4, 4]]


class TestLogits:
    def of(self, model: nn.Module, inputs: Tensor, **told: Any) -> Tensor:
        return Capture(model.eval(), **told).predict(inputs).logits

    def test_of_a_convolution_over_time_come_classes_last(self) -> None:
        model = nn.Conv1d(3, 4, 1)
        assert torch.equal(self.of(model, SERIES), model(SERIES).transpose(1, 2))

    def test_of_a_tagger_stay(self) -> None:
        model = nn.Sequential(nn.Conv1d(3, 8, 1), Transposed(), nn.Linear(8, 4))
        assert torch.equal(self.of(model, SERIES), model(SERIES))

    def test_of_volumes_stay(self) -> None:
        model = nn.Conv3d(1, 4, 1)
        assert torch.equal(self.of(model, VOLUMES), model(VOLUMES))

    def test_the_users_word_goes_first(self) -> None:
        model = nn.Identity()
        assert self.of(model, SERIES, class_dim=1).shape == (2, 20, 3)
        assert self.of(model, SERIES, class_dim=-1).shape == (2, 3, 20)
        with pytest.raises(ValueError, match=r"class_dim is 0.*dimension 0 holds the samples"):
            self.of(model, SERIES, class_dim=0).sum()

    def test_of_a_matrix_after_a_convolution_are_asked_for(self) -> None:
        class Head(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.c, self.p = nn.Conv1d(3, 6, 1), nn.Parameter(torch.randn(6, 5))

            def forward(self, x: Tensor) -> Tensor:
                return self.c(x).transpose(1, 2) @ self.p

        with pytest.raises(ValueError, match="holds the classes is unknown"):
            self.of(Head(), SERIES).sum()
        assert self.of(Head(), SERIES, class_dim=-1).shape == (2, 20, 5)

    def test_of_branches_side_by_side_are_found(self) -> None:
        class Branches(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv1d(3, 7, 1), nn.Conv1d(3, 7, 3, padding=1)

            def forward(self, x: Tensor) -> Tensor:
                return torch.cat([self.a(x), self.b(x)], 1)

        assert self.of(Branches(), SERIES).shape == (2, 20, 14)


def test_a_recurrent_layer_of_packed_sequences_is_read_padded() -> None:
    class Tagger(nn.Module):
        def __init__(self, batch_first: bool) -> None:
            super().__init__()
            self.rnn, self.fc = nn.GRU(6, 5, batch_first=batch_first), nn.Linear(5, 3)

        def forward(self, packed: Any) -> Tensor:
            return self.fc(self.rnn(packed)[1][-1])

    packed = nn.utils.rnn.pack_sequence([TOKENS[0, :4], TOKENS[1, :2]])
    for batch_first in (True, False):
        assert Capture(Tagger(batch_first), ["rnn"]).run(packed).features["rnn"].shape == (2, 4, 5)


class TestToldLayers:
    def test_by_name_or_glob(self) -> None:
        model = nn.Sequential(nn.Identity())
        assert shapes(model, ["0"], SERIES, layouts={"0": "channels_first"}) == [[20, 3]]
        assert shapes(model, ["0"], SERIES, layouts={"*": "channels_last"}) == [[3, 20]]
        assert shapes(model, ["0"], IMAGES.movedim(1, -1), layouts={"0": "channels_last"}) == [[3, 32, 32]]

    def test_modules_that_contradict_each_other_are_asked_about(self) -> None:
        """As many channels as rows, and both kinds of modules within: the tensor itself is a copy."""
        stage = Stage(nn.Conv2d(3, 8, 4, 4), ToLast(), nn.Linear(8, 8), last=lambda x: x.permute(0, 3, 1, 2) * 2)
        with pytest.raises(
            ValueError, match=r"'0', \[2, 8, 8, 8\].*BatchFormat\(teacher_layout=\{'0': 'channels_first'\}\)"
        ):
            Capture(nn.Sequential(stage), ["0"], owner="teacher").run(IMAGES)
        assert shapes(nn.Sequential(stage), ["0"], IMAGES, layouts={"0": "channels_first"}) == [[8, 8, 8]]

    def test_the_networks_own_word_settles_a_contradiction(self) -> None:
        layouts = Layouts("student", {}, None)
        layouts._found = {"stage": None}
        assert layouts.arrange("stage", torch.zeros(2, 4, 4, 6), lambda layer: 6).shape == (2, 6, 4, 4)

    def test_through_a_batch_format(self) -> None:
        from lit_distill import DistillationModule, Hint

        told = BatchFormat(layout={"0": "channels_first"}, teacher_layout={"0": "channels_first"})
        student, teacher = nn.Sequential(nn.Identity(), nn.Flatten()), nn.Sequential(nn.Identity(), nn.Flatten())
        student.append(nn.Linear(60, 2))
        module = DistillationModule(student, teacher, {"hint": Hint("0", "0")}, {"hint": 1.0}, batch_format=told)
        assert module.distiller.capture.run(SERIES).features["0"].shape == (2, 20, 3)
        assert module._teacher is not None
        assert module._teacher(SERIES).features["0"].shape == (2, 20, 3)


def test_what_is_unusual_is_put_in_words() -> None:
    assert Placement(3, 1).words() == "channels first in the network"
    assert Placement(4, 3).words() == "channels last in the network"
    assert Placement(3, 2, 1).words() == "sequence first in the network"
    assert Placement(4, 1).words() == Placement(3, 2).words() == Placement(2, 1).words() == ""


def test_a_capture_that_has_seen_a_pass_is_copied_and_keeps_no_activation() -> None:
    capture = Capture(nn.Sequential(nn.Conv1d(3, 8, 1)), ["0"])
    capture.run(SERIES)
    assert capture.layouts._evidence is None
    assert copy.deepcopy(capture).run(SERIES).features["0"].shape == (2, 20, 8)


def test_nested_features_of_a_transformers_fast_path_are_dense_with_their_padding() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2)

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            out: Tensor = self.encoder(x, src_key_padding_mask=padding)
            return out.mean(1)

    padding = torch.arange(20) >= torch.tensor([[12], [15]])
    capture = Capture(Text().eval(), ["encoder.layers.0", "encoder.layers.1.linear1"], owner="teacher")
    with torch.no_grad():
        outputs = capture.run((TOKENS, padding))
    assert outputs.features["encoder.layers.0"].shape == (2, 20, 6)
    assert outputs.features["encoder.layers.1.linear1"].shape == (2, 20, 8)
    assert torch.backends.mha.get_fastpath_enabled()
