"""Modules that run and stay as they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lit_distill.models import SmallCNN
from lit_distill.utils.restoring import as_in_evaluation, unchanged
from lit_distill.utils.rng import collect_rng_state


class TestUnchanged:
    def test_buffers_come_back_in_place_whatever_was_done_to_them(self) -> None:
        class Observing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("count", torch.zeros(()))
                self.register_buffer("range", torch.zeros(0))
                self.register_buffer("mean", torch.zeros(2))

            def forward(self, x: Tensor) -> Tensor:
                self.count += 1
                self.range.resize_(3).fill_(7)
                self.mean = x.mean(0)
                return x

        model = Observing()
        before = dict(model.named_buffers())
        with unchanged(model):
            model(torch.ones(4, 2))
        after = dict(model.named_buffers())
        assert all(after[name] is buffer for name, buffer in before.items())
        assert [buffer.tolist() for buffer in after.values()] == [0.0, [], [0.0, 0.0]]


class TestAsInEvaluation:
    def test_restores_modes_buffers_and_random_states(self) -> None:
        model = SmallCNN(2)
        model.stage2.eval()
        modes = [child.training for child in model.modules()]
        buffers = [buffer.clone() for buffer in model.buffers()]
        state = collect_rng_state()
        with as_in_evaluation(model):
            assert not any(child.training for child in model.modules())
            model(torch.randn(3, 1, 8, 8))
            random.random(), np.random.rand()
        assert [child.training for child in model.modules()] == modes
        for before, after in zip(buffers, model.buffers(), strict=True):
            assert torch.equal(before, after)
        after_state = collect_rng_state()
        assert torch.equal(state["torch"], after_state["torch"])
        assert (state["python"], state["numpy"]) == (after_state["python"], after_state["numpy"])

    def test_restores_after_an_error(self) -> None:
        model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
        with pytest.raises(RuntimeError, match="stop"), as_in_evaluation(model):
            raise RuntimeError("stop")
        assert all(child.training for child in model.modules())
