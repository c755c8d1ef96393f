"""Values and gradients at the edges, of every criterion that is shipped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lit_distill import Criterion, Outputs
from lit_distill.criteria import CTKD, DIST, EnsembleTarget, HardTarget, MultiTemperature, SoftTarget
from tests.criteria.all_cases import CASES
from tests.criteria.cases import Case, leaves
from tests.promises.conftest import Tally

PROMISE = "values and gradients at the edges are finite and right"
pytestmark = [pytest.mark.slow, pytest.mark.no_cover]  # tests/criteria runs the same lines
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Classes, samples and width of the features.
SIZES = [(3, 2, 4), (10, 32, 8), (100, 8, 64), (1000, 32, 256), (21000, 2, 1024), (10, 1, 8), (10, 128, 8)]
# Products of features or of their squares: at a student of zeros the gradient is 0, or a rectifier lets nothing through.
NO_SLOPE_AT_ZERO = (
    "sp",
    "token relation",
    "minilm",
    "attention transfer",
    "rkd",
    "pkt",
    "vid",
    "simkd",
    "fsp",
    "nst",
    "cc",
)


def draw(case: Case, batch: int, classes: int, width: int, scale: float = 1.0) -> tuple[Outputs, Outputs, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"vector": (), "tokens": (9,), "map": (4, 4)}
    found = []
    for wide in (width, width if case.same_width else width + 4):
        features = {}
        if case.kind != "logits":
            shape = (batch, *shapes[case.kind], wide) if case.kind != "map" else (batch, wide, 4, 4)
            features = {"a": scale * torch.randn(shape, generator=generator)}
        found.append(Outputs(scale * torch.randn(batch, classes, *case.positions, generator=generator), features))
    return found[0], found[1], torch.randint(0, classes, (batch, *case.positions), generator=generator)


def put(case: Case, student: Outputs, teacher: Outputs, target: Tensor) -> tuple[Tensor, Tensor]:
    """A criterion's value and its gradient for what it reads of the student."""
    torch.manual_seed(1)
    criterion = case.make()
    criterion.build(student, teacher)
    student = leaves(student)
    value = criterion(student, teacher, target)
    value.backward()
    gradient = (student.logits if case.kind == "logits" else student.features["a"]).grad
    assert gradient is not None
    assert value.isfinite()
    assert gradient.isfinite().all()
    return value.detach(), gradient


@every
def test_at_the_teacher(case: Case, tally: Tally) -> None:
    if not case.zero_at_equality:
        return
    case = replace(case, same_width=True)
    for classes, batch, width in SIZES:
        if (case.kind == "logits" and case.positions and classes > 1000) or ("rkd" in case.name and batch > 32):
            continue
        if "relation" in case.name and classes > 1000:  # every class beside every other: gigabytes
            continue
        for scale in (1e-8, 1.0, 1e4):
            student, _, target = draw(case, batch, classes, width, scale)
            if case.name == "sdd":  # whose classes are the map's channels
                target = target % width
            value, gradient = put(case, student, student, target)
            assert abs(value.item()) < 1e-5, (classes, batch, width, scale)
            # A criterion of no scale rounds by some 1e-7 of the gradient's own, which goes with one over the scale.
            assert min(scale, 1) * gradient.abs().max() < 1e-4, (classes, batch, width, scale)
            tally(PROMISE)


@every
@pytest.mark.parametrize("kind", ["zeros", "alike", "duplicates", "half zeros", "one class"])
def test_degenerate_rows(case: Case, kind: str, tally: Tally) -> None:
    def degenerate(x: Tensor) -> Tensor:
        if kind == "half zeros":
            return torch.cat([torch.zeros_like(x[: len(x) // 2]), x[len(x) // 2 :]])
        if kind == "one class":
            return torch.cat([torch.full_like(x[:, :1], 100.0), torch.zeros_like(x[:, 1:])], 1)
        return {"zeros": 0 * x, "alike": torch.full_like(x, 0.3), "duplicates": x[:1].expand_as(x).clone()}[kind]

    def changed(outputs: Outputs) -> Outputs:
        return Outputs(degenerate(outputs.logits), {name: degenerate(x) for name, x in outputs.features.items()})

    for batch in (1, 2, 6):
        student, teacher, target = draw(case, batch, 5, 8)
        for pair in ((changed(student), teacher), (student, changed(teacher)), (changed(student), changed(teacher))):
            put(case, *pair, target)
            tally(PROMISE)


@every
def test_a_student_of_zeros_begins_to_learn(case: Case, tally: Tally) -> None:
    student, teacher, target = draw(case, 6, 5, 8)
    zeros = Outputs(0 * student.logits, {name: 0 * x for name, x in student.features.items()})
    _, gradient = put(case, zeros, teacher, target)
    if not case.name.startswith(NO_SLOPE_AT_ZERO):
        assert 0 < gradient.abs().max() < 1e3
    tally(PROMISE)


MORE: dict[str, Criterion] = {
    "hard target": HardTarget(),
    "soft target, multilabel": SoftTarget(task="multilabel"),
    "ctkd, standardized": CTKD(standardize=True),
    "mlkd, standardized": MultiTemperature(standardize=True),
    "dist, sure": DIST(tau=0.1),
}


@pytest.mark.parametrize("name", MORE)
def test_other_settings_learn_from_zeros(name: str, tally: Tally) -> None:
    logits = torch.zeros(6, 5, requires_grad=True)
    target = torch.arange(6) % 5
    MORE[name](Outputs(logits), Outputs(torch.randn(6, 5)), target).backward()
    assert logits.grad is not None
    assert 0 < logits.grad.abs().max() < 1e3
    tally(PROMISE)


def _nothing_counts(case: Case) -> tuple[Outputs, Outputs, Tensor] | None:
    student, teacher, _ = draw(case, 4, 5, 8)
    if case.kind == "logits" and not case.positions:
        student, teacher = (Outputs(torch.randn(4, 7, 5)) for _ in range(2))
    shape = {"map": (4, 4, 4), "tokens": (4, 9), "logits": (4, *(case.positions or (7,)))}.get(case.kind)
    if shape is None:
        return None
    target = torch.full((4,) if case.kind != "logits" else shape, -100)
    mask = torch.zeros(shape, dtype=torch.bool)
    return replace(student, mask=mask), replace(teacher, mask=mask), target


@every
def test_nothing_counts(case: Case, tally: Tally) -> None:
    given = _nothing_counts(case)
    if given is None:
        return
    student, teacher, target = given
    torch.manual_seed(1)
    criterion = case.make()
    criterion.build(student, teacher)
    student = leaves(student)
    value = criterion(student, teacher, target)
    value.backward()
    assert value.item() == 0
    gradients = [x.grad for x in (student.logits, *student.features.values())]
    assert any(gradient is not None for gradient in gradients)
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    for parameter in criterion.parameters():  # DDP waits for each
        assert parameter.grad is not None
        assert not parameter.grad.any()
    tally(PROMISE)


def test_labels_and_weights_of_nothing(tally: Tally) -> None:
    for target, weight in ((torch.full((4,), -100), None), (torch.arange(4), torch.zeros(4))):
        logits = torch.randn(4, 5, requires_grad=True)
        value = HardTarget()(Outputs(logits, sample_weight=weight), Outputs.nothing(), target)
        value.backward()
        assert value.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()
        tally(PROMISE)
    logits = torch.randn(4, 7, 5, requires_grad=True)
    mask = torch.zeros(4, 7, dtype=torch.bool)
    teachers = Outputs(torch.randn(4, 7, 5), {"0": torch.randn(4, 7, 5), "1": torch.randn(4, 7, 5)}, mask)
    value = EnsembleTarget()(Outputs(logits, mask=mask), teachers, None)
    value.backward()
    assert value.item() == 0
    tally(PROMISE)


@every
def test_types(case: Case, tally: Tally) -> None:
    student, teacher, target = draw(case, 6, 5, 8)
    expected, _ = put(case, student, teacher, target)
    half, brain, single, double = torch.float16, torch.bfloat16, torch.float32, torch.float64
    for own, given, autocast in (
        (brain, single, None),
        (half, brain, None),
        (double, single, None),
        (single, double, None),
        (single, half, brain),
        (brain, single, half),
        (double, half, brain),
    ):
        torch.manual_seed(1)
        criterion = case.make()
        criterion.build(student, teacher)
        criterion.to(own)
        pair = [
            leaves(Outputs(o.logits.to(given), {name: x.to(given) for name, x in o.features.items()}))
            for o in (student, teacher)
        ]
        with torch.autocast("cpu", autocast or brain, enabled=autocast is not None):
            value = criterion(pair[0], pair[1].detach(), target)
        value.backward()
        assert value.dtype in (single, double)
        assert value.item() == pytest.approx(expected.item(), rel=0.1, abs=0.05), (own, given, autocast)
        tally(PROMISE)
