"""Relations of self-attention's queries, keys and values.

Wang, Bao, Huang, Dong and Wei 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
Transformers", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, expand_layers
from lit_distill.criteria.ops.softmax_kl import softmax_kl
from lit_distill.criteria.token_relation import token_mask
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_whole, layer_tuple


def attention_relation(student: Tensor, teacher: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """``1 / (A |x|) sum_a sum_t KL(R^T_at || R^S_at)`` with ``R_a = softmax(X_a X_a^T / sqrt(d))``: one of the relations.

    ``X`` (queries, keys or values, the network's own heads put together) is cut into ``A`` relation heads of width
    ``d = D / A``, so that both networks have as many relations whatever their widths and heads (section 3.1).

    Args:
        student: ``[B, N, D_s]``.
        teacher: ``[B, N, D_t]``.
        heads: ``A``, which divides both widths.
        mask: True at the tokens that count, ``[B, N]``; they alone are attended to, and averaged over.
    """
    scores_s, scores_t = _scores(student, heads), _scores(teacher, heads)
    if mask is None:
        return softmax_kl(scores_s, scores_t).mean()
    divergence = softmax_kl(scores_s, scores_t, mask[:, None, None, :]).mean(1)
    return (divergence * mask).sum() / mask.sum().clamp(min=1)


def _scores(vectors: Tensor, heads: int) -> Tensor:
    """``X_a X_a^T / sqrt(d)`` of ``[B, N, D]`` for each relation head: ``[B, A, N, N]``."""
    split = vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
    return split @ split.mT / math.sqrt(split.shape[-1])


class MiniLM(Criterion):
    """The relations among a layer's queries, among its keys and among its values; the sum of the three, as in the paper.

    Widths, heads and numbers of layers may differ, and there are no parameters: one layer of the teacher teaches the
    student's last one. The paper takes the last layer of a base-size teacher, and an upper middle one of a large teacher
    (the 21st of BERT-large's 24); 48 relation heads for base and 64 for large ones. It weighs the three equally.

    Both networks must see the same tokens. Time and memory are ``A B N²`` for each relation and network: at 48 heads, 128
    tokens and 32 samples some 100 MB a relation. Padding must be in the batch's mask (``attention_mask``), or it counts.

    Args:
        student_layer: The three layers that give queries, keys and values, in this order (``…attention.self.query`` and so
            on in Hugging Face's BERT, or a glob that matches the three in it); or one that gives all three side by side
            (``blocks.11.attn.qkv`` in timm).
        teacher_layer: The teacher's three, or its one.
        relation_heads: ``A``, which divides both networks' widths.

    Raises:
        ValueError: ``relation_heads`` is below 1; or, when built, the layers are not three or one, or do not fit.
    """

    about = About(
        "MiniLMv2",
        'Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained '
        'Transformers", Findings of ACL',
        weight=1,
    )

    def __init__(
        self, student_layer: str | list[str], teacher_layer: str | list[str], relation_heads: int = 48
    ) -> None:
        super().__init__()
        self._student_layers = layer_tuple(student_layer, "student_layer")
        self._teacher_layers = layer_tuple(teacher_layer, "teacher_layer")
        self.relation_heads = check_whole("relation_heads", relation_heads, least=1)

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._student_layers

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return self._teacher_layers

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Check that the layers fit.

        Raises:
            ValueError: They do not; the message says which and why.
        """
        self._check(self._vectors(student, teacher))

    def _vectors(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Each network's queries, keys and values."""
        names_s = expand_layers(self._student_layers, student, "student")
        names_t = expand_layers(self._teacher_layers, teacher, "teacher")
        return _split(names_s, student, "student"), _split(names_t, teacher, "teacher")

    def _check(self, vectors: tuple[list[Tensor], list[Tensor]]) -> None:
        for owner, found in zip(("student", "teacher"), vectors, strict=True):
            width = found[0].shape[-1]
            if width % self.relation_heads:
                common = math.gcd(*(x.shape[-1] for network in vectors for x in network))
                raise ValueError(
                    f"{self.relation_heads} relation heads do not divide the {owner}'s width {width}; choose a divisor of "
                    f"{common}, which both networks' widths share."
                )
        tokens_s, tokens_t = vectors[0][0].shape[1], vectors[1][0].shape[1]
        if tokens_s != tokens_t:
            raise ValueError(f"the student has {tokens_s} tokens and the teacher {tokens_t}; both must see the same.")

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        vectors = self._vectors(student, teacher)
        self._check(vectors)
        values = []
        for feature_s, feature_t in zip(*vectors, strict=True):
            mask = token_mask(student.mask, feature_s, feature_t)
            values.append(attention_relation(feature_s, feature_t, self.relation_heads, mask))
        return torch.stack(values).sum()


def _split(names: Sequence[str], outputs: Outputs, owner: str) -> list[Tensor]:
    """Queries, keys and values ``[B, N, D]``, in float32 or wider, from three layers or from one that gives them all."""
    features = [at_least_float32(outputs.features[name]) for name in names]
    for name, feature in zip(names, features, strict=True):
        if feature.dim() != 3:
            raise ValueError(f"the {owner}'s {name!r} gives {list(feature.shape)} and no tokens [B, N, D].")
    if len(features) == 3:
        return features
    if len(features) != 1:
        raise ValueError(
            f"the {owner}'s layers must be three (queries, keys, values) or one that gives all three; these are "
            f"{len(features)}: {', '.join(names)}."
        )
    if features[0].shape[-1] % 3:
        raise ValueError(
            f"the {owner}'s {names[0]!r} gives width {features[0].shape[-1]}, which is not three times a width; name one "
            "layer for queries, keys and values side by side, or three layers."
        )
    return list(features[0].chunk(3, -1))
