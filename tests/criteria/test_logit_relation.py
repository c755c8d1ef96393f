import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_distill import Outputs
from lit_distill.criteria import LogitRelation
from lit_distill.criteria.logit_relation import logit_relation


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(logits: Tensor, temperature: float) -> list[list[float]]:
    rows = [[math.exp(v / temperature) for v in row] for row in logits.tolist()]
    return [[v / sum(row) for v in row] for row in rows]


def relation_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> tuple[float, float]:
    p_s, p_t = probabilities(student, temperature), probabilities(teacher, temperature)
    rows, classes = range(len(p_s)), range(len(p_s[0]))
    samples = sum(
        (sum(p_t[i][c] * p_t[j][c] for c in classes) - sum(p_s[i][c] * p_s[j][c] for c in classes)) ** 2
        for i in rows
        for j in rows
    )
    among = sum(
        (sum(p_t[i][c] * p_t[i][d] for i in rows) - sum(p_s[i][c] * p_s[i][d] for i in rows)) ** 2
        for c in classes
        for d in classes
    )
    return samples / len(rows), among / len(classes)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_equals_a_hand_computation(temperature: float) -> None:
    student, teacher = 2 * draw(5, 4), 3 * draw(5, 4, seed=1)
    samples, classes = relation_by_hand(student, teacher, temperature)
    for batch, among in ((1.0, 1.0), (2.0, 0.0), (0.0, 3.0)):
        found = LogitRelation((temperature,), batch, among)(Outputs(student), Outputs(teacher), None)
        assert found.item() == pytest.approx(batch * samples + among * classes, rel=1e-10)


def test_what_each_relation_does_not_see() -> None:
    """The samples' relation: the classes' order; the classes' relation: the samples' order."""
    teacher = draw(5, 4)
    assert logit_relation(teacher[:, [2, 0, 3, 1]], teacher, classes=0.0).item() == pytest.approx(0, abs=1e-15)
    assert logit_relation(teacher[[2, 0, 3, 1, 4]], teacher, batch=0.0).item() == pytest.approx(0, abs=1e-15)
    assert logit_relation(teacher[[2, 0, 3, 1, 4]], teacher).item() > 1e-4


def test_temperatures_are_averaged() -> None:
    student, teacher = 2 * draw(5, 4), 3 * draw(5, 4, seed=1)
    expected = sum(sum(relation_by_hand(student, teacher, t)) for t in (2.0, 3.0, 4.0, 5.0, 6.0)) / 5
    assert LogitRelation()(Outputs(student), Outputs(teacher), None).item() == pytest.approx(expected, rel=1e-10)


def test_masked_tokens_are_left_out() -> None:
    student, teacher = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0]]).bool()
    found = LogitRelation((4.0,))(Outputs(student, mask=mask), Outputs(teacher), None)
    torch.testing.assert_close(found, logit_relation(student[mask], teacher[mask]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": -1.0}, "batch must be finite and at least 0"),
        ({"batch": 0.0, "classes": 0.0}, "batch and classes are all 0"),
        ({"temperatures": (0.0,)}, r"temperatures\[0\] must be above 0"),
        ({"temperatures": ()}, "temperatures must name at least one"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogitRelation(**arguments)
