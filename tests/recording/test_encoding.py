"""What is stored of a sample, against what went in."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from lit_distill import Outputs
from lit_distill.recording import Encoding, Formats
from lit_distill.recording.encoding import dtype_to_json

LIKE = torch.zeros(())


def encoding_of(outputs: Outputs, **formats: Any) -> Encoding:
    return Encoding(outputs.shapes(), Formats(**formats))


def through(outputs: Outputs, **formats: Any) -> Outputs:
    encoding = encoding_of(outputs, **formats)
    return encoding.decode(encoding.encode(outputs), LIKE)


@pytest.mark.parametrize("shape", [(6,), (6, 10), (6, 5, 10), (6, 10, 3, 4)])
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float32", 0.0), ("float16", 2**-11 * 16), ("int8", 0.5 * 34 / 255 + 1e-6)]
)
def test_logits_come_back_within_the_types_rounding(shape: tuple[int, ...], kind: Any, tolerance: float) -> None:
    logits = (5 * torch.randn(shape)).clamp(-16, 16)
    back = through(Outputs(logits), logits=kind).logits
    assert back.shape == logits.shape
    assert (back - logits).abs().max() <= tolerance


def test_int8_is_the_nearest_of_256_levels() -> None:
    logits = torch.tensor([[0.0, 1.0, 255.0, 100.4]])
    assert through(Outputs(logits), logits="int8").logits[0].tolist() == pytest.approx([0.0, 1.0, 255.0, 100.0])


def test_int8_of_equal_values() -> None:
    assert through(Outputs(torch.full((2, 3), 7.0)), logits="int8").logits.tolist() == [[7.0] * 3] * 2


@pytest.mark.parametrize("shape", [(4, 50), (4, 6, 50), (4, 50, 2, 3)])
def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(shape: tuple[int, ...]) -> None:
    logits = 3 * torch.randn(shape)
    back = through(Outputs(logits), logits="top_k", top_k=5).logits
    axis = 1 if len(shape) == 4 else -1
    before, after = logits.movedim(axis, -1), back.movedim(axis, -1)
    top_before, top_after = before.topk(5, -1), after.topk(5, -1)
    torch.testing.assert_close(top_after.values, top_before.values, rtol=1e-3, atol=1e-3)
    assert torch.equal(top_after.indices.sort(-1).values, top_before.indices.sort(-1).values)
    torch.testing.assert_close(after.logsumexp(-1), before.logsumexp(-1), rtol=1e-3, atol=2e-3)
    kept = torch.zeros_like(before, dtype=torch.bool).scatter(-1, top_before.indices, True)
    rest = after[~kept].reshape(*after.shape[:-1], 45)
    assert (rest.amax(-1) - rest.amin(-1)).abs().max() == 0  # spread evenly


def test_top_k_of_all_classes_is_float16() -> None:
    logits = torch.randn(4, 6)
    torch.testing.assert_close(through(Outputs(logits), logits="top_k", top_k=6).logits, logits.half().float())


def test_covered_is_the_mean_mass_of_the_kept_classes() -> None:
    outputs = Outputs(torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]]).log())
    assert encoding_of(outputs, logits="top_k", top_k=1).covered(outputs) == pytest.approx(0.55)
    assert encoding_of(outputs).covered(outputs) == 1.0


@pytest.mark.parametrize(
    ("classes", "formats", "share"),
    [
        (10, {"logits": "float16"}, 1 / 2),
        (10, {"logits": "int8"}, 1 / 2),
        (1000, {"logits": "top_k", "top_k": 10}, 1 / 20),
    ],
)
def test_bytes_a_sample(classes: int, formats: dict[str, Any], share: float) -> None:
    assert encoding_of(Outputs(torch.zeros(2, classes)), **formats).dtype.itemsize <= share * 4 * classes


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0.0), ("float16", 4e-3), ("int8", 0.02)])
def test_features_come_back(kind: Any, tolerance: float) -> None:
    features = {"layer1.0": torch.randn(3, 4, 5, 5), "encoder.1": torch.randn(3, 7, 6).clamp(-2, 2)}
    back = through(Outputs(torch.randn(3, 2), features), features=kind)
    assert list(back.features) == list(features)
    for name, feature in features.items():
        assert (back.features[name] - feature).abs().max() <= tolerance


def test_features_alone_need_no_logits() -> None:
    outputs = Outputs(torch.zeros(0), {"stage": torch.randn(3, 4)})
    back = through(outputs, features="float32")
    assert back.logits.numel() == 0
    assert torch.equal(back.features["stage"], outputs.features["stage"])


def test_follows_the_type_that_is_asked_for() -> None:
    encoding = encoding_of(Outputs(torch.randn(2, 3)))
    rows = encoding.encode(Outputs(torch.randn(2, 3)))
    assert encoding.decode(rows, torch.zeros((), dtype=torch.float64)).logits.dtype == torch.float64


def test_half_precision_outputs_are_taken() -> None:
    logits = torch.randn(2, 3).bfloat16()
    torch.testing.assert_close(through(Outputs(logits), logits="float32").logits, logits.float())


def test_the_record_type_survives_json() -> None:
    outputs = Outputs(torch.zeros(2, 70000), {"a.b": torch.zeros(2, 3, 4)})
    dtype = encoding_of(outputs, logits="top_k", top_k=3, features="int8").dtype
    described = json.loads(json.dumps(dtype_to_json(dtype)))
    assert np.dtype([(name, kind, tuple(shape)) for name, kind, shape in described]) == dtype
    assert dtype["logits/class"].base == np.dtype("<u4")  # more classes than 16 bits can number


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("formats", [{}, {"logits": "int8"}, {"logits": "top_k", "top_k": 1}, {"logits": "float32"}])
def test_what_is_not_finite_is_refused(bad: float, formats: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the teacher's logits are not finite"):
        through(Outputs(torch.tensor([[0.0, bad]])), **formats)


def test_what_float16_cannot_hold_is_refused() -> None:
    outputs = Outputs(torch.tensor([[0.0, 7e4]]))
    with pytest.raises(ValueError, match=r"reach 7e\+04, beyond float16; store them as float32 or int8"):
        through(outputs)
    assert through(outputs, logits="float32").logits.tolist() == [[0.0, 7e4]]
    assert through(outputs, logits="int8").logits[0].tolist() == pytest.approx([0.0, 7e4])


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"logits": "float8"}, "logits must be one of 'float32', 'float16', 'int8', 'top_k', not 'float8'"),
        ({"features": "top_k"}, "features must be one of"),
        ({"logits": "top_k"}, "top_k needs top_k, the number of classes to keep"),
        ({"logits": "top_k", "top_k": 0}, "top_k needs top_k"),
        ({"top_k": 3}, "top_k does nothing with logits: float16"),
    ],
)
def test_wrong_formats_are_refused(formats: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Formats(**formats)


def test_more_classes_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="top_k: 11 exceeds the 10 classes"):
        encoding_of(Outputs(torch.zeros(2, 10)), logits="top_k", top_k=11)
