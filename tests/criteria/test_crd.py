import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria import CRD
from lit_distill.criteria.crd import contrast
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=1)


def outputs(feature: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), {"a": feature})


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def contrast_by_hand(
    anchor: Tensor, positive: Tensor, negatives: Tensor, allowed: Tensor, temperature: float, objective: str
) -> float:
    """The formula as it is printed, with exponentials and h = e / (e + N c)."""
    values = []
    width = anchor.shape[1]
    c = math.exp(1 / (2 * width * temperature**2))
    for index, (a, p) in enumerate(zip(anchor.tolist(), positive.tolist(), strict=True)):
        own = math.exp(dot(a, p) / temperature)
        others = [
            math.exp(dot(a, n) / temperature)
            for n, ok in zip(negatives.tolist(), allowed[index].tolist(), strict=True)
            if ok
        ]
        if objective == "info_nce":
            values.append(-math.log(own / (own + sum(others))))
            continue
        noise = len(others) * c
        values.append(-math.log(own / (own + noise)) - sum(math.log(1 - e / (e + noise)) for e in others))
    return sum(values) / len(values)


@pytest.mark.parametrize("objective", ["nce", "info_nce"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_contrast_equals_a_hand_computation(objective: str, temperature: float) -> None:
    anchor, positive, negatives = unit(4, 16), unit(4, 16, seed=1), unit(9, 16, seed=2)
    allowed = torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) < 0.7
    found = contrast(anchor, positive, negatives, allowed, temperature, objective)  # type: ignore[arg-type]
    expected = contrast_by_hand(anchor, positive, negatives, allowed, temperature, objective)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("supervised", [True, False])
def test_value_is_the_sum_of_both_directions(supervised: bool) -> None:
    torch.manual_seed(0)
    criterion = CRD("a", "a", 8, queue=6, class_negatives=supervised).double()
    student, teacher, labels = draw(4, 5), draw(4, 7, seed=1), torch.tensor([0, 1, 1, 2])
    criterion.build(outputs(student), outputs(teacher))
    criterion.double()
    queue_s, queue_t = criterion.queue_s.clone(), criterion.queue_t.clone()
    known = [*labels.tolist(), *[None] * 6]
    allowed = torch.tensor(
        [[i != j and not (supervised and known[i] == known[j]) for j in range(10)] for i in range(4)]
    )
    e_s = F.normalize(criterion.embed_s(student), dim=1).detach()
    e_t = F.normalize(criterion.embed_t(teacher), dim=1).detach()
    expected = contrast_by_hand(e_s, e_t, torch.cat([e_t, queue_t]), allowed, 0.07, "nce")
    expected += contrast_by_hand(e_t, e_s, torch.cat([e_s, queue_s]), allowed, 0.07, "nce")
    assert criterion(outputs(student), outputs(teacher), labels).item() == pytest.approx(expected, rel=1e-9)


def test_the_constant_is_the_mean_over_random_vectors() -> None:
    """What the authors' code estimates in its first batch, against a bank that begins as this queue does."""
    bank = CRD("a", "a").double().queue_t
    anchors = unit(50, 128)
    measured = (anchors @ bank.T / 0.07).exp().mean().item()
    assert measured == pytest.approx(math.exp(1 / (2 * 128 * 0.07**2)), rel=0.02)


def test_at_the_start_the_noise_costs_about_one() -> None:
    """sum_n -log(1 - h) is near N times the mean of h, which the constant makes 1 / N."""
    criterion = CRD("a", "a", class_negatives=False).double()
    anchor = unit(8, 128)
    allowed = torch.ones(8, 16384, dtype=torch.bool)
    value = contrast(anchor, anchor, criterion.queue_t, allowed)
    own = F.softplus(torch.tensor(math.log(16384) + 1 / (2 * 128 * 0.07**2) - 1 / 0.07)).item()
    assert value.item() - own == pytest.approx(1, rel=0.05)


def test_the_queue_keeps_the_latest() -> None:
    criterion = CRD("a", "a", 3, queue=5)
    seen = []
    for step in range(3):
        student, teacher, labels = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([step, step + 1])
        criterion(outputs(student), outputs(teacher), labels)
        seen.append(F.normalize(criterion.embed_t(teacher), dim=1).detach())
    torch.testing.assert_close(criterion.queue_t, torch.cat(seen)[-5:])
    assert criterion.queue_labels.tolist() == [1, 1, 2, 2, 3]
    assert not criterion.queue_t.requires_grad
    criterion(outputs(torch.randn(9, 4)), outputs(torch.randn(9, 4)), torch.arange(9))
    assert criterion.queue_labels.tolist() == [4, 5, 6, 7, 8]
    assert criterion.queue_s.shape == (5, 3)


@pytest.mark.parametrize("change", ["eval", "no_grad"])
def test_the_queue_rests_outside_training(change: str) -> None:
    criterion = CRD("a", "a", 3, queue=5, class_negatives=False)
    if change == "eval":
        criterion.eval()
    before = criterion.queue_t.clone()
    with torch.set_grad_enabled(change == "eval"):
        criterion(outputs(torch.randn(2, 4)), outputs(torch.randn(2, 4)), None)
    assert torch.equal(criterion.queue_t, before)


def test_a_second_build_keeps_the_layers() -> None:
    criterion = CRD("a", "a", 3, queue=5)
    example = outputs(torch.randn(2, 4))
    criterion.build(example, example)
    layer = criterion.embed_s
    criterion.build(example, example)
    assert criterion.embed_s is layer


def test_both_layers_learn_and_the_queue_gives_no_gradient() -> None:
    criterion = CRD("a", "a", 3, queue=5, class_negatives=False)
    teacher = torch.randn(4, 6, requires_grad=True)
    criterion(outputs(torch.randn(4, 5)), outputs(teacher.detach()), None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())
    assert teacher.grad is None


def test_mixed_labels_count_by_the_likeliest_class() -> None:
    torch.manual_seed(0)
    criterion = CRD("a", "a", 3, queue=0).eval()
    student, teacher = outputs(torch.randn(3, 4)), outputs(torch.randn(3, 4))
    mixed = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.0, 0.2, 0.8]])
    assert criterion(student, teacher, mixed) == criterion(student, teacher, torch.tensor([0, 0, 2]))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="embedding must be at least 1, not 0"):
        CRD("a", "a", 0, queue=-1)
    with pytest.raises(ValueError, match="objective must be one of 'nce', 'info_nce', not 'triplet'"):
        CRD("a", "a", objective="triplet")  # type: ignore[arg-type]
    example = outputs(torch.randn(2, 4))
    with pytest.raises(ValueError, match="one label per sample"):
        CRD("a", "a", queue=3)(example, example, torch.zeros(2, 5, dtype=torch.long))
    both = Outputs(torch.zeros(1), {"a": torch.randn(2, 3), "b": torch.randn(2, 3)})
    with pytest.raises(ValueError, match="one pair of layers, and 2 are named"):
        CRD(["a", "b"], ["a", "b"]).build(both, both)  # type: ignore[arg-type]
