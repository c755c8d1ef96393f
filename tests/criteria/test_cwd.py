import pytest
import torch
from torch import Tensor

from lit_distill.criteria import CWD, CWDLogits
from lit_distill.criteria.cwd import cwd
from lit_distill.outputs import Outputs
from tests.criteria.test_token_relation import draw, kl_by_hand


def by_hand(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> float:
    """Equations 2 to 4 of the paper in loops, for maps [B, C, H, W]; mean over the batch."""
    total = 0.0
    for index in range(len(student)):
        keep = [(h, w) for h in range(student.shape[2]) for w in range(student.shape[3])]
        keep = [(h, w) for h, w in keep if mask is None or mask[index, h, w]]
        for channel in range(student.shape[1]):
            rows = [[x[index, channel, h, w].item() / temperature for h, w in keep] for x in (student, teacher)]
            total += temperature**2 / student.shape[1] * kl_by_hand(rows[0], rows[1])
    return total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_of_dense_logits_equals_a_hand_computation(temperature: float) -> None:
    student, teacher = 2 * draw(3, 4, 2, 5), 3 * draw(3, 4, 2, 5, seed=1)
    expected = by_hand(student, teacher, temperature)
    assert cwd(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-10)
    found = CWDLogits(temperature)(Outputs(student), Outputs(teacher), None)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_value_of_features_of_one_shape_and_of_their_tokens() -> None:
    student, teacher = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    expected = by_hand(student, teacher, 4.0)
    for change in (lambda x: x, lambda x: x.flatten(2).mT):
        sides = [Outputs(torch.zeros(1), {"a": change(x)}) for x in (student, teacher)]
        assert CWD("a", "a")(*sides, None).item() == pytest.approx(expected, rel=1e-10)


def test_other_widths_and_sizes_are_projected_and_pairs_averaged() -> None:
    student = Outputs(torch.zeros(1), {"a": draw(2, 3, 4, 4), "b": draw(2, 6, 2, 2)})
    teacher = Outputs(torch.zeros(1), {"x": draw(2, 5, 2, 2, seed=1), "y": draw(2, 6, 2, 2, seed=2)})
    criterion = CWD(["a", "b"], ["x", "y"])
    criterion.build(student, teacher)
    criterion.double()
    linear = criterion.projectors[0].linear
    pooled = student.features["a"].reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    mapped = (torch.einsum("oc,bchw->bohw", linear.weight[:, :, 0, 0], pooled) + linear.bias[:, None, None]).detach()
    expected = by_hand(mapped, teacher.features["x"], 4.0) + by_hand(student.features["b"], teacher.features["y"], 4.0)
    value = criterion(student, teacher, None)
    assert value.item() == pytest.approx(expected / 2, rel=1e-9)
    value.backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.abs().sum() > 0


def test_masked_pixels_change_neither_value_nor_gradients() -> None:
    student, teacher = draw(3, 4, 2, 5), draw(3, 4, 2, 5, seed=1)
    mask = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    student.requires_grad_()
    value = CWDLogits()(Outputs(student, mask=mask), Outputs(teacher), None)
    value.backward()
    assert value.item() == pytest.approx(by_hand(student.detach(), teacher, 4.0, mask), rel=1e-10)
    assert student.grad is not None
    assert (student.grad.movedim(1, -1)[~mask] == 0).all()
    changed = torch.where(mask.unsqueeze(1), teacher, 1e4)
    torch.testing.assert_close(CWDLogits()(Outputs(student, mask=mask), Outputs(changed), None), value)


def test_an_image_without_a_pixel_that_counts_is_zero() -> None:
    student, mask = draw(2, 3, 2, 2).requires_grad_(), torch.ones(2, 2, 2).bool()
    mask[0] = False
    value = CWDLogits()(Outputs(student, mask=mask), Outputs(draw(2, 3, 2, 2, seed=1)), None)
    value.backward()
    assert value.item() == pytest.approx(by_hand(student.detach()[1:], draw(2, 3, 2, 2, seed=1)[1:], 4.0) / 2)
    assert student.grad is not None
    assert (student.grad[0] == 0).all()


def test_a_number_added_to_a_channel_changes_nothing() -> None:
    student, teacher = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    shifted = student + draw(2, 4, 1, 1, seed=2)
    torch.testing.assert_close(cwd(shifted, teacher), cwd(student, teacher))
    torch.testing.assert_close(cwd(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1)), cwd(student, teacher))


def test_the_gradient_keeps_its_size_as_the_temperature_changes() -> None:
    sizes = []
    for temperature in (2.0, 4.0, 8.0, 16.0):
        student = draw(2, 4, 3, 3).requires_grad_()
        cwd(student, draw(2, 4, 3, 3, seed=1), temperature).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert max(sizes) < 2 * min(sizes)


def test_what_has_no_positions_or_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] has no positions"):
        CWDLogits()(Outputs(draw(2, 3)), Outputs(draw(2, 3)), None)
    with pytest.raises(ValueError, match="the student has 3 classes and the teacher 4"):
        CWDLogits()(Outputs(draw(2, 3, 2, 2)), Outputs(draw(2, 4, 2, 2)), None)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        CWD("a", "a", 0.0)
    with pytest.raises(ValueError, match="does not match teacher"):
        cwd(draw(2, 3, 2, 2), draw(2, 3, 2, 3))
