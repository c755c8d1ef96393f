"""Automatic balance: the losses' weights found in training, in place of tuned by hand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_distill.criteria.base import at_least_float32
from lit_distill.utils.arguments import check_number, check_text, check_whole
from lit_distill.utils.distributed import distributed
from lit_distill.utils.measuring import gradients_of, through_compiled
from lit_distill.utils.names import nearest

_ROUNDING = 1e-4  # how far below 0 rounding may bring a loss that cannot be negative
_LARGEST_LOG_VARIANCE = 20.0  # keeps exp finite


class Balance(nn.Module, ABC):
    """Puts the criteria's values together, and finds their weights while doing so.

    What it learns or measures belongs into parameters and buffers, so that it is trained and checkpointed.
    """

    def build(self, names: Sequence[str]) -> None:
        """Make what is kept for each criterion; called once, before any optimizer is made.

        Args:
            names: The criteria that can train.
        """

    def measures(self, names: Collection[str]) -> bool:
        """Whether the next batch's terms will be differentiated here; compiled networks then run eagerly.

        Asked before each training batch. One that differentiates its terms (``gradient_norm``) has to say so.

        Args:
            names: The criteria that have a weight above 0 now.
        """
        return False

    @abstractmethod
    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Put the terms of a batch together.

        In evaluation mode, or without gradients, nothing is measured and no state changes.

        Args:
            terms: The criteria's values that have a weight above 0 now: scalars.
            weights: Their weights, as the user gave or scheduled them.
            parameters: The student's that train.

        Returns:
            The total, a scalar, and the weight that each term's gradient has in it.
        """


class GradientNorm(Balance):
    """Weights that are ratios of gradient norms, in place of ratios of losses.

    With ``g_i`` the norm of criterion ``i``'s gradient over all of the student's parameters, and ``r`` the reference,
    ``i`` gets the effective weight ``w_i · ratio · g_r / g_i``, and the reference ``w_r``. So the weighted gradients'
    norms stand to each other as the weights do: weights 1 and 0.5 mean that the second pulls half as hard as the first,
    whatever their losses' scales. Multiplying a criterion by a constant changes nothing.

    The norms are measured every ``every`` batches, at the cost of one more backward pass for each criterion, and kept
    as a moving average that starts at the first one measured. A norm of 0, or one that is not finite, is left out.
    Until both norms are known, a criterion has its weight as it is. In a batch that measures, a compiled student runs eagerly:
    no more than one gradient of a compiled network can be relied on (``lit_distill.utils.measuring``).

    The aim is that of Chen et al. 2018, *GradNorm*, section 3, the means are simpler: no weights learned by gradient
    descent, no target from relative training rates (the paper's ``alpha`` is 0), one reference in place of the mean, and
    all parameters in place of the last shared layer's. In distributed training the norm is that of the gradient averaged over
    processes, so that their number does not matter.

    As a criterion is fitted its gradient shrinks and its effective weight grows; as the reference is fitted the others
    shrink with it. Choose a reference that keeps teaching, and look at the logged weights. Under ``16-mixed`` precision
    small gradients may vanish in the measurement, which no loss scaler guards.

    Args:
        reference: The criterion that the others are measured by.
        ratio: Multiplies all weights but the reference's; above 0.
        every: Batches from one measurement to the next, at least 1.
        momentum: Of the moving average, in [0, 1).

    Raises:
        ValueError: An argument is out of range.
    """

    seen: Tensor
    norms: Tensor

    def __init__(self, reference: str, ratio: float = 1.0, every: int = 50, momentum: float = 0.9) -> None:
        super().__init__()
        self.reference = check_text("reference", reference, "a criterion's name, such as 'hard'")
        self.ratio = check_number("ratio", ratio, above=0)
        self.every = check_whole("every", every, least=1)
        self.momentum = check_number("momentum", momentum, least=0, below=1)
        self.names: list[str] = []
        self._said: bool | None = None  # what it told of the present batch; None where nobody asks
        self._late = False

    def build(self, names: Sequence[str]) -> None:
        """Make room for the norms.

        Raises:
            ValueError: The reference is none of the criteria.
        """
        if self.reference not in names:
            raise ValueError(
                f"the balance's reference {self.reference!r} is none of the criteria that train: {', '.join(names)}."
                f"{nearest(self.reference, names)}"
            )
        self.names = list(names)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("norms", torch.full((len(names),), math.nan))  # NaN: not known yet

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Put the terms together.

        Raises:
            ValueError: The reference has the weight 0 before its norm was ever measured, or there are no parameters.
        """
        if self.reference not in terms and math.isnan(self._known()[self.reference]):
            raise ValueError(
                f"the balance's reference {self.reference!r} has the weight 0 at the start, so that nothing can be measured "
                "by it; choose a criterion that trains from the first batch on."
            )
        if self.training and torch.is_grad_enabled():
            self._observe(terms, parameters)
        known = self._known()
        effective = {name: weights[name] * self._factor(name, known) for name in terms}
        return weighted_sum(terms, effective), effective

    def measures(self, names: Collection[str]) -> bool:
        self._said = self._late or self._due(names)
        return self._said

    def _due(self, names: Collection[str]) -> bool:
        known = self._known()
        return int(self.seen) % self.every == 0 or any(math.isnan(known[name]) for name in names)

    def _known(self) -> dict[str, float]:
        return dict(zip(self.names, self.norms.tolist(), strict=True))

    def _factor(self, name: str, norms: Mapping[str, float]) -> float:
        if name == self.reference or math.isnan(norms[name]) or math.isnan(norms[self.reference]):
            return 1.0
        return self.ratio * norms[self.reference] / norms[name]

    def _observe(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> None:
        """Measure the norms where it is time to, or where one is not known."""
        if not parameters:
            raise ValueError("GradientNorm measures gradients over the student's parameters, and was given none.")
        due = self._late or self._due(terms)
        self.seen += 1
        if not due:
            return
        # A step with several calls of the student counts each, and may begin before it is time, compiled.
        self._late = self._said is False and through_compiled(*terms.values())
        if self._late:
            return
        measured = torch.stack([gradient_norm(value, parameters) for value in terms.values()])
        places = [self.names.index(name) for name in terms]
        before = self.norms[places]
        after = self.momentum * before + (1 - self.momentum) * measured
        after = torch.where(before.isnan(), measured, after)
        self.norms[places] = torch.where(measured.isfinite() & (measured > 0), after, before).to(self.norms.dtype)


class Uncertainty(Balance):
    """Weights learned beside the student's: a criterion that cannot be fitted well counts less.

    ``total = sum_i w_i (exp(-s_i) L_i + s_i)``, with ``s_i = log sigma_i²`` learned from 0, so that training starts as
    the plain weighted sum. It is twice the regression form of Kendall, Gal and Cipolla 2018, *Multi-Task Learning Using
    Uncertainty to Weigh Losses* (section 3.2, equation 7: ``L / (2 sigma²) + log sigma``), for every criterion; their
    form for classification has ``s_i / 2`` in place of ``s_i``, which only halves the weight at the fixed point.

    The effective weight is ``w_i exp(-s_i)``. It is at rest at ``s_i = log L_i``, where the weighted term is ``w_i``
    whatever the loss's scale. Losses must be 0 or more: below, the total would have no lower bound. A loss that reaches
    0 drives its own weight up without end; it is held at ``exp(20)``. ``s`` is in the module's optimizer, whose weight
    decay pulls it towards 0, and its sum is in ``train/loss`` but in no weighted criterion.
    """

    def build(self, names: Sequence[str]) -> None:
        """Make the log variances, one for each criterion."""
        self.names = list(names)
        self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Put the terms together.

        Raises:
            ValueError: A term is negative.
        """
        for name, value in terms.items():
            if value.detach() < -_ROUNDING:
                raise ValueError(
                    f"criterion {name!r} is {float(value.detach()):g}, and Uncertainty balances losses of 0 or more; balance "
                    "with GradientNorm, or give weights by hand."
                )
        limit = _LARGEST_LOG_VARIANCE
        bounded = dict(zip(self.names, at_least_float32(self.log_variance).clamp(-limit, limit), strict=True))
        factors = {name: torch.exp(-bounded[name]) for name in terms}
        parts = [weights[name] * (factors[name] * value + bounded[name]) for name, value in terms.items()]
        return torch.stack(parts).sum(), {name: weights[name] * float(factors[name].detach()) for name in terms}


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """``sum_i w_i L_i``, a scalar."""
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def gradient_norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The L2 norm of a value's gradient over all parameters together; no parameter's ``grad`` is touched.

    Among processes it is the norm of the averaged gradient: that of a small batch is larger, and by how much depends on
    the criterion, so that an average of norms would change with the number of processes.

    Args:
        value: A scalar; its graph is kept.
        parameters: Those that it does not reach count as 0.

    Returns:
        A scalar in float32.

    Raises:
        RuntimeError: The gradient goes through a compiled function, which may give another one each time.
    """
    if not value.requires_grad:
        return value.new_zeros((), dtype=torch.float32)
    gradients = gradients_of(value, parameters, "a balance")
    reached = [gradient.float() for gradient in gradients if gradient is not None]
    if not reached:
        return value.new_zeros((), dtype=torch.float32)
    if distributed():
        together = torch.cat([gradient.flatten() for gradient in reached])
        torch.distributed.all_reduce(together)
        reached = [together / torch.distributed.get_world_size()]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in reached]))
    return norm
