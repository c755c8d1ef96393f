import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import VID
from lit_distill.criteria.vid import vid
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(**features: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), features)


def likelihood_by_hand(mean: Tensor, teacher: Tensor, variance: list[float]) -> float:
    """Channels last."""
    width = len(variance)
    terms = []
    for index, (m, t) in enumerate(zip(mean.flatten().tolist(), teacher.flatten().tolist(), strict=True)):
        v = variance[index % width]
        terms.append(0.5 * ((t - m) ** 2 / v + math.log(v)))
    return sum(terms) / len(terms)


def test_formula_equals_a_hand_computation() -> None:
    mean, teacher, variance = draw(2, 3, 4), draw(2, 3, 4, seed=1), draw(4, seed=2).exp()
    assert vid(mean, teacher, variance).item() == pytest.approx(
        likelihood_by_hand(mean, teacher, variance.tolist()), rel=1e-12
    )


def test_formula_is_a_gaussian_likelihood() -> None:
    mean, teacher, variance = draw(6, 4), draw(6, 4, seed=1), draw(4, seed=2).exp()
    gaussian = torch.distributions.Normal(mean, variance.sqrt())
    expected = -gaussian.log_prob(teacher).mean() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(vid(mean, teacher, variance), expected)


def test_the_mean_is_three_convolutions() -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)
    criterion = VID("a", "a")
    criterion.build(outputs(a=student), outputs(a=teacher))
    criterion.double()
    weights = [layer.weight for layer in criterion.means[0] if hasattr(layer, "weight")]
    assert [tuple(w.shape) for w in weights] == [(5, 3), (5, 5), (5, 5)]
    x = student.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))  # the larger map, pooled
    for index, weight in enumerate(weights):
        x = torch.einsum("oc,bchw->bohw", weight, x)
        x = x.clamp(min=0) if index < 2 else x
    expected = likelihood_by_hand(x.detach().movedim(1, -1), teacher.movedim(1, -1), [5.0] * 5)
    assert criterion(outputs(a=student), outputs(a=teacher), None).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("start", [1e-3, 1.0, 5.0, 200.0])
def test_the_variance_starts_where_it_is_told(start: float) -> None:
    criterion = VID("a", "a", variance=start)
    criterion.build(outputs(a=draw(2, 3)), outputs(a=draw(2, 4)))
    torch.testing.assert_close(criterion.variances()[0], torch.full((4,), start), rtol=1e-4, atol=0)


def test_variances_are_trained_and_saved() -> None:
    criterion = VID(["a", "b"], ["a", "b"])
    both = outputs(a=draw(2, 3).float(), b=draw(2, 4).float())
    criterion.build(both, both)
    assert [name for name in criterion.state_dict() if "scale" in name] == ["scales.0", "scales.1"]
    criterion(both, both, None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


def test_the_variance_goes_to_the_mean_squared_error() -> None:
    """The likelihood's optimum for a fixed mean."""
    mean, teacher = draw(200, 3), draw(200, 3, seed=1)
    best = (mean - teacher).square().mean(0)
    at_best = vid(mean, teacher, best)
    for factor in (0.9, 1.1):
        assert vid(mean, teacher, factor * best) > at_best


def test_pairs_are_added() -> None:
    torch.manual_seed(0)
    criterion = VID(["a", "a"], ["a", "a"])
    example = outputs(a=draw(2, 3).float())
    criterion.build(example, example)
    criterion.means[1].load_state_dict(criterion.means[0].state_dict())
    single = VID("a", "a")
    single.build(example, example)
    single.means[0].load_state_dict(criterion.means[0].state_dict())
    torch.testing.assert_close(criterion(example, example, None), 2 * single(example, example, None))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="variance must be above 1e-05"):
        VID("a", "a", variance=0)
    with pytest.raises(ValueError, match="cannot be compared; give two maps"):
        VID("a", "a")(outputs(a=torch.zeros(2, 3)), outputs(a=torch.zeros(2, 3, 4, 4)), None)
    with pytest.raises(ValueError, match="4 student tokens cannot be compared with 3 teacher tokens"):
        VID("a", "a")(outputs(a=torch.zeros(2, 4, 3)), outputs(a=torch.zeros(2, 3, 3)), None)
