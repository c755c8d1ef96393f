from itertools import permutations

import pytest
import torch
from torch import Tensor

from lit_distill.criteria.mutual import Mutual, mutual
from lit_distill.outputs import Outputs

SHAPES = [(4, 5), (3, 4, 5), (3, 5, 2, 4)]


def draw(count: int, *shape: int, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def rows(logits: Tensor) -> Tensor:
    return logits.movedim(1, -1).reshape(-1, logits.shape[1]) if logits.dim() == 4 else logits.flatten(0, -2)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of two rows of probabilities, class by class."""
    total = torch.zeros((), dtype=torch.float64)
    for one, other in zip(p, q, strict=True):
        total = total + one * (one / other).log()
    return total


def objective(index: int, logits: list[Tensor], temperature: float) -> Tensor:
    """The second term of a peer's loss, equation 8, with the other peers as constants."""
    own = rows(logits[index] / temperature).softmax(-1)
    values = []
    for place, other in enumerate(logits):
        if place != index:
            told = rows(other.detach() / temperature).softmax(-1)
            values.append(torch.stack([kl(t, o) for t, o in zip(told, own, strict=True)]).mean())
    return temperature**2 * sum(values) / (len(logits) - 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_peer_gets_the_gradient_of_its_own_objective_alone(
    shape: tuple[int, ...], count: int, temperature: float
) -> None:
    peers = [logits.requires_grad_() for logits in draw(count, *shape)]
    value = mutual(peers, temperature)
    expected = [objective(index, peers, temperature) for index in range(count)]
    assert value.item() == pytest.approx(sum(e.item() for e in expected), rel=1e-12)
    found = torch.autograd.grad(value, peers)
    for index, gradient in enumerate(found):
        alone = torch.autograd.grad(expected[index], peers[index])[0]
        torch.testing.assert_close(gradient, alone, rtol=1e-10, atol=1e-14)


def test_two_peers_by_hand() -> None:
    # p1 = (1/2, 1/2), p2 = (4/5, 1/5).
    one, other = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[4.0, 1.0]], dtype=torch.float64).log()
    p1, p2 = (0.5, 0.5), (0.8, 0.2)
    log = torch.tensor([0.8 / 0.5, 0.2 / 0.5, 0.5 / 0.8, 0.5 / 0.2], dtype=torch.float64).log().tolist()
    towards_first = p2[0] * log[0] + p2[1] * log[1]  # KL(p2 || p1), the first peer's
    towards_second = p1[0] * log[2] + p1[1] * log[3]
    assert mutual([one, other]).item() == pytest.approx(towards_first + towards_second, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_zero_between_identical_peers(shape: tuple[int, ...], task: str) -> None:
    logits = draw(1, *shape)[0]
    peers = [logits.clone().requires_grad_() for _ in range(3)]
    value = mutual(peers, 2.0, task)  # type: ignore[arg-type]
    value.backward()
    assert abs(value.item()) < 1e-14
    assert all(peer.grad is not None and peer.grad.abs().max() < 1e-15 for peer in peers)


def test_the_order_of_peers_changes_nothing_and_their_gradients_move_with_them() -> None:
    peers = [logits.requires_grad_() for logits in draw(3, 4, 5)]
    value = mutual(peers)
    gradients = torch.autograd.grad(value, peers)
    for order in permutations(range(3)):
        shuffled = [peers[index] for index in order]
        again = mutual(shuffled)
        torch.testing.assert_close(again, value, rtol=1e-12, atol=0)
        for index, gradient in zip(order, torch.autograd.grad(again, shuffled), strict=True):
            torch.testing.assert_close(gradient, gradients[index], rtol=1e-12, atol=1e-16)


def test_binary_and_multilabel_match_class_by_class() -> None:
    peers = draw(2, 4, 3)
    probabilities = [torch.stack([p, 1 - p], -1).reshape(-1, 2) for p in map(torch.sigmoid, peers)]
    expected = sum(
        torch.stack([kl(a, b) for a, b in zip(probabilities[i], probabilities[1 - i], strict=True)]).mean()
        for i in range(2)
    )
    assert mutual(peers, task="multilabel").item() == pytest.approx(float(expected), rel=1e-12)


def test_a_copy_of_the_batch_changes_nothing() -> None:
    peers = draw(3, 4, 5)
    torch.testing.assert_close(mutual([torch.cat([z, z]) for z in peers]), mutual(peers), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    peers = [torch.tensor([row], dtype=dtype, requires_grad=True) for row in ([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0])]
    value = mutual(peers)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert all(peer.grad is not None and peer.grad.isfinite().all() for peer in peers)


def outputs(peers: list[Tensor], mask: Tensor | None = None) -> Outputs:
    return Outputs(torch.zeros(1), {str(index): logits for index, logits in enumerate(peers)}, mask)


def test_the_criterion_reads_the_peers_layers() -> None:
    peers = draw(3, 4, 5)
    criterion = Mutual(["0", "1", "2"], 2.0)
    assert criterion.student_layers == ("0", "1", "2")
    assert not criterion.teacher_layers
    assert not criterion.needs_target
    assert not criterion.needs_teacher
    assert torch.equal(criterion(outputs(peers), Outputs.nothing(), None), mutual(peers, 2.0))


def test_masked_positions_do_not_count() -> None:
    peers = draw(2, 2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    criterion = Mutual(["0", "1"])
    value = criterion(outputs(peers, mask), Outputs.nothing(), None)
    changed = [torch.where(mask.unsqueeze(-1), logits, logits + 7) for logits in peers]
    assert torch.equal(criterion(outputs(changed, mask), Outputs.nothing(), None), value)
    torch.testing.assert_close(value, mutual([logits[mask] for logits in peers]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("names", [[], ["0"], ["0", "0"]])
def test_fewer_than_two_peers_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="at least 2 different layers|names no layer"):
        Mutual(names)


def test_one_peer_has_nobody_to_learn_from() -> None:
    with pytest.raises(ValueError, match="at least 2 peers, not 1"):
        mutual(draw(1, 2, 3))


def test_other_classes_are_refused_before_training() -> None:
    peers = [torch.zeros(2, 3), torch.zeros(2, 4)]
    with pytest.raises(ValueError, match=r"peer '0' gives \[2, 3\], peer '1' gives \[2, 4\]"):
        Mutual(["0", "1"]).build(outputs(peers), Outputs.nothing())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"temperature": 0.0}, "temperature must be above 0"), ({"task": "regression"}, "task must be one of")],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mutual(["0", "1"], **arguments)  # type: ignore[arg-type]
