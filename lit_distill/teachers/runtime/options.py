"""The options of a frozen teacher's runtime: precision, layout, batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lit_distill.utils.arguments import check_choice, check_flag, check_whole

Precision = Literal["32", "bf16", "fp16", "int8", "int8_dynamic"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class TeacherRuntime:
    """How a frozen teacher runs on training batches: on a copy prepared for speed.

    The network itself does not change; evaluation, checks and checkpoints use it, not the copy. Layers have the same names in
    every precision. Which option is faster depends on the machine; all can be combined except those named under Raises.

    Attributes:
