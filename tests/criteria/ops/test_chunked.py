"""Large logits, some rows at a time: the same values and gradients, and no temporaries of their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_distill.criteria import SoftTarget
from lit_distill.criteria.ops import chunked
from lit_distill.criteria.soft_target import DIVERGENCES, soft_target, soft_target_bernoulli
from lit_distill.outputs import Outputs

FORMULAS = [soft_target, soft_target_bernoulli]
Loss = Callable[[Tensor, Tensor], Tensor]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_CPU_CHUNK", 24)
    monkeypatch.setattr(chunked, "_LEAST_CHUNKS", 1)


def value_and_gradients(loss: Loss, student: Tensor, teacher: Tensor) -> list[Tensor]:
    leaves = [z.detach().clone().requires_grad_() for z in (student, teacher)]
    value = loss(*leaves)
    (3 * value).backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == 2
    return [value.detach(), *gradients]


def both_ways(monkeypatch: pytest.MonkeyPatch, loss: Loss, student: Tensor, teacher: Tensor) -> list[list[Tensor]]:
    plain = value_and_gradients(loss, student, teacher)
    monkeypatch.setattr(chunked, "_CPU_CHUNK", 24)
    monkeypatch.setattr(chunked, "_LEAST_CHUNKS", 1)
    return [plain, value_and_gradients(loss, student, teacher)]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_chunks_change_neither_value_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, formula: Any, divergence: str, dtype: torch.dtype, tolerance: float
) -> None:
    student, teacher = draw(31, 7, seed=1, dtype=dtype), draw(31, 7, seed=2, dtype=dtype)
    plain, chunks = both_ways(monkeypatch, lambda s, t: formula(s, t, 2.0, divergence, 0.3), student, teacher)
    for expected, found in zip(plain, chunks, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(chunks[0], plain[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("shape", [(5, 6, 4), (5, 4, 2, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_every_layout_and_mask(
    monkeypatch: pytest.MonkeyPatch, task: Any, shape: tuple[int, ...], masked: bool
) -> None:
    positions = (*shape[:1], *shape[2:]) if len(shape) == 4 else shape[:-1]
    mask = torch.rand(positions, generator=torch.Generator().manual_seed(3)) < 0.5 if masked else None
    if mask is not None:
        mask[2] = False  # a chunk with nothing in it
    criterion = SoftTarget(2.0, task=task)
    plain, chunks = both_ways(
        monkeypatch,
        lambda s, t: criterion(Outputs(s, mask=mask), Outputs(t), None),
        draw(*shape, seed=1),
        draw(*shape, seed=2),
    )
    for expected, found in zip(plain, chunks, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("small_chunks")
class TestGradient:
    @pytest.mark.parametrize("formula", FORMULAS)
    @pytest.mark.parametrize("divergence", DIVERGENCES)
    def test_is_the_derivative(self, formula: Any, divergence: str) -> None:
        student, teacher = draw(7, 5, seed=1).requires_grad_(), draw(7, 5, seed=2).requires_grad_()
        assert torch.autograd.gradcheck(lambda s, t: formula(s, t, 2.0, divergence, 0.3), (student, teacher))

    @pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
    def test_goes_where_it_is_wanted(self, wanted: tuple[bool, bool]) -> None:
        student, teacher = draw(9, 7, seed=1), draw(9, 7, seed=2)
        _, gradient_s, gradient_t = value_and_gradients(lambda s, t: soft_target(s, t, 2.0), student, teacher)
        student.requires_grad_(wanted[0])
        teacher.requires_grad_(wanted[1])
        value = soft_target(student, teacher, 2.0)
        assert value.requires_grad == any(wanted)
        if any(wanted):
            (3 * value).backward()
        for leaf, expected, want in ((student, gradient_s, wanted[0]), (teacher, gradient_t, wanted[1])):
            assert (leaf.grad is not None) == want
            assert not want or torch.equal(leaf.grad, expected)  # type: ignore[arg-type]

    def test_a_retained_graph_gives_it_again(self) -> None:
        student, teacher = draw(9, 7, seed=1).requires_grad_(), draw(9, 7, seed=2)
        value = soft_target(student, teacher)
        first = torch.autograd.grad(value, student, retain_graph=True)[0].clone()
        again = torch.autograd.grad(2 * value, student)[0]
        assert torch.equal(again, 2 * first)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(value, student)

    def test_there_is_none_without_grad(self) -> None:
        with torch.no_grad():
            assert not soft_target(draw(9, 7, seed=1).requires_grad_(), draw(9, 7, seed=2)).requires_grad

    @pytest.mark.parametrize("shape", [(4, 6), (6, 5), (7, 4)])
    def test_a_mask_that_does_not_fit_is_refused(self, shape: tuple[int, int]) -> None:
        logits = draw(6, 4, 5, seed=1)
        with pytest.raises(ValueError, match=r"a mask of shape .* does not fit logits \[6, 4, 5\]"):
            SoftTarget()(Outputs(logits, mask=torch.ones(shape)), Outputs(logits), None)

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="do not match teacher logits"):
            soft_target(draw(9, 7, seed=1), draw(1, 7, seed=1))

    def test_a_caller_may_be_compiled(self) -> None:
        student, teacher = draw(9, 7, seed=1), draw(9, 7, seed=2)
        expected = soft_target(student, teacher)
        compiled = torch.compile(lambda s, t: soft_target(s, t), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(student, teacher), expected, rtol=1e-12, atol=0)


class LiveBytes(TorchDispatchMode):
    """The most bytes that storages made within it held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = {z.untyped_storage()._cdata for z in torch.utils._pytree.tree_leaves(args) if isinstance(z, Tensor)}
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in inputs:
                storage = tensor.untyped_storage()
                self.sizes[storage._cdata] = (
                    torch.multiprocessing.reductions.StorageWeakRef(storage),
                    storage.nbytes(),
                )
        self.sizes = {key: pair for key, pair in self.sizes.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.sizes.values()))
        return result


def peak_in_logits(loss: Loss, dtype: torch.dtype = torch.float32) -> float:
    """The peak of forward and backward, above both inputs, in sizes of the logits."""
    student, teacher = draw(512, 16_000, seed=1, dtype=dtype).requires_grad_(), draw(512, 16_000, seed=2, dtype=dtype)
    with LiveBytes() as live:
        loss(student, teacher).backward()
    assert student.grad is not None
    return live.peak / (student.numel() * student.element_size())


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    return 16 * F.kl_div(F.log_softmax(student / 4, -1), F.softmax(teacher / 4, -1), reduction="batchmean")


@pytest.mark.slow
def test_nothing_of_the_logits_size_but_the_gradient_is_held() -> None:
    peaks = {
        divergence: peak_in_logits(lambda s, t, d=divergence: soft_target(s, t, 4.0, d)) for divergence in DIVERGENCES
    }  # type: ignore[misc]
    assert all(1 <= peak < 1.75 for peak in peaks.values()), peaks
    assert peak_in_logits(naive) > 4
    assert peaks["forward"] < 0.35 * peak_in_logits(naive)


def test_half_precision_logits_are_never_widened_whole() -> None:
    assert peak_in_logits(lambda s, t: soft_target(s, t), torch.bfloat16) < 2.5
