from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from lit_distill.outputs import Outputs, read_logits

LOGITS = torch.arange(6.0).reshape(2, 3)
OTHER = torch.zeros(4)


def test_detach_cuts_logits_and_features_and_keeps_values_and_mask() -> None:
    weight, mask = torch.ones(2, 3, requires_grad=True), torch.tensor([True, False])
    outputs = Outputs(weight * 2, {"a": weight * 3, "b": weight * 4}, mask)
    detached = outputs.detach()
    assert not detached.logits.requires_grad
    assert not any(feature.requires_grad for feature in detached.features.values())
    assert torch.equal(detached.logits, outputs.logits)
    assert torch.equal(detached.features["b"], outputs.features["b"])
    assert detached.mask is mask
    assert outputs.logits.requires_grad


def test_shapes_round_trip_as_plain_lists() -> None:
    outputs = Outputs(torch.ones(2, 10), {"z": torch.ones(2, 3, 4, 4), "a": torch.ones(2, 5)})
    shapes = outputs.shapes()
    assert shapes == {"logits": [2, 10], "features": {"z": [2, 3, 4, 4], "a": [2, 5]}}
    assert type(shapes["features"]["z"]) is list
    again = Outputs.from_shapes(shapes)
    assert again.shapes() == shapes
    assert list(again.features) == ["z", "a"]
    assert again.logits.count_nonzero() == 0


def test_nothing_is_empty() -> None:
    assert Outputs.nothing().logits.numel() == 0
    assert dict(Outputs.nothing().features) == {}


@pytest.mark.parametrize(
    "raw",
    [
        LOGITS,
        {"logits": LOGITS, "loss": OTHER},
        {"aux": OTHER, "out": LOGITS},
        OrderedDict(aux=OTHER, output=LOGITS),
        {"outputs": LOGITS},
        {"pred_logits": LOGITS, "pred_boxes": OTHER},
        SimpleNamespace(logits=LOGITS, loss=OTHER),
        (LOGITS, OTHER),
        [LOGITS],
        ("name", LOGITS, OTHER),
        ImageClassifierOutput(loss=OTHER, logits=LOGITS),
    ],
)
def test_logits_are_found(raw: Any) -> None:
    assert read_logits(raw) is LOGITS


def test_logits_go_before_other_usual_names() -> None:
    assert read_logits({"out": OTHER, "logits": LOGITS}) is LOGITS


def test_a_key_chooses_the_entry() -> None:
    assert read_logits({"logits": OTHER, "distilled": LOGITS}, "distilled") is LOGITS


@pytest.mark.parametrize(
    ("raw", "key", "message"),
    [
        ({"b": LOGITS, "a": OTHER}, None, r"no logits in the model's output; it has \['a', 'b'\].*`output_key`"),
        ({"logits": LOGITS}, "scores", r"no logits under 'scores' in the model's output; it has \['logits'\]"),
        ({"logits": [1, 2]}, None, "no logits in the model's output"),
        ({3: LOGITS, "a": OTHER}, None, r"it has \['3', 'a'\]"),
        (None, None, "returned a NoneType; a tensor"),
        ((1, "a"), None, "returned a tuple without a tensor"),
        (SimpleNamespace(logits=3), None, "returned a SimpleNamespace"),
    ],
)
def test_missing_logits_are_explained(raw: Any, key: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_logits(raw, key)


def test_a_number_for_each_sample_beside_features_is_asked_about() -> None:
    with pytest.raises(ValueError, match=r"several tensors.*0: \[2\], 1: \[2, 3\]"):
        read_logits((torch.zeros(2), LOGITS))


def test_two_usual_names_are_asked_about() -> None:
    with pytest.raises(ValueError, match="no logits in the model's output"):
        read_logits({"output": LOGITS, "out": torch.zeros(2, 6)})


def test_outputs_of_hugging_face_are_read_by_index_too() -> None:
    assert read_logits(ImageClassifierOutput(loss=OTHER, logits=LOGITS), 1) is LOGITS
