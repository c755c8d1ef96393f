"""Samples of a batch's inputs."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from lit_distill.batch.batch import Arguments
from lit_distill.measures import one_sample, some_samples

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "left right")


def test_samples_are_repeated_in_every_form_of_inputs() -> None:
    values = torch.arange(3)
    assert some_samples(values, 3, 5, CPU).tolist() == [0, 1, 2, 0, 1]  # type: ignore[union-attr]
    found = some_samples({"x": values, "positions": torch.arange(7), "none": None}, 3, 2, CPU)
    assert found["x"].tolist() == [0, 1]  # type: ignore[index,call-overload]
    assert found["positions"].tolist() == list(range(7))  # type: ignore[index,call-overload]
    pair = some_samples(Pair(values, values + 1), 3, 1, CPU)
    assert isinstance(pair, Pair)
    assert pair.right.tolist() == [1]
    called = some_samples(Arguments((values,), {"scale": 2.0}), 3, 1, CPU)
    assert isinstance(called, Arguments)
    assert called.positional[0].tolist() == [0]
    assert called.named == {"scale": 2.0}


def test_objects_that_cannot_be_cut_are_refused_or_taken_whole() -> None:
    packed = pack_sequence([torch.zeros(3, 2), torch.zeros(2, 2)])
    with pytest.raises(ValueError, match="PackedSequence"):
        some_samples((packed,), 2, 1, CPU)
    graph = SimpleNamespace(x=torch.zeros(2))
    assert one_sample((graph,), 2, CPU) == (graph,)  # type: ignore[comparison-overlap]
