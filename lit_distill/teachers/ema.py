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
from lit_distill.utils.notices import warn

_LIKELY = 0.5  # with a smaller decay the teacher is nearly the student itself


class EMATeacher(Teacher):
    r"""The exponential moving average of the student's weights, as the student's teacher.

    After every optimizer step, $t \leftarrow m t + (1 - m) s$ (Tarvainen and Valpola 2017, "Mean teachers are better role
    models", section 2), in the weights' own type; buffers (BatchNorm's statistics) are copied. It starts as a copy of the
    student, runs in eval mode without gradients, belongs to the module and its checkpoint, and is in no optimizer.

    $m$ is ``decay``; with ``final_decay`` it goes from one to the other along half a cosine (Grill et al. 2020, BYOL, section
    3.3, from 0.996 to 1; also DINO). With ``warm_up`` it is at most $n / (n + 1)$ after step $n$, as in the mean teacher's
    code: the teacher is then the plain mean of all students so far, and the random start is soon forgotten.

    Args:
        decay: Share of its weights that the teacher keeps per step, in [0, 1); 0.99 to 0.999 in Tarvainen and Valpola.
        warm_up: Keep a smaller share in the first steps.
        final_decay: Share kept at the end, in [0, 1]; ``decay`` throughout if None.
        steps: Steps from ``decay`` to ``final_decay``, at least 1; those of the whole fit if None.

    Raises:
        ValueError: A share or a number of steps is out of range.

    Examples:
        >>> EMATeacher(decay=0.9).decay_at(4)
        0.8
    """

    frozen = False
    role = "a moving average of the student"

    def __init__(
        self, decay: float = 0.999, warm_up: bool = True, final_decay: float | None = None, steps: int | None = None
    ) -> None:
        super().__init__()
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
        """Start as a copy of the student."""
        with torch.no_grad():  # a copy of TorchScript would have the student's graph
            self.model = copied(student)
        require_gradients(self.model, False)
        self.capture = Capture(self.model, owner="teacher")
        self._bound = True

    def on_train_start(self, trainer: Trainer, read_inputs: Callable[[Any], Inputs]) -> None:
        """Continue from the trainer's step, and find the number of steps of the fit.

        Raises:
            ValueError: ``steps`` is None, and the length of the fit is unknown.
        """
        self._step = trainer.global_step
        if self.final_decay is None or self.steps is not None:
            return
        self._total = float(trainer.estimated_stepping_batches)
        if not math.isfinite(self._total):
            raise ValueError("final_decay is reached at the end of the fit, which has none; set steps.")

    def decay_at(self, step: int) -> float:
        """Return the share of its weights that the teacher keeps after an optimizer step.

        Args:
            step: Number of the step, from 1.
        """
        decay = self.decay
        if self.final_decay is not None:
            left = (1 + math.cos(math.pi * min(step / self._total, 1.0))) / 2
            decay = self.final_decay - (self.final_decay - decay) * left
        return min(decay, step / (step + 1)) if self.warm_up else decay

    def on_train_batch_end(self, student: nn.Module, step: int) -> None:
        """Follow the student if it has made optimizer steps since the last batch, once per step."""
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
        self.model.eval()  # Lightning puts everything in the module into train mode
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
        warn(
            f"decay {decay} keeps {decay:.0%} of the teacher at each step, so it is nearly the student; if you mean "
            f"the share that changes, set decay to {1 - decay:g}."
        )
    return decay, final_decay
