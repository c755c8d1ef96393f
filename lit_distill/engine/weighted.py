"""The weighted sum of named criteria: every loss of the library is computed here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.balance import Balance, weighted_sum
from lit_distill.batch.batch import Target
from lit_distill.batch.snapshots import values_are_compared
from lit_distill.batch.untouched import leaves_alone
from lit_distill.criteria import Criterion
from lit_distill.criteria.base import never_narrow
from lit_distill.criteria.layers import AUTO as AUTO_LAYERS
from lit_distill.engine.auto_weights import AutoWeights, ratio_of
from lit_distill.engine.criterion_values import check_value_of, labels_for, raise_named
from lit_distill.engine.named_criteria import (
    AUTO,
    Weight,
    check_criteria,
    check_names,
    checked_weights,
    innermost,
)
from lit_distill.engine.reuse import ReuseGuard, held_by
from lit_distill.engine.scheduling import (
    WEIGHT,
    can_rise,
    check_schedules,
    check_value,
    forget_schedules,
    keep_settings,
    sets_weight,
)
from lit_distill.engine.step import Losses
from lit_distill.outputs import Outputs
from lit_distill.schedules import Schedule
from lit_distill.utils.arguments import as_object, check_number
from lit_distill.utils.distributed import distributed
from lit_distill.utils.plain import make_settings_plain
from lit_distill.utils.tensors import zero_through

_OWN_NAMES = ("aims", "weights", "schedules", "balance", "found", "shared", "strength", "training")


class WeightedCriteria(nn.ModuleDict):
    """Named criteria and their weights, fixed, scheduled or balanced.

    A criterion with weight 0 is computed without a gradient, for the logs only. If it needs labels and there are none, it is
    left out, unless its weight is scheduled to rise.

    Schedules hold absolute values, set by ``advance``; the constructor sets those of step 0. A schedule of a weight overrides
    a number in ``weights``, and multiplies a weight that is given as ``auto``. Scheduled values depend on the progress only
    and are in no checkpoint; what a balance learns is in its parameters and buffers.

    Args:
        criteria: Criteria by name.
        weights: A finite weight of 0 or more for each name; found in training (``AutoWeights``) if ``auto`` or left out. One
            that is left out of a criterion that needs no teacher is 1, or less if no criterion has a number (``shared``).
        schedules: Schedules by key: ``soft.weight``, or ``soft.temperature`` for any number that the criterion has as a
            public attribute. The criterion's own checks of its range do not run again.
        balance: Finds the weights in training; a plain weighted sum if None.
        strength: Multiplies the weight of every criterion that needs a teacher, 0 or more; 0 turns the teacher off.

    Raises:
        ValueError: A weight is negative, not finite, or of an unknown criterion; all weights are 0; or a schedule
            has an unknown key or leaves its range.
        TypeError: A value is not a ``Criterion`` or a ``Schedule``.
    """

    def __init__(
        self,
        criteria: Mapping[str, Criterion],
        weights: Mapping[str, Weight],
        schedules: Mapping[str, Schedule] | None = None,
        balance: Balance | None = None,
        strength: float = 1.0,
    ) -> None:
        check_criteria(criteria)
        check_names(criteria, {*dir(WeightedCriteria), *_OWN_NAMES})
        criteria = dict(criteria.items())
        check_schedules(criteria, schedules if schedules is not None else {})
        schedules = dict(schedules or {})
        as_object("balance", balance, Balance, "GradientNorm(reference='hard')")
        for criterion in criteria.values():
            make_settings_plain(criterion)
        checked, free = checked_weights(criteria, weights, schedules, balance)
        found = [name for name in free if criteria[name].needs_teacher]
        super().__init__(criteria)
        self.schedules = schedules
        self.weights = {name: checked.get(name, 0.0) for name in criteria}
        self.found = tuple(found)
        self.aims = {name: checked[name] for name in found}  # ratios, which a schedule multiplies
        self.strength = check_number("strength", strength, least=0)
        self.reuse_guard = ReuseGuard()
        forget_schedules(criteria)
        keep_settings(criteria, schedules)
        self.advance(0, 0.0)
        if not any(map(self.trains, criteria)):
            raise ValueError(
                "strength is 0, and every criterion with a weight needs a teacher: nothing would be trained."
            )
        self.shared: tuple[str, ...] = ()
        if any(map(self.trains, found)):
            balance = self._finding({name for name in free if f"{name}.{WEIGHT}" not in schedules})
        self.balance = balance
        if balance is not None:
            before = held_by(balance)
            balance.build([name for name in criteria if self.trains(name)])
            self.reuse_guard.record_new(balance, before)

    def _finding(self, free: Collection[str]) -> AutoWeights:
        """Return the balance that finds weights.

        With no number given, the weights of the reference become smaller, so that the whole gradient is about as long as the
        label loss's at weight 1: a learning rate that suits the labels suits the sum, under SGD as well.
        """
        reference = self._reference()
        taught = any(self.criteria()[name].needs_teacher for name in reference)
        found = [name for name in self.found if self.trains(name)]
        if taught:  # the ratios are to the label loss; without one, they hold among the others
            measure = ratio_of(self.criteria()[reference[0]])
            self.weights |= {name: self.weights[name] / measure for name in self.found}
            self.aims = {name: aim / measure for name, aim in self.aims.items()}
        if all(name in free for name in self if self.trains(name)):
            present = self.weights if taught else self.in_force()
            total = sum(present[name] for name in found) + (not taught)
            self.weights |= {name: self.weights[name] / total for name in reference}
            self.shared = tuple(reference)
        return AutoWeights(self.found, reference, self.strength if taught else 1.0)

    @property
    def given_weights(self) -> dict[str, Weight]:
        """The weights as they were given: ``auto`` for those that are found in training."""
        found = {*self.found, *self.shared}
        return {name: AUTO if name in found else weight for name, weight in self.weights.items()}

    def _reference(self) -> list[str]:
        """Return the criteria that found weights are compared with."""
        fixed = [name for name in self if name not in self.found and self.trains(name)]
        labels = [name for name, criterion in self.criteria().items() if name in fixed and not criterion.needs_teacher]
        return labels or fixed or [self.found[0]]

    def criteria(self) -> dict[str, Criterion]:
        """Return the criteria by name, without the balance."""
        return {name: module for name, module in self.items() if isinstance(module, Criterion)}

    def innermost(self) -> dict[str, Criterion]:
        """Return the criteria by name, in place of those that hold another the other."""
        return {name: innermost(criterion) for name, criterion in self.criteria().items()}

    def parts(self) -> dict[str, nn.Module]:
        """Return everything with a state: the criteria by name, and the balance."""
        found: dict[str, nn.Module] = dict(self.criteria())
        return found if self.balance is None else {**found, "balance": self.balance}

    @property
    def student_layers(self) -> list[str]:
        """The student's layers that criteria read."""
        return [layer for one in self.criteria().values() for layer in one.student_layers if layer != AUTO_LAYERS]

    @property
    def teacher_layers(self) -> list[str]:
        """The teacher's layers that criteria read."""
        return [layer for one in self.criteria().values() for layer in one.teacher_layers if layer != AUTO_LAYERS]

    def trains(self, name: str) -> bool:
        """Return True if a criterion's weight is above 0, or scheduled to be at some time."""
        schedule = self.schedules.get(f"{name}.{WEIGHT}")
        off = self.strength == 0 and self.criteria()[name].needs_teacher
        return not off and (self.weights[name] > 0 if schedule is None else can_rise(schedule))

    def in_force(self) -> dict[str, float]:
        """Return each criterion's present weight times the strength; for one that is found, the ratio that it aims at."""
        criteria = self.criteria()
        return {name: w * self.strength if criteria[name].needs_teacher else w for name, w in self.weights.items()}

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Build every criterion's own layers; freeze those of a criterion that never trains.

        Raises:
            ValueError: A criterion's layers cannot be built; the message starts with its name.
        """
        for name, criterion in self.criteria().items():
            try:
                criterion.build(student, teacher)
            except Exception as error:
                raise_named(name, criterion, error)
            if not self.trains(name):
                criterion.requires_grad_(False)

    def waiting(self, student: Outputs, teacher: Outputs, target: Target | None) -> dict[str, Tensor]:
        """Compute the criteria whose weight is 0 now and will rise, with gradients."""
        found = {}
        with torch.autocast(student.device.type, enabled=False):
            for name, criterion in self.criteria().items():
                if self.weights[name] == 0 and self.trains(name):
                    try:
                        found[name] = criterion(student, teacher, labels_for(name, criterion, target))
                    except Exception as error:
                        raise_named(name, criterion, error)
        return found

    def advance(self, step: int, epoch: float) -> None:
        """Set the scheduled weights and settings for the next batch.

        Raises:
            ValueError: A weight is negative, a temperature not above 0, or a value not finite.
        """
        for key, schedule in self.schedules.items():
            value = schedule.value(step, epoch)
            check_value(key, value, f"{value:g} at step {step} (epoch {epoch:g})")
            owner, _, setting = key.rpartition(".")
            if sets_weight(key):
                self.weights[owner] = float(value) * self.aims.get(owner, 1.0)
                continue
            module = self.get_submodule(owner)
            whole = isinstance(getattr(module, setting), int) and float(value).is_integer()
            setattr(module, setting, int(value) if whole else float(value))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WeightedCriteria:
        """Move to another device, but stay in float32: criteria compute in it even if the networks do not."""
        super()._apply(never_narrow(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Drop what an earlier run found of weights that are numbers now."""
        if self.balance is None:
            for name in AutoWeights.BUFFERS:
                state_dict.pop(f"{prefix}balance.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Target | None,
        parameters: Sequence[nn.Parameter] | None = None,
    ) -> Losses:
        """Compute every criterion and their weighted sum, outside autocast.

        Raises:
            ValueError: A criterion needs labels and there are none, or refuses its inputs.
        """
        raw: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        device, present = student.device, self.in_force()
        watched = values_are_compared()
        with torch.autocast(device.type, enabled=False):
            for name, criterion in self.items():
                if not isinstance(criterion, Criterion):  # the balance
                    continue
                if criterion.needs_target and target is None and not self.trains(name):
                    continue
                tracked = torch.is_grad_enabled() and present[name] != 0
                unchanged = _unchanged(student, teacher, target) if watched else nullcontext()
                try:
                    with torch.set_grad_enabled(tracked), unchanged:
                        value = criterion(student, teacher, labels_for(name, criterion, target))
                except Exception as error:
                    raise_named(name, criterion, error)
                check_value_of(name, criterion, value, device)
                raw[name] = value.detach()
                if present[name] != 0:
                    terms[name] = value
            total, weights = self._combine(terms, present, parameters or (), student)
        return Losses(total, raw, weights, terms, self._scheduled_settings() if self.schedules else {})

    def _combine(
        self,
        terms: Mapping[str, Tensor],
        weights: dict[str, float],
        parameters: Sequence[nn.Parameter],
        student: Outputs,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the total, and every criterion's weight in it."""
        if not terms:
            total = zero_through(student.tensors())
        elif self.balance is None:
            total = weighted_sum(terms, weights)
        else:
            total, effective = self.balance(terms, {name: weights[name] for name in terms}, parameters)
            weights |= effective
        if len(terms) < len(self) and distributed():
            total = self._reach_waiting(total, student, bool(terms))
        return total, weights

    def _reach_waiting(self, total: Tensor, student: Outputs, weighted: bool) -> Tensor:
        """Add 0 times the parameters of criteria whose weight is 0 now and will rise: DDP expects every gradient."""
        waiting = [c for name, c in self.criteria().items() if self.weights[name] == 0 and self.trains(name)]
        if not waiting:
            return total
        own = [parameter for criterion in waiting for parameter in criterion.parameters()]
        own += self.balance.parameters() if self.balance is not None and not weighted else []
        return total + zero_through([*student.tensors(), *own])

    def _scheduled_settings(self) -> dict[str, float]:
        """Return the values of the scheduled settings that are not logged elsewhere, by key."""
        settings = {}
        for key in self.schedules:
            owner, _, setting = key.rpartition(".")
            if not sets_weight(key) and (setting != "temperature" or "." in owner):
                settings[key] = float(getattr(self.get_submodule(owner), setting))
        return settings


def _unchanged(student: Outputs, teacher: Outputs, target: Target | None) -> AbstractContextManager[None]:
    """Refuse a criterion that changes what the others read."""
    sides = {}
    for owner, outputs in (("student", student), ("teacher", teacher)):
        sides[owner] = {**outputs.features, **({"logits": outputs.logits} if outputs.has_logits else {})}
    return leaves_alone({**sides, "labels": target})
