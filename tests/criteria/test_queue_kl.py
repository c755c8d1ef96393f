import copy
import io
import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import QueueKL
from lit_distill.criteria.queue_kl import queue_kl
from lit_distill.outputs import Outputs
from tests.criteria.test_token_relation import draw, kl_by_hand


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def by_hand(student: Tensor, teacher: Tensor, bank: list[list[float]], t_s: float, t_t: float) -> float:
    values = []
    for row_s, row_t in zip(student.tolist(), teacher.tolist(), strict=True):
        scores_s = [sum(a * b for a, b in zip(unit(row_s), q, strict=True)) / t_s for q in bank]
        scores_t = [sum(a * b for a, b in zip(unit(row_t), q, strict=True)) / t_t for q in bank]
        values.append(kl_by_hand(scores_s, scores_t))
    return sum(values) / len(values)


def sides(student: Tensor, teacher: Tensor) -> tuple[Outputs, Outputs, None]:
    return Outputs(torch.zeros(1), {"a": student}), Outputs(torch.zeros(1), {"a": teacher}), None


def made(size: int = 8, temperature: float = 0.07, teacher_temperature: float | None = None) -> QueueKL:
    torch.manual_seed(0)
    criterion = QueueKL("a", "a", size, temperature, teacher_temperature)
    criterion.build(*sides(draw(4, 3), draw(4, 5))[:2])
    return criterion.double()


def projected(criterion: QueueKL, student: Tensor) -> Tensor:
    assert criterion.projector is not None
    return (student @ criterion.projector.weight.T + criterion.projector.bias).detach()


@pytest.mark.parametrize(("t_s", "t_t"), [(0.07, None), (0.2, 0.01), (0.5, 0.3)])
def test_every_batch_is_compared_with_itself_and_the_newest_before_it(t_s: float, t_t: float | None) -> None:
    criterion = made(10, t_s, t_t)
    before: list[list[float]] = []
    for step in range(5):
        student, teacher = draw(4, 3, seed=step), draw(4, 5, seed=100 + step)
        before = [unit(row) for row in teacher.tolist()] + before
        expected = by_hand(projected(criterion, student), teacher, before[:10], t_s, t_t or t_s)
        assert criterion(*sides(student, teacher)).item() == pytest.approx(expected, rel=1e-9)
        assert int(criterion.filled) == min(10, len(before))
        torch.testing.assert_close(criterion.queue[: len(before[:10])], torch.tensor(before[:10]).double())


def test_the_formula_alone_by_hand() -> None:
    student, teacher, bank = draw(3, 5), draw(3, 5, seed=1), draw(7, 5, seed=2)
    bank = torch.nn.functional.normalize(bank)
    expected = by_hand(student, teacher, bank.tolist(), 0.2, 0.01)
    assert queue_kl(student, teacher, bank, 0.2, 0.01).item() == pytest.approx(expected, rel=1e-10)
    assert queue_kl(teacher, teacher, bank).item() == pytest.approx(0, abs=1e-14)


def test_the_gradient_is_that_of_seeds_cross_entropy() -> None:
    student, teacher = draw(3, 5).requires_grad_(), draw(3, 5, seed=1)
    bank = torch.nn.functional.normalize(draw(7, 5, seed=2))
    (ours,) = torch.autograd.grad(queue_kl(student, teacher, bank, 0.2, 0.01), student)
    scores = torch.nn.functional.normalize(student) @ bank.T / 0.2
    target = (torch.nn.functional.normalize(teacher) @ bank.T / 0.01).softmax(-1)
    (theirs,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, target), student)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (4, 7, 3)])
def test_maps_and_tokens_are_averaged_first(shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape), draw(4, 5, 3, 3, seed=1)
    criterion = QueueKL("a", "a", 4)
    criterion.build(*sides(student, teacher)[:2])
    criterion.double()
    pooled = student.flatten(2).mean(2) if len(shape) == 4 else student.mean(1)
    expected = copy.deepcopy(criterion)(*sides(pooled, teacher.flatten(2).mean(2)))
    torch.testing.assert_close(criterion(*sides(student, teacher)), expected)


@pytest.mark.parametrize("mode", ["eval", "no_grad", "dry run"])
def test_only_training_fills_the_queue(mode: str) -> None:
    criterion = made()
    criterion(*sides(draw(4, 3), draw(4, 5)))
    state = {name: value.clone() for name, value in criterion.state_dict().items()}
    criterion.train(mode == "no_grad")
    with torch.set_grad_enabled(mode == "eval"):
        criterion(*sides(draw(4, 3, seed=5), draw(4, 5, seed=6)))
    assert all(torch.equal(value, state[name]) for name, value in criterion.state_dict().items())


def test_the_value_is_that_of_training_where_the_queue_stays() -> None:
    criterion = made()
    criterion(*sides(draw(4, 3), draw(4, 5)))
    batch = sides(draw(4, 3, seed=5), draw(4, 5, seed=6))
    torch.testing.assert_close(copy.deepcopy(criterion).eval()(*batch), criterion(*batch))


def test_a_batch_larger_than_the_queue_is_compared_with_all_of_itself() -> None:
    criterion = made(size=3)
    student, teacher = draw(6, 3), draw(6, 5, seed=1)
    expected = by_hand(projected(criterion, student), teacher, [unit(r) for r in teacher.tolist()], 0.07, 0.07)
    assert criterion(*sides(student, teacher)).item() == pytest.approx(expected, rel=1e-9)
    assert int(criterion.filled) == 3


def test_the_backward_pass_is_of_the_bank_before_the_queue_changed() -> None:
    criterion = made()
    student = draw(4, 3).requires_grad_()
    first = criterion(*sides(student, draw(4, 5)))
    criterion(*sides(draw(4, 3, seed=2), draw(4, 5, seed=3)))
    first.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_queue_is_saved_and_a_second_build_keeps_it() -> None:
    criterion = made()
    criterion(*sides(draw(4, 3), draw(4, 5)))
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    again = made()
    again.load_state_dict(torch.load(file, weights_only=True))
    again.build(*sides(draw(4, 3), draw(4, 5))[:2])
    batch = sides(draw(4, 3, seed=5), draw(4, 5, seed=6))
    assert torch.equal(again(*batch), criterion(*batch))
    assert torch.equal(again.queue, criterion.queue)


def test_the_layer_starts_from_a_truncated_normal() -> None:
    criterion = QueueKL("a", "a")
    criterion.build(*sides(draw(2, 64), draw(2, 128))[:2])
    assert criterion.projector is not None
    assert criterion.projector.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        QueueKL("a", "a", 0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        QueueKL("a", "a", teacher_temperature=0.0)
    two = Outputs(torch.zeros(1), {"a": draw(2, 3), "b": draw(2, 3)})
    with pytest.raises(ValueError, match="one layer per network gives the embedding, and these are 2"):
        QueueKL("[ab]", "[ab]").build(two, two)
