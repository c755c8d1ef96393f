import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria import MGD
from lit_distill.criteria.mgd import MASKED, Masked, mgd, random_mask
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(feature: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), {"a": feature})


def built(student: Tensor, teacher: Tensor, masked: Masked = "channels", ratio: float = 0.5) -> MGD:
    torch.manual_seed(0)
    criterion = MGD("a", "a", masked, ratio)
    criterion.build(outputs(student), outputs(teacher))
    return criterion.double()


def test_formula_is_the_sum_over_elements_and_the_mean_over_samples() -> None:
    generated, teacher = draw(3, 2, 2, 2), draw(3, 2, 2, 2, seed=1)
    total = sum((a - b) ** 2 for a, b in zip(generated.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert mgd(generated, teacher).item() == pytest.approx(total / 3, rel=1e-12)
    assert mgd(torch.cat([generated, generated]), torch.cat([teacher, teacher])).item() == pytest.approx(total / 3)


@pytest.mark.parametrize("masked", MASKED)
def test_value_equals_the_method_written_out(masked: Masked) -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 6, 4, 4, seed=1)
    criterion = built(student, teacher, masked)
    torch.manual_seed(7)
    found = criterion(outputs(student), outputs(teacher), None)
    torch.manual_seed(7)
    keep = torch.rand((3, 6, 1, 1) if masked == "channels" else (3, 1, 4, 4)) >= 0.5
    align, first, second = criterion.projectors[0].linear, criterion.generators[0][0], criterion.generators[0][2]
    x = F.conv2d(student, align.weight, align.bias) * keep
    x = F.conv2d(torch.relu(F.conv2d(x, first.weight, first.bias, padding=1)), second.weight, second.bias, padding=1)
    assert 0 < keep.sum() < keep.numel()
    torch.testing.assert_close(found, (x - teacher).square().sum() / 3, rtol=1e-10, atol=0)


@pytest.mark.parametrize("masked", MASKED)
def test_the_mask_drops_its_share(masked: Masked) -> None:
    mask = random_mask(torch.zeros(64, 64, 8, 8), masked, 0.15)
    assert mask.shape == ((64, 64, 1, 1) if masked == "channels" else (64, 1, 8, 8))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.85, abs=0.02)


def test_every_batch_has_a_mask_of_its_own_and_a_seed_repeats_it() -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 4, 4, 4, seed=1)
    criterion = built(student, teacher)
    torch.manual_seed(1)
    values = [criterion(outputs(student), outputs(teacher), None).item() for _ in range(3)]
    assert len(set(values)) == 3
    torch.manual_seed(1)
    assert criterion(outputs(student), outputs(teacher), None).item() == values[0]


def test_nothing_is_masked_in_evaluation() -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 4, 4, 4, seed=1)
    criterion = built(student, teacher).eval()
    state = torch.get_rng_state()
    found = criterion(outputs(student), outputs(teacher), None)
    torch.testing.assert_close(found, mgd(criterion.generators[0](student), teacher))
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_channels_need_no_alignment_and_all_learns() -> None:
    student, teacher = draw(3, 4, 4, 4), draw(3, 4, 4, 4, seed=1)
    criterion = built(student, teacher)
    assert not list(criterion.projectors.parameters())
    criterion(outputs(student), outputs(teacher), None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio must be in \[0, 1\), not 1"):
        MGD("a", "a", ratio=1)
    with pytest.raises(ValueError, match="masked must be one of 'channels', 'positions', not 'tokens'"):
        MGD("a", "a", "tokens")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"MGD compares maps .*, and a feature is \[3, 4\]"):
        built(draw(3, 4), draw(3, 4))


def test_what_was_refused_once_is_refused_again() -> None:
    criterion, maps, vectors = MGD(["a", "b"], ["a", "b"]), draw(3, 4, 2, 2), draw(3, 4)
    example = Outputs(draw(3, 2), {"a": maps, "b": vectors})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"MGD compares maps .*, and a feature is \[3, 4\]"):
            criterion.build(example, example)


def test_a_teachers_tokens_are_a_map() -> None:
    torch.manual_seed(0)
    maps = [draw(3, 4, 4, 4), draw(3, 6, 4, 4, seed=1)]
    tokens = [torch.cat([draw(3, 2, one.shape[1], seed=9), one.flatten(2).mT], 1) for one in maps]
    example = [Outputs(draw(3, 2), {"a": feature}) for feature in maps]
    criterion = MGD("a", "a")
    criterion.build(*example)
    criterion.eval()
    expected = criterion(*example, None)
    for side in (tokens, [maps[0], tokens[1]], [tokens[0], maps[1]]):
        given = [Outputs(draw(3, 2), {"a": feature}) for feature in side]
        other = MGD("a", "a")
        other.build(*given)
        other.load_state_dict(criterion.state_dict())
        torch.testing.assert_close(other.eval()(*given, None), expected)


def test_a_sequence_is_no_map() -> None:
    mask = torch.ones(3, 9)
    example = Outputs(draw(3, 2), {"a": draw(3, 9, 4)}, mask)
    with pytest.raises(ValueError, match="MGD compares maps .* are a sequence. Take TokenRelation or Hint"):
        MGD("a", "a").build(example, example)
    with pytest.raises(ValueError, match="MGD compares maps .*: 35 tokens are no square grid"):
        built(draw(3, 35, 4), draw(3, 35, 4))
