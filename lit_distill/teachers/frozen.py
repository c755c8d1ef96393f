"""A teacher that never changes: the usual one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch import Inputs
from lit_distill.outputs import Outputs
from lit_distill.teachers.base import Teacher


class FrozenTeacher(Teacher):
    """A network in eval mode with no gradients, whatever anyone calls.

    Args:
        model: The network; it is put in eval mode and its parameters stop asking for gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.eval().requires_grad_(False))

    def __call__(self, inputs: Inputs, mask: Tensor | None = None, *, calibrate: bool = False) -> Outputs:
        self.model.eval()
        # no_grad, not inference_mode: the outputs enter the student's graph.
        with torch.no_grad():
            return self.capture.run(inputs, mask, calibrate=calibrate)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        return self(inputs, mask)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.model._apply(fn)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        # A copy of the LightningModule (weight averaging makes one) shares the one teacher.
        return self
