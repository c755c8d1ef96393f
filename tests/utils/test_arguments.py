"""The checks of arguments: what they give back, and what they say."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lit_distill import SoftTarget
from lit_distill.utils.arguments import (
    check_choice,
    check_flag,
    check_named,
    check_number,
    check_numbers,
    check_object,
    check_whole,
    described,
    layer_tuple,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        ("text", "a str"),
        (1, "an int"),
        (np.float32(1), "a float32"),
        (nn.Linear, "the class Linear"),
        (len, "the function len"),
        (functools.partial(nn.Linear, 1), "a partial of Linear"),
        (torch.zeros(2, 3), "a Tensor of shape [2, 3]"),
        (np.zeros(3), "a ndarray of shape [3]"),
        (SoftTarget(), "a SoftTarget"),
    ],
)
def test_a_value_in_words(value: object, expected: str) -> None:
    assert described(value) == expected


@pytest.mark.parametrize("value", [2, 2.0, np.float16(2), np.array(2), torch.tensor(2), torch.tensor(2.0)])
def test_numbers_become_plain(value: Any) -> None:
    assert type(check_number("x", value)) is float
    assert type(check_whole("x", value)) is int
    assert check_number("x", value) == check_whole("x", value) == 2


def test_large_whole_numbers_keep_their_digits() -> None:
    assert check_whole("x", 2**60 + 1) == check_whole("x", np.int64(2**60 + 1)) == 2**60 + 1


@pytest.mark.parametrize(
    ("bounds", "value", "message"),
    [
        ({}, math.nan, "x must be finite, not nan."),
        ({"least": 0}, -1, "x must be finite and at least 0, not -1."),
        ({"above": 0}, 0, "x must be above 0 and finite, not 0."),
        ({"least": 0, "below": 1}, 1, "x must be in [0, 1), not 1."),
        ({"above": 0, "most": 1}, 0, "x must be in (0, 1], not 0."),
        ({"above": 0, "below": 1}, 1.5, "x must be in (0, 1), not 1.5."),
    ],
)
def test_ranges(bounds: dict[str, float], value: float, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_number("x", value, **bounds)
    assert str(caught.value) == message


def test_text_is_no_number() -> None:
    with pytest.raises(TypeError) as caught:
        check_number("temperature", "4")
    assert str(caught.value) == "temperature is a str; give the number, 4, instead of the text '4'."


def test_flags_are_no_texts() -> None:
    assert check_flag("x", np.bool_(True)) is True
    assert check_flag("x", 0) is False
    with pytest.raises(TypeError, match="x is a str; give True or False"):
        check_flag("x", "false")


def test_lists_of_numbers() -> None:
    assert check_numbers("x", np.array([1, 2])) == [1.0, 2.0]
    with pytest.raises(TypeError, match=r"x\[1\] is None; give a number"):
        check_numbers("x", [1, None])


def test_the_nearest_choice_is_named() -> None:
    with pytest.raises(ValueError, match=r"x must be one of 'epoch', 'step', not 'Epoch'\. Did you mean 'epoch'\?"):
        check_choice("x", "Epoch", ("epoch", "step"))


def test_layers() -> None:
    assert layer_tuple("a", "x") == layer_tuple(["a"], "x") == ("a",)
    with pytest.raises(TypeError, match="x is a Linear; give a layer's name"):
        layer_tuple(nn.Linear(1, 1), "x")


def test_objects_and_their_classes() -> None:
    with pytest.raises(TypeError, match=r"x is the class SoftTarget; give an object, SoftTarget\(\), not the class"):
        check_object("x", SoftTarget, SoftTarget, "")
    with pytest.raises(TypeError, match=r"x is the class Linear; give an object, Linear\(…\), not the class"):
        check_object("x", nn.Linear, nn.Module, "")
    with pytest.raises(TypeError, match="x is a list; give a dict by name: {}"):
        check_named("x", [], "{}")
