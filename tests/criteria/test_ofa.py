import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria import OFA
from lit_distill.criteria.ofa import ExitHead, ofa
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(v / temperature) for v in row]
    return [e / sum(exponentials) for e in exponentials]


def ofa_by_hand(student: Tensor, teacher: Tensor, target: list[int], gamma: float, temperature: float) -> float:
    values = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), target, strict=True):
        p_s, p_t = softmax(s, temperature), softmax(t, temperature)
        values.append(-sum(((p_t[c] + (c == y)) ** gamma - (c == y)) * math.log(p_s[c]) for c in range(len(s))))
    return temperature**2 * sum(values) / len(values)


@pytest.mark.parametrize("gamma", [1.0, 1.2, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_formula_equals_a_hand_computation(gamma: float, temperature: float) -> None:
    student, teacher, target = 2 * draw(4, 6), 3 * draw(4, 6, seed=1), torch.tensor([0, 5, 2, 2])
    expected = ofa_by_hand(student, teacher, target.tolist(), gamma, temperature)
    assert ofa(student, teacher, target, gamma, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_gamma_one_is_the_cross_entropy_with_the_teacher() -> None:
    student, teacher = draw(4, 6), draw(4, 6, seed=1)
    expected = F.cross_entropy(student, teacher.softmax(1))
    torch.testing.assert_close(ofa(student, teacher, torch.tensor([0, 1, 2, 3]), 1.0), expected)


def test_gamma_enhances_the_label() -> None:
    student, teacher, target = draw(4, 6).requires_grad_(), draw(4, 6, seed=1), torch.tensor([0, 1, 2, 3])
    pulls = []
    for gamma in (1.0, 1.5):
        (gradient,) = torch.autograd.grad(ofa(student, teacher, target, gamma), student)
        pulls.append(-gradient.gather(1, target.unsqueeze(1)).sum().item())
    assert pulls[1] > pulls[0]


def test_rows_without_a_label_are_left_out() -> None:
    student, teacher = draw(4, 6), draw(4, 6, seed=1)
    found = ofa(student, teacher, torch.tensor([0, -100, 2, -100]))
    torch.testing.assert_close(found, ofa(student[::2], teacher[::2], torch.tensor([0, 2])))


@pytest.mark.parametrize(("size", "later", "left"), [(8, 2, 2), (8, 1, 4), (4, 0, 4)])
def test_an_exit_halves_its_map_for_every_later_stage(size: int, later: int, left: int) -> None:
    head = ExitHead((2, 4, size, size), 16, 5, later)
    assert head.body(torch.randn(2, 4, size, size)).shape == (2, 16, left, left)
    assert head(torch.randn(2, 4, size, size)).shape == (2, 5)


def features() -> dict[str, Tensor]:
    return {"a": draw(3, 4, 8, 8), "b": draw(3, 6, 4, 4, seed=1), "c": draw(3, 9, 7, seed=2), "d": draw(3, 7, seed=3)}


@pytest.mark.parametrize("output", [True, False])
def test_value_is_the_sum_over_exits_and_the_output(output: bool) -> None:
    torch.manual_seed(0)
    target = torch.tensor([0, 3, 1])
    student, teacher = Outputs(draw(3, 5), features()), Outputs(draw(3, 5, seed=9))
    criterion = OFA(["a", "b", "c", "d"], 1.3, output=output)
    criterion.build(student, teacher)
    criterion.double().eval()
    heads = [head(feature) for head, feature in zip(criterion.exits, features().values(), strict=True)]
    heads += [student.logits] * output
    expected = sum(ofa_by_hand(head, teacher.logits, target.tolist(), 1.3, 1.0) for head in heads)
    assert criterion(student, teacher, target).item() == pytest.approx(expected, rel=1e-10)


def test_exits_learn_and_are_kept() -> None:
    student = Outputs(draw(3, 5).float(), {k: v.float() for k, v in features().items()})
    teacher = Outputs(draw(3, 5, seed=9).float())
    criterion = OFA(["a", "b", "c", "d"])
    criterion.build(student, teacher)
    exits = list(criterion.exits)
    criterion.build(student, teacher)
    assert list(criterion.exits) == exits
    assert criterion.teacher_layers == ()
    criterion(student, teacher, torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None for p in criterion.parameters())
    assert criterion.exits[0].classify.in_features == 7  # the last stage's width


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma must be finite and at least 1"):
        OFA("a", gamma=0.5)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        OFA("a", temperature=0)
    with pytest.raises(ValueError, match="needs labels"):
        OFA("a")(Outputs(draw(2, 3), {"a": draw(2, 3).float()}), Outputs(draw(2, 3)), None)
    with pytest.raises(ValueError, match="an exit needs a map, tokens or a vector"):
        ExitHead((2,), 3, 3, 0)
