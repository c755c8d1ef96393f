"""DOT: SGD with one momentum for the teacher and a smaller one for the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.utils.arguments import check_number
from lit_distill.utils.distributed import distributed

_TASK, _DISTILL = "momentum_task", "momentum_distill"


class DOT(Optimizer):
    r"""Distillation-oriented trainer: SGD in which the teacher's gradient has the longer memory.

    $$ v_{\mathrm{task}} \leftarrow (\mu - \Delta)\,v_{\mathrm{task}} + g_{\mathrm{task}} + \lambda\theta, \quad
    v_{\mathrm{distill}} \leftarrow (\mu + \Delta)\,v_{\mathrm{distill}} + g_{\mathrm{distill}}, \quad
    \theta \leftarrow \theta - \mathrm{lr}\,(v_{\mathrm{task}} + v_{\mathrm{distill}}) $$

    Both velocities start at their first gradient. ``g_task`` is the gradient of the
    weighted criteria that need no teacher (``HardTarget``, the module's own loss under ``Distill``), ``g_distill`` that of all
    others. Weight decay ``λ`` counts once, with the task, as in the authors' code. With ``Δ = 0`` it is SGD with momentum.

    A parameter that only one of the two losses reaches, such as a projector's, has only ``v_task``, with ``μ``; an earlier
    ``v_distill`` decays with ``μ``. A schedule may therefore begin or end either of the two.

    In the paper ([Zhao, Cui and Liang 2023](https://arxiv.org/abs/2307.08436), ICCV) ``Δ`` is 0.075 on CIFAR-100
    and 0.09 on ImageNet, and ``μ`` 0.9. The authors' code freezes a velocity whose gradient ends; here it decays.

    It works in any distillation of the library and in a module that ``Distill`` is added to: they call ``hold`` in
    each training step, at the cost of one more backward pass. A change of ``grad`` between the
    backward pass and the step would count as the teacher's, so clipping is refused before the first batch.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate, at least 0.
        momentum: ``μ``, in [0, 1).
        delta: ``Δ``, from 0 to ``μ``, and ``μ + Δ`` below 1.
        weight_decay: ``λ``, at least 0.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> optimizer = DOT([weight], lr=0.1)
        >>> (3 * weight).backward()  # the gradient of labels and teacher together
        >>> optimizer.hold({weight: torch.tensor(1.0)})  # that of the labels
        >>> _ = optimizer.step()
        >>> round(weight.item(), 4)
        0.7
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        lr, weight_decay = check_number("lr", lr, least=0), check_number("weight_decay", weight_decay, least=0)
        momentum, delta = check_number("momentum", momentum, least=0, below=1), check_number("delta", delta)
        _check_delta(momentum, delta)
        self._held: dict[Tensor, Tensor] | None = None
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._held = None

    def hold(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """Add to the task's gradient of the next step.

        Args:
            gradients: Of the parameters that both the task and the teacher reach, each scaled like its ``grad``: over
                accumulated batches, the sum is the mean. Only those of this process; ``step`` averages them.
        """
        held = self._held if self._held is not None else {}
        for parameter, gradient in gradients.items():
            held[parameter] = held[parameter] + gradient if parameter in held else gradient
        self._held = held

    def memories(self) -> tuple[float, float]:
        """Return how often a task's and a teacher's gradient count in all later steps together: 1 / (1 - momentum)."""
        momentum, delta = self.defaults["momentum"], self.defaults["delta"]
        return 1 / (1 - momentum + delta), 1 / (1 - momentum - delta)

    def drop(self) -> None:
        """Forget the held gradients, such as those of a fit that stopped between two steps."""
        self._held = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step.

        Args:
            closure: Computes the loss and the gradients, and calls ``hold``.

        Returns:
            The closure's return value.

        Raises:
            RuntimeError: There are gradients, and nothing was held since the last step.
            ValueError: A scheduler has set a momentum out of range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held, self._held = self._held, None
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if trained and held is None:
            raise RuntimeError(
                "DOT needs the task's gradient apart from the teacher's, and was given none for this step. Only a "
                "distillation module of lit_distill, or a module with the callback lit_distill.Distill, gives it, in a "
                "Trainer that optimizes automatically; elsewhere use torch.optim.SGD."
            )
        apart = _averaged(held or {}, trained)
        for group in self.param_groups:
            _check_delta(group["momentum"], group["delta"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, apart.get(parameter), group)
        return loss

    def _update(self, parameter: Tensor, task: Tensor | None, group: Mapping[str, Any]) -> None:
        assert parameter.grad is not None
        distill = parameter.grad - task if task is not None else None
        decayed = (task if task is not None else parameter.grad).add(parameter, alpha=group["weight_decay"])
        delta = group["delta"] if task is not None else 0.0
        momentum, state = group["momentum"], self.state[parameter]
        for name, gradient, memory in ((_TASK, decayed, momentum - delta), (_DISTILL, distill, momentum + delta)):
            if name in state:
                state[name].mul_(memory)
            if gradient is not None:
                state[name] = state[name].add_(gradient) if name in state else gradient.clone()
            if name in state:
                parameter.add_(state[name], alpha=-group["lr"])


def _check_delta(momentum: float, delta: float) -> None:
    if not (0 <= delta <= momentum and momentum + delta < 1):
        raise ValueError(
            f"delta must be from 0 to the momentum, and their sum below 1; not {delta} with a momentum of {momentum}. A "
            "scheduler that cycles the momentum (OneCycleLR, CyclicLR) needs cycle_momentum=False."
        )


def _averaged(held: dict[Tensor, Tensor], parameters: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """Average the held gradients over all processes; a process that holds none for a parameter counts as 0."""
    if not distributed() or not parameters:
        return held
    holds = torch.tensor([parameter in held for parameter in parameters], dtype=torch.float32).to(parameters[0].device)
    parts = [held.get(parameter, torch.zeros_like(parameter)).flatten() for parameter in parameters]
    together = torch.cat([holds, *parts])
    torch.distributed.all_reduce(together)
    together = together / torch.distributed.get_world_size()
    anywhere, *means = torch.split(together, [len(parts), *map(len, parts)])
    return {
        parameter: mean.view_as(parameter).to(parameter.dtype)
        for parameter, mean, known in zip(parameters, means, anywhere.tolist(), strict=True)
        if known
    }
