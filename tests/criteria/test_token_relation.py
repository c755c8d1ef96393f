import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import TokenRelation
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.token_relation import RELATIONS, patches, token_relation
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl_by_hand(student: list[float], teacher: list[float]) -> float:
    """KL(softmax(teacher) || softmax(student)) of one row."""
    total_s, total_t = (sum(math.exp(v) for v in row) for row in (student, teacher))
    terms = []
    for s, t in zip(student, teacher, strict=True):
        p = math.exp(t) / total_t
        terms.append(p * (math.log(p) - math.log(math.exp(s) / total_s)))
    return sum(terms)


def gram_by_hand(tokens: list[list[float]]) -> list[list[float]]:
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in tokens]
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in unit] for x in unit]


def by_hand(student: Tensor, teacher: Tensor, kind: str, temperature: float, mask: Tensor | None = None) -> float:
    values = []
    for index in range(len(student)):
        keep = range(student.shape[1]) if mask is None else [i for i in range(student.shape[1]) if mask[index, i]]
        gram_s = gram_by_hand([student[index, i].tolist() for i in keep])
        gram_t = gram_by_hand([teacher[index, i].tolist() for i in keep])
        for row_s, row_t in zip(gram_s, gram_t, strict=True):
            if kind == "gram":
                values.extend((a - b) ** 2 for a, b in zip(row_s, row_t, strict=True))
            else:
                values.append(kl_by_hand([v / temperature for v in row_s], [v / temperature for v in row_t]))
    return sum(values) / len(values)


def outputs(feature: Tensor, mask: Tensor | None = None) -> Outputs:
    return Outputs(torch.zeros(len(feature), 2), {"a": feature}, mask)


def value_of(criterion: TokenRelation, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    value: Tensor = criterion(outputs(student, mask), outputs(teacher, mask), None)
    return value


kinds = pytest.mark.parametrize("kind", RELATIONS)


@kinds
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_value_equals_a_hand_computation(kind: str, temperature: float) -> None:
    student, teacher = draw(3, 4, 5), draw(3, 4, 7, seed=1)
    expected = by_hand(student, teacher, kind, temperature)
    found = value_of(TokenRelation("a", "a", kind, temperature), student, teacher)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=1e-10)


@kinds
def test_maps_are_read_position_by_position(kind: str) -> None:
    student, teacher = draw(2, 5, 2, 3), draw(2, 7, 2, 3, seed=1)
    tokens = [f.permute(0, 2, 3, 1).reshape(2, 6, -1) for f in (student, teacher)]
    found = value_of(TokenRelation("a", "a", kind), student, teacher)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(by_hand(*tokens, kind, 0.07), rel=1e-10)


@kinds
def test_masked_tokens_do_not_count(kind: str) -> None:
    student, teacher = draw(3, 6, 5), draw(3, 6, 4, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    criterion = TokenRelation("a", "a", kind)  # type: ignore[arg-type]
    student.requires_grad_()
    value = value_of(criterion, student, teacher, mask)
    assert value.item() == pytest.approx(by_hand(student.detach(), teacher, kind, 0.07, mask), rel=1e-10)
    value.backward()
    assert student.grad is not None
    assert (student.grad[~mask] == 0).all()
    changed = torch.where(mask.unsqueeze(-1), teacher, 1e3)
    torch.testing.assert_close(value_of(criterion, student, changed, mask), value)


@kinds
def test_a_batch_whose_tokens_are_all_masked_is_zero(kind: str) -> None:
    student = draw(2, 4, 3).requires_grad_()
    value = value_of(TokenRelation("a", "a", kind), student, draw(2, 4, 5), torch.zeros(2, 4).bool())  # type: ignore[arg-type]
    value.backward()
    assert value == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


@kinds
def test_the_length_of_tokens_and_a_rotation_of_the_width_change_nothing(kind: str) -> None:
    student, teacher = draw(2, 9, 4), draw(2, 9, 6, seed=1)
    rotation, _ = torch.linalg.qr(draw(4, 4, seed=2))
    lengths = draw(2, 9, 1, seed=3).abs() + 0.1
    criterion = TokenRelation("a", "a", kind)  # type: ignore[arg-type]
    expected = value_of(criterion, student, teacher)
    for other in (student @ rotation, student * lengths, 1e-8 * student):
        torch.testing.assert_close(value_of(criterion, other, teacher), expected)
    torch.testing.assert_close(value_of(criterion, student.repeat(3, 1, 1), teacher.repeat(3, 1, 1)), expected)


def test_a_class_token_is_left_out_and_grids_meet_at_the_smaller() -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 5, 6, seed=1)  # a 4 x 4 map; a class token and 2 x 2 patches
    tokens_s, tokens_t = patches(student, teacher)
    assert torch.equal(tokens_t, teacher[:, 1:])
    blocks = student.reshape(2, 3, 2, 2, 2, 2).mean((3, 5)).flatten(2).mT
    torch.testing.assert_close(tokens_s, blocks)
    criterion = TokenRelation("a", "a")
    assert value_of(criterion, student, teacher).item() == pytest.approx(
        by_hand(tokens_s, tokens_t, "gram", 1), rel=1e-10
    )
    with_class = torch.cat([draw(2, 1, 6, seed=5), teacher[:, 1:]], 1)
    torch.testing.assert_close(value_of(criterion, student, with_class), value_of(criterion, student, teacher))


def test_tokens_under_a_mask_are_a_sequence_of_which_none_is_dropped() -> None:
    student, teacher = draw(2, 14, 3), draw(2, 14, 5, seed=1)
    assert patches(student, teacher)[0].shape == (2, 9, 3)  # as an image: 5 prefix tokens and 3 x 3 patches
    found = value_of(TokenRelation("a", "a"), student, teacher, torch.ones(2, 14).bool())
    assert found.item() == pytest.approx(by_hand(student, teacher, "gram", 1), rel=1e-10)


def test_tokens_that_make_no_square_stay_as_they_are() -> None:
    student, teacher = draw(2, 60, 3), draw(2, 60, 5)
    assert patches(student, teacher)[0] is student


def test_several_pairs_are_averaged() -> None:
    student = Outputs(torch.zeros(1), {"a": draw(2, 4, 3), "b": draw(2, 4, 5)})
    teacher = Outputs(torch.zeros(1), {"x": draw(2, 4, 2, seed=2), "y": draw(2, 4, 6, seed=3)})
    found = TokenRelation(["a", "b"], ["x", "y"])(student, teacher, None)
    each = [token_relation(student.features[s], teacher.features[t]) for s, t in ("ax", "by")]
    torch.testing.assert_close(found, sum(each) / 2)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((2, 5), (2, 4, 5), "relations of tokens need maps"),
        ((2, 60, 5), (2, 61, 5), "cannot be matched: one is not a square grid"),
        ((2, 60, 5), (2, 5, 4, 4), "cannot be matched"),
    ],
)
def test_features_without_common_places_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        value_of(TokenRelation("a", "a"), draw(*student), draw(*teacher))


def test_a_mask_of_other_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the batch's mask is \[2, 5\].*does not fit a feature of \[2, 20, 3\]"):
        value_of(TokenRelation("a", "a"), draw(2, 20, 3), draw(2, 20, 3), torch.ones(2, 5).bool())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of 'gram', 'softmax', not 'cosine'"):
        TokenRelation("a", "a", "cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature must be above 0"):
        TokenRelation("a", "a", temperature=0)


def test_softmax_kl_with_a_mask_is_that_of_the_entries_alone() -> None:
    student, teacher = 1e4 * draw(5, 6).float(), 1e4 * draw(5, 6, seed=1).float()
    mask = torch.tensor([True, False, True, True, False, True])
    student.requires_grad_()
    found = softmax_kl(student, teacher, mask)
    torch.testing.assert_close(found, softmax_kl(student[:, mask], teacher[:, mask]))
    found.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[:, ~mask] == 0).all()
