"""Mean of a loss over many rows of logits, computed in chunks: only the gradient is kept in full size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_distill.batch.labels import positions
from lit_distill.criteria.ops.rows import check_same_classes, valid_rows

RowLoss = Callable[[Tensor, Tensor], Tensor]

# Elements of a chunk. On CPU fewer leave cores idle at large vocabularies, and more leave the cache; an
# accelerator wants to be kept busy between two kernel launches.
_CPU_CHUNK = 2**19
_DEVICE_CHUNK = 2**24
_LEAST_CHUNKS = 8  # for fewer, the temporaries are small next to the rest of a training step


def mean_over_rows(loss: RowLoss, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average a loss over all rows that count.

    Large logits are processed in chunks of rows, with the same value and the same gradients. The gradient is
    then computed in the forward pass and kept in the logits' own type, so that it is the only tensor of the logits'
    size that is held; it cannot be differentiated again. Small logits, and those in a function that
    ``torch.compile`` traces, take the ordinary path.

    Args:
        loss: Maps a chunk of both networks' logits to a vector of losses, in float32 or wider; each must
            depend only on its own row. It receives the rows that count, ``[n, C]``, if there is a mask, or else the
            logits in their own layout.
        student: ``[N, C]``, ``[B, T, C]``, ``[B, C, H, W]`` or ``[B, C, D, H, W]``; without a mask, whatever ``loss`` takes.
        teacher: The same shape.
        mask: True at the rows that count: ``[N]``, ``[B, T]``, ``[B, H, W]`` or ``[B, D, H, W]``.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    check_same_classes(student, teacher)
    chunk = _CPU_CHUNK if student.device.type == "cpu" else _DEVICE_CHUNK
    if torch.compiler.is_compiling() or student.numel() < _LEAST_CHUNKS * chunk:
        values = loss(*_counting(student, teacher, mask))
        return values.mean() if values.numel() else values.sum()  # 0 if nothing counts
    _check_mask(student, mask)
    if student.dim() == 3 and student.is_contiguous() and teacher.is_contiguous():
        # Few sequences can be long: their positions are rows too.
        student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
        mask = mask.flatten() if mask is not None else None
    total, count = _ChunkedSum.apply(loss, chunk, torch.is_grad_enabled(), student, teacher, mask)
    mean: Tensor = total / max(count, 1)
    return mean


def _counting(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return (student, teacher) if mask is None else (valid_rows(student, mask), valid_rows(teacher, mask))


def _check_mask(logits: Tensor, mask: Tensor | None) -> None:
    """Refuse a mask of another shape before any chunk: some of its rows could fit by chance."""
    if mask is not None and mask.shape != positions(logits):
        raise ValueError(f"a mask of shape {list(mask.shape)} does not fit logits {list(logits.shape)}.")


def _slices(logits: Tensor, chunk: int) -> list[slice]:
    length = max(1, chunk // logits[0].numel())
    return [slice(start, start + length) for start in range(0, len(logits), length)]


class _ChunkedSum(torch.autograd.Function):
    """Sum of a loss over all rows, and their number."""

    @staticmethod
    def forward(
        ctx: Any, loss: RowLoss, chunk: int, enabled: bool, student: Tensor, teacher: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        wanted = [enabled and logits.requires_grad for logits in (student, teacher)]
        gradients = [torch.empty_like(z) if want else None for z, want in zip((student, teacher), wanted, strict=True)]
        slices = _slices(student, chunk)
        # One tensor, made beforehand: small ones that outlive a chunk would keep the allocator from using the
        # chunk's memory again, and cost as much as they save.
        sums = student.new_empty(len(slices), dtype=torch.promote_types(student.dtype, torch.float32))
        count = 0
        for index, rows in enumerate(slices):
            some_s = student[rows].detach().requires_grad_(wanted[0])
            some_t = teacher[rows].detach().requires_grad_(wanted[1])
            with torch.set_grad_enabled(any(wanted)):
                losses = loss(*_counting(some_s, some_t, mask[rows] if mask is not None else None))
                total = losses.sum()
            count += len(losses)
            sums[index] = total.detach()
            if any(wanted):
                _differentiate(total, (some_s, some_t), gradients, rows)
        ctx.gradients = gradients
        number = sums.new_tensor(count)
        ctx.mark_non_differentiable(number)
        return sums.sum(), number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total: Tensor, number: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("backward a second time through the same loss: pass retain_graph=True the first time.")
        if torch._C._autograd._get_current_graph_task_keep_graph():
            gradients = [z.clone() if z is not None else None for z in gradients]
        else:
            ctx.gradients = None  # handed on, not copied
        scaled = [z.mul_(total) if z is not None else None for z in gradients]
        return None, None, None, *scaled, None


def _differentiate(total: Tensor, some: tuple[Tensor, Tensor], gradients: list[Tensor | None], rows: slice) -> None:
    """Write the gradients of a chunk's loss into their rows, for the networks that want them."""
    found = iter(torch.autograd.grad(total, [logits for logits in some if logits.requires_grad]))
    for gradient in gradients:
        if gradient is not None:
            gradient[rows] = next(found)
