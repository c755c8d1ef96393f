"""Projectors, which bring a student's feature to the shape of a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_distill.criteria.ops.features import pooled
from lit_distill.utils.grids import feature_kind, map_to_tokens, resize_map, resize_tokens, tokens_to_map

Norm = Literal["none", "batch", "layer"]
NORMS: tuple[Norm, ...] = get_args(Norm)
Kind = Literal["auto", "linear", "orthogonal"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_DENSE = ("map", "volume")


class SizedProjector(nn.Module):
    """Projector that resizes positions to those of the teacher's feature at hand; its own layers only know widths."""

    def forward(self, feature: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Project a feature to the shape of the teacher's in this batch; if None, that with which the projector was made."""
        raise NotImplementedError


class Projector(SizedProjector):
    """Resizes a student feature and maps it linearly to the shape of a teacher feature.

    The spatial part comes first and has no parameters: a larger map is average-pooled, a smaller one interpolated; tokens
    become a map by dropping prefix tokens (class, registers), and a map becomes tokens with its mean as the prefix tokens;
    maps and tokens become a vector by averaging. Then one linear layer (a 1x1 convolution on maps) maps the channels: with
    ``auto`` only if they differ, with ``linear`` always. An ``orthogonal`` map is always there, too; it has no bias, and
    its matrix is kept orthonormal (in its rows or its columns, whichever are fewer), which preserves lengths and angles of
    the smaller space ([Miles, Elezi and Deng 2024](https://arxiv.org/abs/2403.06213), VkD).

    Args:
        student: Shape of the student's feature, batch included.
        teacher: Shape of the teacher's feature, batch included.
        norm: Normalisation after the linear map: ``none``, ``batch`` or ``layer``.
        kind: ``auto``, ``linear`` or ``orthogonal``.

    Raises:
        ValueError: The pair cannot be matched (a vector has no positions to fill a map or tokens with).

    Examples:
        >>> Projector([2, 8, 4, 4], [2, 16, 2, 2])(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 16, 2, 2])
    """

    def __init__(
        self, student: Sequence[int], teacher: Sequence[int], norm: Norm = "none", kind: Kind = "auto"
    ) -> None:
        super().__init__()
        self.source, self.target = feature_kind(student), feature_kind(teacher)
        if {self.source, self.target} == set(_DENSE):
            raise ValueError(
                f"a student {self.source} {list(student)} and a teacher {self.target} {list(teacher)} have no positions in "
                "common; choose pooled layers."
            )
        if self.source == "vector" and self.target != "vector":
            raise ValueError(
                f"a student vector {list(student)} cannot fill a teacher {self.target} {list(teacher)}; choose an "
                "earlier layer of the student, or a pooled layer of the teacher."
            )
        self.shape = tuple(teacher)
        self.channels = _channels(teacher)
        width = _channels(student)
        needed = width != self.channels or norm != "none" or kind != "auto"
        self.linear = self._make_linear(width, norm, kind) if needed else nn.Identity()
        self.norm = self._make_norm(norm)

    def _make_linear(self, width: int, norm: Norm, kind: Kind) -> nn.Module:
        dense = self.target in _DENSE
        if kind == "orthogonal":
            return OrthogonalMap(width, self.channels, channel_dim=1 if dense else -1)
        bias = norm == "none"
        if dense:
            convolution = nn.Conv2d if self.target == "map" else nn.Conv3d
            return convolution(width, self.channels, kernel_size=1, bias=bias)
        return nn.Linear(width, self.channels, bias=bias)

    def _make_norm(self, norm: Norm) -> nn.Module:
        if norm == "none":
            return nn.Identity()
        if norm == "layer":
            return nn.GroupNorm(1, self.channels) if self.target in _DENSE else nn.LayerNorm(self.channels)
        if norm == "batch":
            kinds: dict[str, type[nn.Module]] = {"map": nn.BatchNorm2d, "volume": nn.BatchNorm3d}
            return kinds.get(self.target, nn.BatchNorm1d)(self.channels)
        raise ValueError(f"norm must be 'none', 'batch' or 'layer', not {norm!r}.")

    def forward(self, feature: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Project ``feature`` (the student's kind) to the teacher's shape, ``[B, …]``."""
        resized = self._resize(feature, self.shape if shape is None else shape)
        weight = next(self.linear.parameters(), None)
        if weight is not None:
            resized = resized.to(weight.dtype)
        mapped: Tensor = self.linear(resized)
        turn = self.target == "tokens" and isinstance(self.norm, nn.BatchNorm1d)
        normed: Tensor = self.norm(mapped.transpose(1, 2) if turn else mapped)
        return normed.transpose(1, 2) if turn else normed

    def _resize(self, feature: Tensor, shape: Sequence[int]) -> Tensor:
        if self.target == "vector":
            return pooled(feature)
        if self.target in _DENSE:
            size = tuple(shape[2:])
            grid = feature if self.source == self.target else tokens_to_map(feature, size)
            return resize_map(grid, size)
        if self.source in _DENSE:
            return map_to_tokens(feature, shape[1])
        return resize_tokens(feature, shape[1])


class OrthogonalMap(nn.Module):
    """Linear map of the channels whose matrix is orthonormal in its rows or its columns, whichever are fewer.

    The matrix is ``B (I - A/2)^-1 (I + A/2)`` with ``A = X - X^T``, cut to its columns: ``B`` is orthogonal and fixed, and
    ``X`` is trained, from 0. It is the Cayley map of ``torch.nn.utils.parametrizations.orthogonal``, in float32 or wider,
    which that is not. Of PyTorch's other two, the matrix exponential costs ten times as much, and the reflections, its
    usual choice for oblong matrices, break under weight decay and averaging: these move its fixed signs off ±1, and it
    rounds them to 0.
    """

    base: Tensor

    def __init__(self, inputs: int, outputs: int, channel_dim: int = -1) -> None:
        super().__init__()
        larger, smaller = max(inputs, outputs), min(inputs, outputs)
        self.channel_dim = channel_dim
        self.transposed = inputs > outputs
        self.skew = nn.Parameter(torch.zeros(larger, smaller))
        self.register_buffer("base", nn.init.orthogonal_(torch.empty(larger, larger)))

    def matrix(self) -> Tensor:
        """Return the matrix ``[outputs, inputs]``, in float32 or wider."""
        wide = torch.promote_types(self.skew.dtype, torch.float32)
        larger, smaller = self.skew.shape
        lower = F.pad(self.skew.to(wide).tril(-1), (0, larger - smaller))
        half = (lower - lower.T) / 2
        identity = torch.eye(larger, dtype=wide, device=half.device)
        columns: Tensor = self.base.to(wide) @ torch.linalg.solve(identity - half, (identity + half)[:, :smaller])
        return columns.T if self.transposed else columns

    def forward(self, feature: Tensor) -> Tensor:
        """Map ``[…, inputs]`` to ``[…, outputs]``, with the channels at ``channel_dim``."""
        mapped = F.linear(feature.movedim(self.channel_dim, -1), self.matrix().to(feature.dtype))
        return mapped.movedim(-1, self.channel_dim)


class ProjectorEnsemble(SizedProjector):
    """Several projectors with different initial weights: ``mean_k relu(P_k f)``.

    It is PEFD's ([Chen et al. 2022](https://arxiv.org/abs/2210.15274), section 3). The norm comes before the ReLU; ``auto``
    means ``linear``, at equal widths too.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        count: int = 3,
        norm: Norm = "none",
        kind: Kind = "auto",
    ) -> None:
        super().__init__()
        chosen: Kind = "linear" if kind == "auto" else kind
        self.members = nn.ModuleList(Projector(student, teacher, norm, chosen) for _ in range(count))

    def forward(self, feature: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Project ``feature`` (the student's kind) to the teacher's shape, ``[B, …]``."""
        return torch.stack([F.relu(projector(feature, shape)) for projector in self.members]).mean(0)


def _channels(shape: Sequence[int]) -> int:
    return shape[1] if len(shape) > 3 else shape[-1]
