import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.balance import Balance, GradientNorm, Uncertainty, gradient_norm
from lit_distill.criteria import Criterion, HardTarget, Hint, SoftTarget
from lit_distill.engine.step import Losses
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.schedules import Between
from lit_distill.utils import measuring

LABELS = torch.tensor([0, 1, 2, 1, 0, 2])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


class Net(nn.Module):
    """Two layers whose outputs are features; small enough to work through."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden, self.head = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Outputs:
        hidden = self.hidden(x).tanh()
        return Outputs(self.head(hidden), {"hidden": hidden})


class Scaled(Criterion):
    """Another criterion times a constant."""

    def __init__(self, criterion: Criterion, scale: float) -> None:
        super().__init__()
        self.criterion, self.scale = criterion, scale
        self.needs_target = criterion.needs_target  # type: ignore[misc]

    def build(self, student: Outputs, teacher: Outputs) -> None:
        self.criterion.build(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        value: Tensor = self.scale * self.criterion(student, teacher, target)
        return value


class Student:
    """A student, a teacher, criteria and plain gradient descent: the training step in a few lines."""

    def __init__(
        self,
        balance: Balance | None,
        weights: Mapping[str, float],
        scales: Mapping[str, float] | None = None,
        schedules: Mapping[str, Any] | None = None,
    ) -> None:
        self.student, self.teacher = Net(4, seed=1), Net(7, seed=2)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            made: dict[str, Criterion] = {
                "hard": HardTarget(),
                "soft": SoftTarget(2.0),
                "hint": Hint("hidden", "hidden"),
            }
            scaled = {name: Scaled(made[name], (scales or {}).get(name, 1.0)) for name in weights}
            self.criteria = WeightedCriteria(scaled, weights, schedules, balance)
            self.criteria.build(self.student(draw(6, 5)), self.teacher(draw(6, 5)))
        self.parameters = list(self.student.parameters())

    def losses(self, seed: int = 0) -> Losses:
        x = draw(6, 5, seed=seed)
        with torch.no_grad():
            teacher = self.teacher(x)
        found: Losses = self.criteria(self.student(x), teacher, LABELS, self.parameters)
        return found

    def step(self, seed: int, lr: float = 0.05) -> Losses:
        trained = [*self.parameters, *(p for p in self.criteria.parameters() if p.requires_grad)]
        losses = self.losses(seed)
        for parameter, gradient in zip(trained, torch.autograd.grad(losses.total, trained), strict=True):
            parameter.data -= lr * gradient
        return losses


def norm_of(criterion: Criterion, setup: Student, seed: int = 0) -> float:
    """The norm of one criterion's gradient by a backward pass of its own, in float64."""
    student = copy.deepcopy(setup.student)
    x = draw(6, 5, seed=seed)
    with torch.no_grad():
        teacher = setup.teacher(x)
    criterion(student(x), teacher, LABELS).backward()
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in student.parameters() if p.grad is not None))


# Gradient norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["hard", "soft", "hint"])
@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_weighted_gradients_stand_to_each_other_as_the_weights(reference: str, ratio: float) -> None:
    weights = {"hard": 0.1, "soft": 0.9, "hint": 2.0}
    setup = Student(GradientNorm(reference, ratio), weights)
    losses = setup.losses()
    norms = {name: norm_of(criterion, setup) for name, criterion in setup.criteria.criteria().items()}
    assert max(norms.values()) > 2 * min(norms.values())  # else there is nothing to balance
    pull = {name: losses.weights[name] * norms[name] for name in weights}
    assert losses.weights[reference] == weights[reference]
    for name, weight in weights.items():
        expected = weight / weights[reference] * (1.0 if name == reference else ratio)
        assert pull[name] / pull[reference] == pytest.approx(expected, rel=1e-5)


def test_equal_weights_make_the_norms_equal_and_the_total_their_sum() -> None:
    setup = Student(GradientNorm("soft"), {"hard": 1.0, "soft": 1.0, "hint": 1.0})
    losses = setup.losses()
    norms = [losses.weights[name] * norm_of(c, setup) for name, c in setup.criteria.criteria().items()]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)
    expected = sum(losses.weights[name] * float(losses.raw[name]) for name in losses.raw)
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)
    named = losses.named()
    assert named["weight/hint"] == losses.weights["hint"] != 1.0
    assert float(named["weighted/hint"]) == pytest.approx(losses.weights["hint"] * float(losses.raw["hint"]))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_a_criterion_does_not_matter(scale: float) -> None:
    weights = {"hard": 0.5, "soft": 1.0, "hint": 0.25}
    plain = Student(GradientNorm("soft", every=2), weights)
    other = Student(GradientNorm("soft", every=2), weights, scales={"hint": scale})
    for seed in range(5):
        a, b = plain.step(seed), other.step(seed)
        torch.testing.assert_close(a.total, b.total, rtol=1e-5, atol=0)
        for name in weights:
            weighted = [float(x.named()[f"weighted/{name}"]) for x in (a, b)]
            assert weighted[0] == pytest.approx(weighted[1], rel=1e-5)
    for p, q in zip(plain.parameters, other.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_scale_of_the_reference_scales_everything() -> None:
    weights = {"hard": 0.5, "soft": 1.0}
    plain = Student(GradientNorm("soft"), weights).losses()
    other = Student(GradientNorm("soft"), weights, scales={"soft": 1e4}).losses()
    torch.testing.assert_close(other.total, 1e4 * plain.total, rtol=1e-5, atol=0)


def test_norms_are_measured_every_so_many_batches_and_averaged() -> None:
    setup = Student(GradientNorm("soft", every=3, momentum=0.75), {"hard": 1.0, "soft": 1.0})
    balance, expected = setup.criteria.balance, None
    assert isinstance(balance, GradientNorm)
    for batch in range(8):
        now = [norm_of(c, setup, seed=batch) for c in setup.criteria.criteria().values()]
        if batch % 3 == 0:
            expected = now if expected is None else [0.75 * e + 0.25 * n for e, n in zip(expected, now, strict=True)]
        losses = setup.step(seed=batch)
        assert expected is not None
        assert balance.norms.tolist() == pytest.approx(expected, rel=1e-5)
        assert losses.weights["hard"] == pytest.approx(expected[1] / expected[0], rel=1e-5)
    assert int(balance.seen) == 8


def test_measuring_leaves_gradients_and_the_graph_alone() -> None:
    setup = Student(GradientNorm("soft"), {"hard": 1.0, "soft": 1.0, "hint": 1.0})
    for parameter in setup.parameters:
        parameter.grad = torch.full_like(parameter, 7.0)
    losses = setup.losses()
    assert all(bool((p.grad == 7).all()) for p in setup.parameters)  # type: ignore[union-attr]
    assert all(p.grad is None for p in setup.criteria.parameters())
    losses.total.backward()
    plain = Student(None, losses.weights)
    plain.losses().total.backward()
    for mine, other in zip(setup.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(mine.grad - 7, other.grad, rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_restored_it_goes_on_exactly() -> None:
    weights = {"hard": 1.0, "soft": 0.5, "hint": 2.0}
    whole = Student(GradientNorm("soft", every=3), weights)
    for batch in range(4):
        whole.step(batch)
    resumed = Student(GradientNorm("soft", every=3), weights)
    resumed.student.load_state_dict(whole.student.state_dict())
    state = copy.deepcopy(whole.criteria.state_dict())
    assert {"balance.seen", "balance.norms"} <= set(state)
    resumed.criteria.load_state_dict(state, strict=True)
    for batch in range(4, 9):
        a, b = whole.step(batch), resumed.step(batch)
        assert torch.equal(a.total, b.total)
        assert a.weights == b.weights


@pytest.mark.parametrize("how", ["no_grad", "eval"])
@pytest.mark.parametrize("kind", [GradientNorm, Uncertainty])
def test_a_dry_run_changes_no_state(how: str, kind: type) -> None:
    weights = {"hard": 0.5, "soft": 1.0}
    setup = Student(kind("soft") if kind is GradientNorm else kind(), weights)
    before = copy.deepcopy(setup.criteria.state_dict())
    setup.criteria.train(how != "eval")
    x = draw(6, 5)
    with torch.set_grad_enabled(how == "eval"):
        losses = setup.criteria(setup.student(x), setup.teacher(x), LABELS)  # with no parameters given
    assert losses.weights == weights
    assert losses.total.isfinite()
    assert losses.total.requires_grad == (how == "eval")
    after = setup.criteria.state_dict()
    assert all(torch.equal(before[key].nan_to_num(-1), after[key].nan_to_num(-1)) for key in before)


def test_a_gradient_of_zero_or_nan_is_left_out() -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    balance = GradientNorm("a", every=1, momentum=0.5)
    balance.build(["a", "b"])

    def effective(scale_b: float) -> dict[str, float]:
        return balance({"a": 3 * weight, "b": scale_b * weight}, {"a": 1.0, "b": 1.0}, [weight])[1]

    assert effective(0.0) == {"a": 1.0, "b": 1.0}  # not known yet: the weight as it is
    assert effective(math.nan) == {"a": 1.0, "b": 1.0}
    assert effective(6.0) == {"a": 1.0, "b": 0.5}
    assert effective(0.0) == {"a": 1.0, "b": 0.5}
    assert effective(2.0) == {"a": 1.0, "b": 3 / 4}  # 0.5 · 6 + 0.5 · 2 = 4
    assert effective(math.inf) == {"a": 1.0, "b": 3 / 4}


def test_a_criterion_that_begins_late_is_measured_at_its_first_batch() -> None:
    schedules = {"hint.weight": Between(1.0, begin=2, unit="step")}
    setup = Student(GradientNorm("soft", every=1000), {"soft": 1.0, "hint": 0.0}, schedules=schedules)
    balance = setup.criteria.balance
    assert isinstance(balance, GradientNorm)
    for step in range(3):
        setup.criteria.advance(step, 0.0)
        expected = norm_of(setup.criteria.criteria()["hint"], setup, seed=step)
        known = not bool(balance.norms.all())
        losses = setup.losses(seed=step)
        assert known
        assert losses.weights["hint"] == (
            0.0 if step < 2 else pytest.approx(float(balance.norms[0]) / expected, rel=1e-5)
        )


def test_a_reference_that_ends_leaves_its_last_norm() -> None:
    setup = Student(
        GradientNorm("hard", every=1), {"hard": 1, "soft": 2.0}, schedules={"hard.weight": Between(1.0, end=1)}
    )
    first = setup.losses()
    setup.criteria.advance(10, 1.0)
    assert setup.losses().weights == pytest.approx({"hard": 0.0, "soft": first.weights["soft"]}, rel=1e-5)


def test_a_reference_without_weight_at_the_start_is_refused_in_the_dry_run() -> None:
    setup = Student(GradientNorm("hard"), {"soft": 1.0, "hard": 0}, schedules={"hard.weight": Between(1.0, begin=1)})
    with torch.no_grad(), pytest.raises(ValueError, match="reference 'hard' has the weight 0 at the start"):
        setup.losses()


def test_among_processes_the_norm_is_that_of_the_averaged_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor(1.0))
    other = torch.tensor([-1.0, 7.0, 4.0, 1.0, 1.0])  # what another process finds: gradients, and which are there
    monkeypatch.setattr(measuring, "distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(other))
    # gradients (3, 3, 4) here: the average is (1, 5, 4)
    assert float(gradient_norm((3 * a).sum() + 4 * b, [a, b])) == pytest.approx(math.sqrt(1 + 25 + 16))


def test_one_process_is_not_distributed() -> None:
    assert not measuring.distributed()


def test_the_norm_is_over_all_parameters_together_and_unreached_ones_count_nothing() -> None:
    a, b, c = (nn.Parameter(torch.tensor(v)) for v in ([1.0, 2.0], [3.0], [4.0]))
    value = (3 * a).sum() + 4 * b.sum()
    assert float(gradient_norm(value, [a, b, c])) == pytest.approx(math.sqrt(9 + 9 + 16))
    assert float(gradient_norm(value, [c])) == 0.0
    assert float(gradient_norm(value.detach(), [a])) == 0.0
    half = nn.Parameter(torch.full((4,), 300.0, dtype=torch.float16))
    assert float(gradient_norm((half * half).sum().float(), [half])) == pytest.approx(1200.0)  # its square overflows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0 and finite, not 0.0"),
        ({"ratio": math.inf}, "ratio must be above 0 and finite, not inf"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), not 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\), not -0.1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientNorm("hard", **arguments)


@pytest.mark.parametrize(
    ("reference", "weights", "message"),
    [
        (
            "sotf",
            {"hard": 1.0, "soft": 1.0},
            "reference 'sotf' is not one of the criteria that train: hard, soft. Did you mean 'soft'",
        ),
        ("soft", {"hard": 1.0, "soft": 0.0}, r"reference 'soft' is not one of the criteria that train: hard\."),
    ],
)
def test_a_reference_that_never_trains_is_refused(reference: str, weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Student(GradientNorm(reference), weights)


def test_nothing_is_measured_through_a_compiled_student() -> None:
    torch.compiler.reset()
    network = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    student = torch.compile(
        network, backend="aot_eager"
    )  # network.compile() leaves a Sequential as it is in PyTorch 2.6
    balance = GradientNorm("a", every=2)
    balance.build(["a", "b"])

    def step() -> dict[str, float]:
        logits = student(draw(6, 5))
        terms = {"a": nn.functional.cross_entropy(logits, LABELS), "b": logits.square().mean()}
        total, effective = balance(terms, {"a": 1.0, "b": 1.0}, list(student.parameters()))
        total.backward()
        return effective

    with pytest.raises(RuntimeError, match="a balance differentiates.*force_eager"):
        step()
    balance.seen.zero_()
    for batch in range(4):
        due = balance.measures(["a", "b"])
        assert due is (batch % 2 == 0)
        with torch.compiler.set_stance("force_eager" if due else "default"):
            effective = step()
    # Two calls in a step, the second of which would measure: it is late, and the next step is eager.
    assert balance.measures(["a", "b"])
    with torch.compiler.set_stance("force_eager"):
        step()
    before = balance.norms.clone()
    assert not balance.measures(["a", "b"])
    step()
    step()
    assert torch.equal(balance.norms, before)
    balance.norms.fill_(5.0)
    assert balance.measures(["a", "b"])
    with torch.compiler.set_stance("force_eager"):
        step()
    before.fill_(5.0)
    assert not torch.equal(balance.norms, before)
    torch.compiler.reset()
    assert effective["b"] != 1.0


def test_parameters_are_needed_in_training() -> None:
    setup = Student(GradientNorm("soft"), {"soft": 1.0})
    x = draw(6, 5)
    with pytest.raises(ValueError, match="over the student's parameters, and there are none"):
        setup.criteria(setup.student(x), setup.teacher(x), LABELS)


# Uncertainty -----------------------------------------------------------------------------------------


def uncertain(s: Sequence[float]) -> Uncertainty:
    balance = Uncertainty()
    balance.build(["a", "b"][: len(s)])
    balance.log_variance.data = torch.tensor(s)
    return balance


def test_the_total_by_hand() -> None:
    balance = uncertain([math.log(2), math.log(0.25)])
    total, effective = balance({"a": torch.tensor(3.0), "b": torch.tensor(5.0)}, {"a": 1.0, "b": 0.5}, [])
    # 1 · (3 / 2 + log 2) + 0.5 · (5 · 4 + log 0.25)
    assert total.item() == pytest.approx(1.5 + math.log(2) + 10 + 0.5 * math.log(0.25), rel=1e-6)
    assert effective == pytest.approx({"a": 0.5, "b": 2.0})


def test_it_starts_as_the_plain_weighted_sum() -> None:
    weights = {"hard": 0.1, "soft": 0.9, "hint": 2.0}
    plain, learned = Student(None, weights).losses(), Student(Uncertainty(), weights).losses()
    assert torch.equal(plain.total, learned.total)
    assert learned.weights == weights


@pytest.mark.parametrize("loss", [0.02, 1.0, 50.0])
def test_it_rests_where_s_is_the_log_of_the_loss(loss: float) -> None:
    # d/ds w (exp(-s) L + s) = w (1 - exp(-s) L) = 0 at s = log L.
    at_rest = uncertain([math.log(loss)])
    total, effective = at_rest({"a": torch.tensor(loss)}, {"a": 0.7}, [])
    (gradient,) = torch.autograd.grad(total, [at_rest.log_variance])
    assert float(gradient) == pytest.approx(0.0, abs=1e-6)
    assert effective["a"] * loss == pytest.approx(0.7, rel=1e-5)
    balance = uncertain([0.0])
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        balance({"a": torch.tensor(loss)}, {"a": 0.7}, [])[0].backward()
        optimizer.step()
    assert float(balance.log_variance.detach()) == pytest.approx(math.log(loss), abs=1e-2)


def test_gradients_reach_the_terms_at_the_effective_weight() -> None:
    balance, value = uncertain([math.log(4)]), torch.tensor(3.0, requires_grad=True)
    total, effective = balance({"a": value}, {"a": 2.0}, [])
    total.backward()
    assert float(value.grad) == pytest.approx(0.5)  # type: ignore[arg-type]
    assert effective["a"] == pytest.approx(0.5)
    assert balance.log_variance.grad is not None
    assert float(balance.log_variance.grad) == pytest.approx(2 * (1 - 3 / 4))


def test_a_loss_of_zero_stays_finite() -> None:
    balance = uncertain([-1e6, 1e6])
    terms = {"a": torch.tensor(0.0), "b": torch.tensor(1.0)}
    total, effective = balance(terms, {"a": 1.0, "b": 1.0}, [])
    assert total.isfinite()
    assert effective["a"] == pytest.approx(math.exp(20), rel=1e-5)
    assert effective["b"] == pytest.approx(math.exp(-20), rel=1e-5)


def test_a_negative_loss_is_refused_and_rounding_is_not() -> None:
    balance = uncertain([0.0])
    with pytest.raises(ValueError, match="criterion 'a' is -0.5, and Uncertainty balances losses of 0 or more"):
        balance({"a": torch.tensor(-0.5)}, {"a": 1.0}, [])
    assert balance({"a": torch.tensor(-1e-7)}, {"a": 1.0}, [])[0].item() == pytest.approx(-1e-7)


def test_only_what_trains_has_a_variance_and_it_is_saved() -> None:
    weights = {"hard": 1.0, "soft": 0.0, "hint": 1.0}
    setup = Student(Uncertainty(), weights)
    assert setup.criteria.state_dict()["balance.log_variance"].shape == (2,)
    for batch in range(3):
        setup.step(batch)
    resumed = Student(Uncertainty(), weights)
    resumed.student.load_state_dict(setup.student.state_dict())
    resumed.criteria.load_state_dict(setup.criteria.state_dict(), strict=True)
    a, b = setup.losses(9), resumed.losses(9)
    assert torch.equal(a.total, b.total)
    assert a.weights == b.weights
    assert a.weights["hard"] != 1.0


def test_a_balance_of_ones_own() -> None:
    class Largest(Balance):
        """The largest term alone."""

        def forward(
            self, terms: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
        ) -> tuple[Tensor, dict[str, float]]:
            chosen = max(terms, key=lambda name: float(terms[name].detach()))
            return weights[chosen] * terms[chosen], {name: weights[name] * (name == chosen) for name in terms}

    losses = Student(Largest(), {"hard": 1.0, "soft": 2.0, "hint": 3.0}).losses()
    largest = max(losses.raw, key=lambda name: float(losses.raw[name]))
    torch.testing.assert_close(losses.total, losses.weights[largest] * losses.raw[largest])
    assert [name for name, weight in losses.weights.items() if weight] == [largest]
