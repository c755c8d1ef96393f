import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import SoftTarget
from lit_distill.criteria.soft_target import DIVERGENCES, soft_target, soft_target_bernoulli
from lit_distill.outputs import Outputs

Formula = Callable[[list[float], list[float]], float]
FORMULAS = [soft_target, soft_target_bernoulli]


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference_logits() -> dict[int, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    student_10 = 2 * torch.randn(8, 10, generator=g, dtype=torch.float64)
    teacher_10 = 3 * torch.randn(8, 10, generator=g, dtype=torch.float64)
    torch.randint(0, 10, (8,), generator=g)
    student_100 = 2 * torch.randn(4, 100, generator=g, dtype=torch.float64)
    teacher_100 = 3 * torch.randn(4, 100, generator=g, dtype=torch.float64)
    return {10: (student_10, teacher_10), 100: (student_100, teacher_100)}


def gradient_of(criterion: SoftTarget, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    leaf = student.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    criterion(Outputs(leaf, mask=mask), Outputs(teacher), None).backward()
    assert leaf.grad is not None
    return leaf.grad


def value_of(criterion: SoftTarget, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    value: Tensor = criterion(Outputs(student, mask=mask), Outputs(teacher), None)
    return value


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def divergence_by_hand(p_s: list[float], p_t: list[float], divergence: str, beta: float) -> float:
    if divergence == "forward":
        return kl(p_t, p_s)
    if divergence == "reverse":
        return kl(p_s, p_t)
    if divergence == "skew":
        return kl(p_t, [0.1 * t + 0.9 * s for s, t in zip(p_s, p_t, strict=True)])
    mixture = [beta * t + (1 - beta) * s for s, t in zip(p_s, p_t, strict=True)]
    return beta * kl(p_t, mixture) + (1 - beta) * kl(p_s, mixture)


@pytest.mark.parametrize(
    ("classes", "temperature", "value", "gradient"),
    [
        (10, 1.0, 3.4453605825232603, 0.31890621553831255),
        (10, 4.0, 5.5365694643242085, 0.39713499888899606),
        (100, 1.0, 4.344394218681196, 0.35416321359148517),
    ],
)
def test_reference_values(classes: int, temperature: float, value: float, gradient: float) -> None:
    student, teacher = reference_logits()[classes]
    criterion = SoftTarget(temperature)
    assert value_of(criterion, student, teacher).item() == pytest.approx(value, abs=1e-10, rel=0)
    assert gradient_of(criterion, student, teacher).norm().item() == pytest.approx(gradient, abs=1e-10, rel=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    ("divergence", "beta"),
    [
        ("forward", 0.5),
        ("reverse", 0.5),
        ("jensen_shannon", 0.5),
        ("jensen_shannon", 0.1),
        ("jensen_shannon", 0.9),
        ("skew", 0.5),
    ],
)
def test_each_divergence_equals_a_hand_computation(divergence: str, beta: float, temperature: float) -> None:
    student, teacher = draw(5, 7, seed=1), draw(5, 7, seed=2)
    rows = [
        divergence_by_hand(softmax(s, temperature), softmax(t, temperature), divergence, beta)
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    expected = temperature**2 * sum(rows) / len(rows)
    found = value_of(SoftTarget(temperature, divergence, beta), student, teacher)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_each_bernoulli_divergence_equals_a_hand_computation(divergence: str, task: str) -> None:
    student, teacher = draw(4, 3, seed=3), draw(4, 3, seed=4)
    terms = []
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        q_s, q_t = 1 / (1 + math.exp(-s / 2.5)), 1 / (1 + math.exp(-t / 2.5))
        terms.append(divergence_by_hand([q_s, 1 - q_s], [q_t, 1 - q_t], divergence, 0.3))
    expected = 2.5**2 * sum(terms) / len(terms)
    found = value_of(SoftTarget(2.5, divergence, 0.3, task), student, teacher)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_two_logits_z_and_0_are_one_binary_logit() -> None:
    student, teacher = draw(6, seed=5), draw(6, seed=6)
    pairs = [torch.stack([z, torch.zeros_like(z)], dim=1) for z in (student, teacher)]
    binary = value_of(SoftTarget(3.0, task="binary"), student, teacher)
    torch.testing.assert_close(binary, value_of(SoftTarget(3.0), *pairs), rtol=1e-12, atol=0)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_is_the_derivative(formula: Formula, divergence: str, temperature: float) -> None:
    student = draw(2, 4, seed=7).requires_grad_()
    teacher = draw(2, 4, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: formula(s, t, temperature, divergence, 0.3), (student, teacher))


def test_forward_gradient_is_temperature_times_the_difference_of_probabilities() -> None:
    student, teacher = draw(5, 6, seed=9), draw(5, 6, seed=10)
    expected = 4 * (torch.softmax(student / 4, 1) - torch.softmax(teacher / 4, 1)) / 5
    torch.testing.assert_close(gradient_of(SoftTarget(4.0), student, teacher), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_zero_value_and_gradient_at_the_teacher(task: str, divergence: str, temperature: float) -> None:
    criterion = SoftTarget(temperature, divergence, 0.3, task)  # type: ignore[arg-type]
    logits = draw(4, 5)
    assert value_of(criterion, logits, logits).abs() < 1e-14
    assert gradient_of(criterion, logits, logits).abs().max() < 1e-14
    shifted = draw(4, 5, seed=1)
    assert value_of(criterion, shifted, logits) > 0


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_constant_added_to_a_row_changes_nothing(divergence: str) -> None:
    student, teacher = draw(4, 5, seed=1), draw(4, 5, seed=2)
    criterion = SoftTarget(2.0, divergence)  # type: ignore[arg-type]
    moved = value_of(criterion, student + draw(4, 1, seed=3), teacher + 7)
    torch.testing.assert_close(moved, value_of(criterion, student, teacher), rtol=1e-12, atol=0)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_order_of_classes_and_copies_of_the_batch_change_nothing(task: str, divergence: str) -> None:
    student, teacher = draw(4, 5, seed=1), draw(4, 5, seed=2)
    criterion = SoftTarget(2.0, divergence, 0.3, task)  # type: ignore[arg-type]
    expected = value_of(criterion, student, teacher)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(value_of(criterion, student[:, order], teacher[:, order]), expected, rtol=1e-12, atol=0)
    twice = value_of(criterion, student.repeat(2, 1), teacher.repeat(2, 1))
    torch.testing.assert_close(twice, expected, rtol=1e-12, atol=0)


def test_t_squared_keeps_the_gradient_norm_within_a_factor_of_two() -> None:
    for student, teacher in reference_logits().values():
        norms = [gradient_of(SoftTarget(t), student, teacher).norm().item() for t in (1.0, 2.0, 4.0, 8.0)]
        assert max(norms) < 2 * min(norms)


@pytest.mark.parametrize(
    ("divergence", "share"), [("forward", 1.0), ("reverse", 1.0), ("jensen_shannon", 0.3 * 0.7), ("skew", 0.9**2)]
)
def test_a_high_temperature_is_the_squared_difference_of_centred_logits(divergence: str, share: float) -> None:
    student, teacher = draw(6, 5, seed=1), draw(6, 5, seed=2)
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = share * difference.square().sum(1).mean() / (2 * 5)
    found = value_of(SoftTarget(1e4, divergence, 0.3), student, teacher)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_a_high_temperature_is_an_eighth_of_the_squared_difference_for_sigmoids() -> None:
    student, teacher = draw(6, 5, seed=1), draw(6, 5, seed=2)
    found = value_of(SoftTarget(1e4, task="multilabel"), student, teacher)
    torch.testing.assert_close(found, (student - teacher).square().mean() / 8, rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_extreme_logits_stay_finite(dtype: torch.dtype, temperature: float, divergence: str, task: str) -> None:
    extreme = [[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [1e4, 1e4, 1e4], [0.0, 1.0, 2.0]]
    student = torch.tensor(extreme, dtype=dtype)
    criterion = SoftTarget(temperature, divergence, 0.1, task)  # type: ignore[arg-type]
    for teacher in (student.roll(1, 0), -student, student):
        value = value_of(criterion, student, teacher)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert value >= -1e-6
        assert gradient_of(criterion, student, teacher).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = draw(4, 5, seed=1).to(dtype), draw(4, 5, seed=2).to(dtype)
    for criterion in (SoftTarget(2.0), SoftTarget(2.0, task="multilabel")):
        assert torch.equal(value_of(criterion, student, teacher), value_of(criterion, student.float(), teacher.float()))


def test_two_classes() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 0.0]]).double()
    p = 1 / (1 + math.exp(-1))
    expected = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    assert value_of(SoftTarget(1.0), student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_identical_rows_count_as_one() -> None:
    student, teacher = draw(1, 5, seed=1), draw(1, 5, seed=2)
    many = value_of(SoftTarget(), student.expand(6, -1), teacher.expand(6, -1))
    torch.testing.assert_close(many, value_of(SoftTarget(), student, teacher), rtol=1e-12, atol=0)


def test_a_one_hot_teacher_is_cross_entropy() -> None:
    student = draw(3, 4)
    labels = [2, 0, 3]
    teacher = torch.full((3, 4), -1e4, dtype=torch.float64)
    for row, label in enumerate(labels):
        teacher[row, label] = 1e4
    losses = [-math.log(softmax(row, 1.0)[label]) for row, label in zip(student.tolist(), labels, strict=True)]
    assert value_of(SoftTarget(1.0), student, teacher).item() == pytest.approx(sum(losses) / 3, rel=1e-12)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_rows_tokens_and_pixels_agree(task: str) -> None:
    criterion = SoftTarget(2.0, task=task)  # type: ignore[arg-type]
    student, teacher = draw(24, 5, seed=1), draw(24, 5, seed=2)
    expected = value_of(criterion, student, teacher)
    tokens = [z.reshape(4, 6, 5) for z in (student, teacher)]
    pixels = [z.reshape(4, 2, 3, 5).permute(0, 3, 1, 2).contiguous() for z in (student, teacher)]
    torch.testing.assert_close(value_of(criterion, *tokens), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(value_of(criterion, *pixels), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("dense", [False, True])
def test_masked_positions_change_neither_value_nor_gradient(task: str, dense: bool) -> None:
    criterion = SoftTarget(2.0, task=task)  # type: ignore[arg-type]
    student, teacher = draw(3, 4, 5, seed=1), draw(3, 4, 5, seed=2)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    expected = value_of(criterion, student[mask], teacher[mask])
    if dense:
        student, teacher = (z.reshape(3, 2, 2, 5).permute(0, 3, 1, 2) for z in (student, teacher))
        mask = mask.reshape(3, 2, 2)
        off = ~mask[:, None].expand_as(student)
    else:
        off = ~mask[..., None].expand_as(student)
    padded = torch.where(off, 1e3, student)
    for logits in (student, padded):
        torch.testing.assert_close(value_of(criterion, logits, teacher, mask), expected, rtol=1e-12, atol=0)
    gradient = gradient_of(criterion, student, teacher, mask)
    assert gradient[off].eq(0).all()
    assert gradient[~off].ne(0).all()
    torch.testing.assert_close(gradient_of(criterion, padded, teacher, mask), gradient, rtol=1e-12, atol=1e-15)


def test_a_token_mask_does_not_apply_to_logits_of_whole_samples() -> None:
    student, teacher = draw(3, 5, seed=1), draw(3, 5, seed=2)
    mask = torch.tensor([[1, 0], [1, 1], [0, 0]]).bool()
    assert torch.equal(value_of(SoftTarget(), student, teacher, mask), value_of(SoftTarget(), student, teacher))


def test_memory_formats_give_the_same_value() -> None:
    student, teacher = draw(3, 5, 2, 4, seed=1), draw(3, 5, 2, 4, seed=2)
    expected = value_of(SoftTarget(), student, teacher)
    last = student.contiguous(memory_format=torch.channels_last)
    strided = draw(3, 5, 2, 8)
    strided[..., ::2] = student
    for logits in (last, strided[..., ::2]):
        torch.testing.assert_close(value_of(SoftTarget(), logits, teacher), expected, rtol=1e-12, atol=0)
        assert gradient_of(SoftTarget(), logits, teacher).shape == student.shape


def test_a_detached_teacher_gets_no_gradient() -> None:
    student, teacher = draw(3, 4, seed=1).requires_grad_(), draw(3, 4, seed=2).requires_grad_()
    SoftTarget()(Outputs(student), Outputs(teacher).detach(), None).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_properties_that_modules_read() -> None:
    criterion = SoftTarget()
    assert (criterion.needs_target, criterion.needs_teacher, criterion.compares_logits) == (False, True, True)
    assert criterion.student_layers == criterion.teacher_layers == ()
    assert criterion.temperature == 4.0
    assert not list(criterion.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0 and finite"),
        ({"temperature": math.inf}, "temperature must be above 0 and finite"),
        ({"divergence": "backward"}, "divergence must be one of 'forward', 'reverse'.*not 'backward'"),
        ({"task": "regression"}, "task must be one of 'multiclass'.*not 'regression'"),
        ({"beta": 0.0}, r"beta must be in \(0, 1\), not 0.0"),
        ({"beta": 1.0}, r"beta must be in \(0, 1\), not 1.0"),
        ({"beta": math.nan}, "beta must be in"),
        ({"skew": 1.0}, r"skew must be in \(0, 1\), not 1.0"),
        ({"standardize": True, "task": "multilabel"}, "standardize compares classes.*'multilabel' has none"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftTarget(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((2, 3), (2, 4), "student has 3 classes and the teacher 4"),
        ((2, 3, 4, 4), (2, 5, 4, 4), "student has 3 classes and the teacher 5"),
        ((2, 3), (2, 5, 3), r"\[2, 3\] do not match teacher logits \[2, 5, 3\]"),
    ],
)
def test_mismatched_logits_are_refused(
    task: str, student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        value_of(SoftTarget(task=task), torch.zeros(student), torch.zeros(teacher))  # type: ignore[arg-type]


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask of shape \[2, 5\] does not fit logits \[2, 4, 3\]"):
        value_of(SoftTarget(), torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), torch.ones(2, 5))


def test_binary_logits_of_one_and_two_dimensions_agree() -> None:
    student, teacher = draw(6, seed=1), draw(6, seed=2)
    flat = value_of(SoftTarget(task="binary"), student, teacher)
    column = value_of(SoftTarget(task="binary"), student[:, None], teacher[:, None])
    assert torch.equal(flat, column)


def test_a_skewed_mixture_bounds_the_divergence() -> None:
    student, teacher = torch.tensor([[1e4, -1e4]]).double(), torch.tensor([[-1e4, 1e4]]).double()
    for skew in (0.1, 0.4):
        found = value_of(SoftTarget(1.0, "skew", skew=skew), student, teacher)
        assert found.item() == pytest.approx(-math.log(skew), rel=1e-12)


def test_a_small_skew_is_the_forward_divergence() -> None:
    student, teacher = draw(5, 6, seed=1), draw(5, 6, seed=2)
    found = value_of(SoftTarget(2.0, "skew", skew=1e-9), student, teacher)
    torch.testing.assert_close(found, value_of(SoftTarget(2.0), student, teacher), rtol=1e-7, atol=0)


def test_a_small_beta_makes_a_small_value() -> None:
    student, teacher = draw(5, 6, seed=1), draw(5, 6, seed=2)
    found = value_of(SoftTarget(2.0, "jensen_shannon", 1e-6), student, teacher)
    torch.testing.assert_close(found, 1e-6 * value_of(SoftTarget(2.0), student, teacher), rtol=1e-3, atol=0)


def test_standardized_reference_value() -> None:
    student, teacher = reference_logits()[10]
    criterion = SoftTarget(2.0, standardize=True)
    assert value_of(criterion, student, teacher).item() == pytest.approx(0.9902566985096977, abs=1e-10, rel=0)
    gradient = gradient_of(criterion, student, teacher).norm().item()
    assert gradient == pytest.approx(0.04811825453166626, abs=1e-10, rel=0)


def test_standardized_logits_have_no_scale() -> None:
    student, teacher = draw(4, 5, seed=1), draw(4, 5, seed=2)
    criterion = SoftTarget(2.0, standardize=True)
    expected = value_of(criterion, student, teacher)
    torch.testing.assert_close(value_of(criterion, 3 * student + 7, teacher / 2 - 1), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_standardizing_is_over_the_classes_of_every_layout(divergence: str) -> None:
    criterion = SoftTarget(2.0, divergence, standardize=True)  # type: ignore[arg-type]
    student, teacher = draw(24, 5, seed=1), draw(24, 5, seed=2)
    expected = value_of(criterion, student, teacher)
    tokens = [z.reshape(4, 6, 5) for z in (student, teacher)]
    pixels = [z.reshape(4, 2, 3, 5).permute(0, 3, 1, 2).contiguous() for z in (student, teacher)]
    torch.testing.assert_close(value_of(criterion, *tokens), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(value_of(criterion, *pixels), expected, rtol=1e-12, atol=0)
    mask = torch.arange(24).reshape(4, 6) % 3 > 0
    kept = mask.flatten()
    masked = value_of(criterion, *tokens, mask)
    torch.testing.assert_close(masked, value_of(criterion, student[kept], teacher[kept]), rtol=1e-12, atol=0)


def test_standardized_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = draw(30, 5, seed=1), draw(30, 5, seed=2)
    criterion = SoftTarget(2.0, standardize=True)
    expected = value_of(criterion, student, teacher), gradient_of(criterion, student, teacher)
    monkeypatch.setattr("lit_distill.criteria.ops.chunked._CPU_CHUNK", 15)
    torch.testing.assert_close(value_of(criterion, student, teacher), expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(criterion, student, teacher), expected[1], rtol=1e-12, atol=1e-15)


def test_a_batch_of_which_nothing_counts_teaches_nothing() -> None:
    student = torch.randn(2, 3, 4, requires_grad=True)
    value = soft_target(student, torch.randn(2, 3, 4), mask=torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert not student.grad.any()
