"""How much is pruned after each step of several."""

from __future__ import annotations

from typing import Literal, get_args

from lit_distill.utils.arguments import check_choice, check_number, check_whole

PruningSchedule = Literal["linear", "cubic"]


def share_after(ratio: float, step: int, steps: int, schedule: PruningSchedule = "linear") -> float:
    r"""Return the share that is gone after a step, of all that was there before the first one.

    ``linear``: $r \frac{t}{n}$. ``cubic``: $r \left(1 - \left(1 - \frac{t}{n}\right)^3\right)$, which takes most away at first,
    while there is much to choose from ([Zhu and Gupta 2017](https://arxiv.org/abs/1710.01878), equation 1).

    Args:
        ratio: After the last step, in [0, 1].
        step: From 0 (nothing is gone) to ``steps``.
        steps: At least 1.
        schedule: As above.

    Raises:
        ValueError: A value is out of its range.

    Example:
        >>> [round(share_after(0.8, step, 4, "cubic"), 4) for step in range(5)]
        [0.0, 0.4625, 0.7, 0.7875, 0.8]
    """
    check_choice("schedule", schedule, get_args(PruningSchedule))
    ratio = check_number("ratio", ratio, least=0, most=1)
    steps = check_whole("steps", steps, least=1)
    done = check_number("step", step, least=0, most=steps) / steps
    return ratio * (done if schedule == "linear" else 1 - (1 - done) ** 3)
