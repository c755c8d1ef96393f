"""Automatic balance: weights of the losses found during training instead of tuned by hand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_distill.criteria.base import at_least_float32
from lit_distill.utils.arguments import check_number, check_text, check_whole
from lit_distill.utils.measuring import OnHost, joint_norm, mean_gradients, through_compiled
from lit_distill.utils.names import nearest

_ROUNDING = 1e-4  # how far below 0 rounding may bring a loss that cannot be negative
_LARGEST_LOG_VARIANCE = 20.0  # keeps exp finite


class Balance(nn.Module, ABC):
    """Combines the criteria's values into one loss, and finds their weights.

    Keep learned and measured values in parameters and buffers, so that they are trained and checkpointed.
    """

    def build(self, names: Sequence[str]) -> None:
        """Make the state of each criterion; called once, before any optimizer is made.

        Args:
            names: The criteria that can train.
        """

    def measures(self, names: Collection[str]) -> bool:
        """Return True if this differentiates the next batch's terms; compiled networks then run eagerly.

        Called before each training batch. A balance that calls ``gradient_norm`` must override it.

        Args:
            names: The criteria that have a weight above 0 now.
        """
        return False

    @abstractmethod
    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms of a batch.

        In evaluation mode, or without gradients, nothing is measured and no state changes.

        Args:
            terms: The values, scalars, of the criteria that have a weight above 0 now.
            weights: Their weights, given or scheduled.
            parameters: The trained parameters of the student.

        Returns:
            The total, a scalar, and the weight that each term's gradient has in it.
        """


class MeasuredNorms(Balance):
    """Keeps the norms of the terms' gradients, measured in some batches; subclasses say in which."""

    seen: Tensor
    norms: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._said: bool | None = None  # the answer of `measures` for the present batch; None if not called
        self._seen, self._norms = OnHost(), OnHost()

    def build(self, names: Sequence[str]) -> None:
        """Make the buffers of the norms."""
        self.names = list(names)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("norms", torch.zeros(len(names)))  # 0, or NaN in older checkpoints: not measured yet

    def measures(self, names: Collection[str]) -> bool:
        self._said = self._due(names)
        return self._said

    def known(self) -> dict[str, float]:
        """Return each norm by name; NaN until it is measured."""
        return {name: norm or math.nan for name, norm in zip(self.names, self._norms.read(self.norms), strict=True)}

    def train(self, mode: bool = True) -> MeasuredNorms:
        self._forget_copies()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MeasuredNorms:
        self._forget_copies()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _forget_copies(self) -> None:
        """Read the buffers again: averages of weights change them in a way that PyTorch does not count."""
        self._seen, self._norms = OnHost(), OnHost()

    @abstractmethod
    def _due(self, names: Collection[str]) -> bool:
        """Return True if this batch is to be measured."""

    @abstractmethod
    def _measure(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        """Return the norms to keep from now on, by name; the old one stays where it is 0 or not finite."""

    def _observe(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> None:
        """Measure the norms if it is time to, or if one is not known."""
        if not parameters:
            raise ValueError(
                f"{type(self).__name__} measures gradients over the student's parameters, and there are none."
            )
        due = self._due(terms)
        if due and self._said is False and through_compiled(*terms.values()):
            return  # a step may call the student often, and start compiled: not counted, so that the next one measures
        if due:
            self._note(self._measure(terms, parameters))
        self._count(terms)

    def _note(self, found: Mapping[str, Tensor]) -> None:
        measured = torch.full_like(self.norms, math.nan)
        for name, norm in found.items():
            measured[self.names.index(name)] = norm
        self.norms.copy_(torch.where(measured.isfinite() & (measured > 0), measured, self.norms))

    def _count(self, names: Collection[str]) -> None:
        count = self._seen.read(self.seen) + 1
        self.seen += 1
        self._seen.note(self.seen, count)


class GradientNorm(MeasuredNorms):
    r"""Weights that are ratios of gradient norms instead of ratios of losses.

    $$ \sum_i w_i\,\rho_i \frac{g_r}{g_i} L_i, \quad \rho_r = 1, \; \rho_{i \neq r} = \mathrm{ratio} $$

    $g_i$ is the norm of the gradient of criterion $i$ over all of the student's parameters, and $r$ the reference. The norms
    of the weighted gradients thus have the ratios of the weights: weights 1 and 0.5 mean that the second pulls half as hard as
    the first, whatever the scales of their losses. Multiplying a criterion by a constant changes nothing.

    The norms are measured once in ``every`` batches, at the cost of one more backward pass per criterion, and kept
    as a moving average that starts at the first measurement. A norm of 0, or one that is not finite, is left out.
    Until both norms are known, a criterion keeps its given weight. In a batch that measures, a compiled student runs eagerly,
    as only one gradient of a compiled network is reliable (``lit_distill.utils.measuring``).

    The aim is that of GradNorm ([Chen et al. 2018](https://arxiv.org/abs/1711.02257), section 3), with simpler means: no
    weights learned by gradient descent, no target from relative training rates (the paper's ``alpha`` is 0), one reference
    instead of the mean, and all parameters instead of those of the last shared layer. In distributed training the norm is that
    of the gradient averaged over processes, so that their number does not matter.

    As a criterion is fitted, its gradient shrinks and its effective weight grows; as the reference is fitted, the others
    shrink with it. Choose a reference that keeps teaching, and watch the logged weights.

    Args:
        reference: The criterion that the others are measured by.
        ratio: Multiplies all weights but the reference's; above 0.
        every: Number of batches from one measurement to the next, at least 1.
        momentum: The momentum of the moving average of the norms, in [0, 1).

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> balance = GradientNorm(reference="hard")
        >>> balance.build(["hard", "soft"])
        >>> balance({"hard": 3 * weight, "soft": 60 * weight}, {"hard": 1.0, "soft": 1.0}, [weight])[1]
        {'hard': 1.0, 'soft': 0.05}
    """

    def __init__(self, reference: str, ratio: float = 1.0, every: int = 50, momentum: float = 0.9) -> None:
        super().__init__()
        self.every = check_whole("every", every, least=1)
        self.momentum = check_number("momentum", momentum, least=0, below=1)
        self.reference = check_text("reference", reference, "a criterion's name, such as 'hard'")
        self.ratio = check_number("ratio", ratio, above=0)

    def build(self, names: Sequence[str]) -> None:
        """Make the buffers of the norms.

        Raises:
            ValueError: The reference is not one of the criteria.
        """
        if self.reference not in names:
            raise ValueError(
                f"the balance's reference {self.reference!r} is not one of the criteria that train: {', '.join(names)}."
                f"{nearest(self.reference, names)}"
            )
        super().build(names)

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms.

        Raises:
            ValueError: The reference has the weight 0 before its norm was ever measured, or there are no parameters.
        """
        if self.reference not in terms and math.isnan(self.known()[self.reference]):
            raise ValueError(
                f"the balance's reference {self.reference!r} has the weight 0 at the start, so nothing can be compared with "
                "it; choose a criterion that trains from the first batch on."
            )
        if self.training and torch.is_grad_enabled():
            self._observe(terms, parameters)
        known = self.known()
        effective = {name: weights[name] * self._factor(name, known) for name in terms}
        return weighted_sum(terms, effective), effective

    def _due(self, names: Collection[str]) -> bool:
        known = self.known()
        return self._seen.read(self.seen) % self.every == 0 or any(math.isnan(known.get(name, 0.0)) for name in names)

    def _measure(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
        return {name: self._averaged(name, gradient_norm(value, parameters)) for name, value in terms.items()}

    def _averaged(self, name: str, measured: Tensor) -> Tensor:
        before = self.norms[self.names.index(name)]
        after = torch.where(before > 0, self.momentum * before + (1 - self.momentum) * measured, measured)
        return torch.where(measured > 0, after, 0)

    def _factor(self, name: str, norms: Mapping[str, float]) -> float:
        if name == self.reference or math.isnan(norms[name]) or math.isnan(norms[self.reference]):
            return 1.0
        return self.ratio * norms[self.reference] / norms[name]


class Uncertainty(Balance):
    r"""Weights learned together with the student: a criterion that cannot be fitted well counts less.

    $$ \sum_i w_i\,(e^{-s_i} L_i + s_i), \quad s_i = \log \sigma_i^2 $$

    ``s`` is learned from 0, so that training starts with
    the plain weighted sum. It is twice the regression form of [Kendall et al. 2018](https://arxiv.org/abs/1705.07115)
    (section 3.2, equation 7: ``L / (2 sigma²) + log sigma``), for every criterion; their
    form for classification has ``s_i / 2`` instead of ``s_i``, which only halves the weight at the fixed point.

    The effective weight is ``w_i exp(-s_i)``. Its fixed point is ``s_i = log L_i``, where the weighted term is ``w_i``
    whatever the scale of the loss. Losses must be 0 or more: otherwise the total has no lower bound. A loss that reaches
    0 raises its own weight without bound; it is limited to ``exp(20)``. ``s`` is in the module's optimizer, whose weight
    decay pulls it towards 0; its sum is part of ``train/loss`` but of no weighted criterion.

    Examples:
        >>> balance = Uncertainty()
        >>> balance.build(["hard", "soft"])
        >>> terms = {"hard": torch.tensor(3.0), "soft": torch.tensor(0.5)}
        >>> round(balance(terms, {"hard": 1.0, "soft": 2.0}, [])[0].item(), 4)  # the weighted sum, at first
        4.0
    """

    def build(self, names: Sequence[str]) -> None:
        """Make the log variances, one per criterion."""
        self.names = list(names)
        self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, dict[str, float]]:
        """Combine the terms.

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
    """Return ``sum_i w_i L_i``, a scalar."""
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def gradient_norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the L2 norm of a value's gradient over all parameters together; no parameter's ``grad`` is changed.

    With several processes it is the norm of the averaged gradient: the gradient of a smaller batch is larger, by an amount
    that depends on the criterion, so that an average of norms would change with the number of processes.

    Args:
        value: A scalar; its graph is kept.
        parameters: The parameters; those that the value does not depend on count as 0.

    Returns:
        A scalar in float32.

    Raises:
        RuntimeError: The gradient goes through a compiled function, which may return another gradient each time.
    """
    reached = mean_gradients(value, parameters, "a balance")
    return joint_norm(reached.values()) if reached else value.new_zeros((), dtype=torch.float32)
