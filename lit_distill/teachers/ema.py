"""A teacher that is the moving average of its student."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lit_distill.batch.batch import Inputs
from lit_distill.capture.capture import Capture
from lit_distill.capture.formats import require_gradients
from lit_distill.outputs import Outputs
from lit_distill.teachers.base import Teacher
from lit_distill.utils.arguments import check_flag, check_number, check_whole
from lit_distill.utils.copying import copied
from lit_distill.utils.notices import tell

_LIKELY = 0.5  # a smaller share kept makes the teacher nearly the student itself


class EMATeacher(Teacher):
    """The exponential moving average of the student's weights, which teaches the student.

    After every optimizer step, and so once for several accumulated batches, ``t <- m t + (1 - m) s`` (Tarvainen and
    Valpola 2017, "Mean teachers are better role models", section 2), in the weights' own type; buffers (BatchNorm's
    statistics) are copied. It needs no model: it starts as a copy of the student. It runs in eval mode without
    gradients, belongs to the module and its checkpoint, and is in no optimizer.

    The share kept, ``m``, after step n is ``decay``; or, with ``final_decay``, goes from one to the other along half a
    cosine (Grill et al. 2020, BYOL, section 3.3, from 0.996 to 1; DINO too). With ``warm_up`` it is at most
    ``n / (n + 1)``, at which the teacher is the plain mean of all students so far, as in the mean teacher's code: the
    random start is soon forgotten, however near ``decay`` is to 1.

    Args:
        decay: The share of itself that the teacher keeps at each step, in [0, 1). 0.99 to 0.999 in Tarvainen and Valpola.
        warm_up: Keep less at first.
        final_decay: The share kept at the end, in [0, 1]; ``decay`` throughout where None.
        steps: The steps from ``decay`` to ``final_decay``; those of the whole fit where None.

    Raises:
        ValueError: A share or a number of steps is out of range.
    """

    frozen = False
    role = "a moving average of the student"

    def __init__(
        self, decay: float = 0.999, warm_up: bool = True, final_decay: float | None = None, steps: int | None = None
    ) -> None:
        super().__init__(nn.Identity())
        self.decay, self.final_decay = _checked_shares(decay, final_decay)
        self.warm_up = check_flag("warm_up", warm_up)
        self.steps = None if steps is None else check_whole("steps", steps, least=1)
        if steps is not None and final_decay is None:
            raise ValueError(f"steps is {steps}: it says how long it takes from decay to final_decay, which is None.")
        self._total = float(self.steps or 1)
        self._step = 0
        self._bound = False

    @property
    def registered(self) -> nn.Module | None:
        return self.model if self._bound else None

    @property
    def network(self) -> None:
        return None

    def for_student(self, student: nn.Module) -> EMATeacher:
        if not self._bound:
            return self
        other = copy.copy(self)  # of the settings: the average is the other student's
        other._bound, other._step = False, 0
        return other

    def set_student(self, student: nn.Module) -> None:
        """Start as a copy of the student as it is now."""
        with torch.no_grad():  # a copy of TorchScript would have the student's graph
            self.model = copied(student)
        require_gradients(self.model, False)
        self.capture = Capture(self.model, owner="teacher")
        self._bound = True

    def on_train_start(self, trainer: Trainer, read_inputs: Callable[[Any], Inputs]) -> None:
        """Go on from the trainer's step, and look up how many there will be.

        Raises:
            ValueError: ``steps`` is None, and the fit has no end.
        """
        self._step = trainer.global_step
        if self.final_decay is None or self.steps is not None:
            return
        self._total = float(trainer.estimated_stepping_batches)
        if not math.isfinite(self._total):
            raise ValueError("final_decay is reached at the end of the fit, which has none; set steps.")

    def decay_at(self, step: int) -> float:
        """The share kept after an optimizer step.

        Args:
            step: Its number, from 1.
        """
        decay = self.decay
        if self.final_decay is not None:
            left = (1 + math.cos(math.pi * min(step / self._total, 1.0))) / 2
            decay = self.final_decay - (self.final_decay - decay) * left
        return min(decay, step / (step + 1)) if self.warm_up else decay

    def on_train_batch_end(self, student: nn.Module, step: int) -> None:
        """Follow the student, where it has made a step since the last batch; several at once count as many."""
        if step > self._step:
            self._follow(student, math.prod(self.decay_at(made) for made in range(self._step + 1, step + 1)))
        self._step = step

    @torch.no_grad()
    def _follow(self, student: nn.Module, kept: float) -> None:
        ours, theirs = list(self.model.parameters()), [p.detach() for p in student.parameters()]
        get_ema_multi_avg_fn(kept)(ours, theirs, 0)  # type: ignore[no-untyped-call]
        for mine, other in zip(self.model.buffers(), student.buffers(), strict=True):
            mine.copy_(other)

    def __call__(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        if not self._bound:
            raise RuntimeError("this EMATeacher has no student yet: set_student(student) comes first.")
        self.model.eval()  # Lightning puts all that belongs to the module into train mode
        with torch.no_grad():
            return self.capture.run(inputs, mask)

    def predict(self, inputs: Inputs, mask: Tensor | None = None) -> Outputs:
        return self(inputs, mask)


def _checked_shares(decay: float, final_decay: float | None) -> tuple[float, float | None]:
    kept = "the share of itself that the teacher keeps"
    decay = check_number(f"decay, {kept},", decay, least=0, below=1)
    if final_decay is not None:
        final_decay = check_number(f"final_decay, {kept},", final_decay, least=0, most=1)
    if 0 < decay < _LIKELY:
        tell(
            f"decay {decay} keeps {decay:.0%} of the teacher at each step, so that it is nearly the student; if that is "
            f"the share that changes, set decay to {1 - decay:g}."
        )
    return decay, final_decay
