"""Compiling in place, beside other networks of the same class."""

from __future__ import annotations

import pytest
import torch

from lit_distill.capture.capture import Capture
from lit_distill.models import SmallCNN
from lit_distill.utils.compiling import compile_in_place


@pytest.mark.slow
def test_a_network_keeps_its_hooks_though_another_of_its_class_was_compiled_without() -> None:
    images = torch.randn(2, 1, 8, 8)
    bare = SmallCNN(2)
    bare.compile(backend="eager")  # by the user, before
    bare(images)
    plain, first, second = SmallCNN(2), SmallCNN(2), SmallCNN(2)
    captures = [Capture(plain), Capture(first, ["stage3"]), Capture(second, ["stage1"])]
    for capture in captures:
        compile_in_place(capture.model, backend="eager")
    for _ in range(2):
        for capture in captures:
            expected = capture.dry_run(images)
            assert list(expected.features) == capture.layers
    with torch.no_grad():
        live = first.stage3(first.pool(first.stage2(first.stage1(images))))
    torch.testing.assert_close(captures[1].run(images).features["stage3"], live)
