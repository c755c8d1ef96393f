"""Similarities among the tokens of one image or sequence: the Gram anchoring of DINOv3, and its softmax."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_distill.batch.positions import position_mask
from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO, Pairing
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.ops.features import unit_length
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_temperature
from lit_distill.utils.grids import resize_map, split_grid, tokens_to_map

Relation = Literal["gram", "softmax"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)


def token_relation(
    student: Tensor,
    teacher: Tensor,
    kind: Relation = "gram",
    temperature: float = 0.07,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the difference of token similarities ([Siméoni et al. 2025](https://arxiv.org/abs/2508.10104), section 4.2).

    $$ \mathrm{mean}\,(G^s - G^t)^2, \quad G = X X^\top $$

    This is ``gram``, over pairs of tokens; ``X`` has rows of length 1. ``softmax`` is ``mean KL(softmax(G_t / T) ||
    softmax(G_s / T))`` over tokens, without a factor T²: the rows are similarities, not logits.

    Args:
        student: Tokens ``[B, N, D_s]``.
        teacher: Tokens ``[B, N, D_t]``; the width need not match.
        kind: ``gram`` or ``softmax``.
        temperature: T above 0; only read by ``softmax``.
        mask: True at the tokens that count, ``[B, N]``; all if None.

    Examples:
        >>> student, teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0], [1.0]]])
        >>> token_relation(student, teacher)
        tensor(0.5000)
    """
    gram_s, gram_t = (tokens @ tokens.mT for tokens in (unit_length(student), unit_length(teacher)))
    pairs = None if mask is None else mask.unsqueeze(1) & mask.unsqueeze(2)
    if kind == "gram":
        squared = (gram_s - gram_t).square()
        return squared.mean() if pairs is None else (squared * pairs).sum() / pairs.sum().clamp(min=1)
    divergence = softmax_kl(gram_s / temperature, gram_t / temperature, None if mask is None else mask.unsqueeze(1))
    return divergence.mean() if mask is None else (divergence * mask).sum() / mask.sum().clamp(min=1)


def patches(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return two images' maps ``[B, C, H, W]`` or tokens as tokens ``[B, N, D]`` at the same positions, or refuse them.

    If tokens form a square after at most 8 prefix tokens (class, registers), those are dropped; the larger of two grids is
    average-pooled. Tokens of equal number that form no square are kept as they are.
    """
    if min(student.dim(), teacher.dim()) < 3 or max(student.dim(), teacher.dim()) > 5:
        raise ValueError(
            f"relations of tokens need maps [B, C, H, W] or tokens [B, N, D]; these are {list(student.shape)} and "
            f"{list(teacher.shape)}."
        )
    no_grid = any(feature.dim() == 3 and split_grid(feature.shape[1]) is None for feature in (student, teacher))
    if no_grid:
        if student.dim() == teacher.dim() and student.shape[1] == teacher.shape[1]:
            return student, teacher
        raise ValueError(
            f"tokens of {list(student.shape)} and {list(teacher.shape)} cannot be matched: one is not a square grid, and "
            "their numbers differ."
        )
    map_s, map_t = (feature if feature.dim() > 3 else tokens_to_map(feature) for feature in (student, teacher))
    size = tuple(min(a, b) for a, b in zip(map_s.shape[2:], map_t.shape[2:], strict=True))
    tokens_s, tokens_t = (resize_map(grid, size).flatten(2).mT for grid in (map_s, map_t))
    return tokens_s, tokens_t


class TokenRelation(FeatureCriterion):
    r"""Tokens of a sample that are alike to the teacher are alike to the student; the mean over pairs of layers.

    $$ \mathrm{mean}\,(G^s - G^t)^2, \quad G = X X^\top $$
    ([Siméoni et al. 2025](https://arxiv.org/abs/2508.10104)), see ``token_relation``.

    Widths, heads and grids need not match, and there are no parameters: CNN maps can be compared with ViT tokens.
    ``gram`` is DINOv3's Gram anchoring, there between two states of one network, with a weight of 2; its authors' code
    can set negative similarities to 0, which their own training does not use, nor does this. ``softmax`` is the local
    half of LightlyTrain's third distillation method, with a weight of 1.

    There are ``B N²`` similarities per network, and as many for the backward pass: 196 tokens are cheap, 4,096 are not.

    If the batch has a mask of the tokens, ``[B, N]``, they are a sequence: those outside it do not count, and none is
    dropped or resized. Otherwise tokens are patches of an image (``patches``).

    Args:
        student_layer: A layer reference, a glob or a list of them; feature maps or tokens; or ``auto``, the last
            stage's end.
        teacher_layer: The teacher's layers, as many.
        kind: ``gram`` or ``softmax``.
        temperature: The softmax temperature, above 0; only read by ``softmax``.
        pair: ``order`` or ``depth``, for lists of unequal length; see ``FeatureCriterion``.

    Raises:
        ValueError: An argument is none of its choices, or the temperature is not above 0.

    Examples:
        >>> student = Outputs(torch.zeros(1, 2), {"blocks.3": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])})
        >>> teacher = Outputs(torch.zeros(1, 2), {"blocks.11": torch.tensor([[[1.0], [1.0]]])})
        >>> TokenRelation("blocks.3", "blocks.11")(student, teacher)
        tensor(0.5000)
    """

    citation = Citation(
        "Gram / token relation",
        'Siméoni et al. 2025, "DINOv3", arXiv 2508.10104',
        weight=2,
        url="https://arxiv.org/abs/2508.10104",
    )
    auto_stages = "last"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        kind: Relation = "gram",
        temperature: float = 0.07,
        pair: Pairing = "order",
    ) -> None:
        super().__init__(student_layer, teacher_layer, pair=pair)
        check_choice("kind", kind, RELATIONS)
        self.kind: Relation = kind
        self.temperature: float = check_temperature(temperature)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        values = []
        for feature_s, feature_t in self.pair_features(student, teacher):
            mask = token_mask(student.mask, feature_s, feature_t)
            tokens = (feature_s, feature_t) if mask is not None else patches(feature_s, feature_t)
            values.append(token_relation(*tokens, self.kind, self.temperature, mask))
        return torch.stack(values).mean()


def token_mask(mask: Tensor | None, student: Tensor, teacher: Tensor) -> Tensor | None:
    """Return the mask ``[B, N]`` of both networks' tokens; None if there is none, or if it is one of pixels.

    Raises:
        ValueError: There is a mask of tokens, and a feature has other positions.
    """
    if mask is None or mask.dim() != 2:
        return None
    found = position_mask(mask, student)
    for feature in (student, teacher):
        own = position_mask(mask, feature) if feature.dim() == 3 else None
        if own is None or found is None or own.shape != found.shape:
            raise ValueError(
                f"the batch's mask is {list(mask.shape)}, [samples, tokens], and does not fit a feature of "
                f"{list(feature.shape)}; choose a layer that gives one vector per token."
            )
    return found.bool() if found is not None else None
