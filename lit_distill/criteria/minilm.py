"""MiniLMv2: relations among the queries, keys and values of self-attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_distill.criteria.base import Citation, Criterion, at_least_float32
from lit_distill.criteria.layers import AUTO, checked_layers, expand_layers
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.token_relation import token_mask
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_whole

_HEADS = 48  # of the paper, for a base-size teacher


def attention_relation(student: Tensor, teacher: Tensor, heads: int = 48, mask: Tensor | None = None) -> Tensor:
    r"""Return one relation of MiniLMv2 ([Wang et al. 2021](https://arxiv.org/abs/2012.15828), section 3.1).

    $$ \frac{1}{A\,|x|} \sum_{a,t} \mathrm{KL}(R^T_{at} \| R^S_{at}), \quad R_a = \mathrm{softmax}(X_a X_a^\top / \sqrt{d}) $$

    ``X`` (queries, keys or values, the network's own heads concatenated) is split into ``A`` relation heads of width
    ``d = D / A``, so that both networks have the same number of relations whatever their widths and heads.

    Args:
        student: ``[B, N, D_s]``.
        teacher: ``[B, N, D_t]``.
        heads: ``A``, which divides both widths; 48 in the paper for a base-size teacher.
        mask: True at the tokens that count, ``[B, N]``; only those are attended to and averaged over.

    Examples:
        >>> student, teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
        >>> attention_relation(student, teacher, heads=1)
        tensor(0.2250)
    """
    scores_s, scores_t = _scores(student, heads), _scores(teacher, heads)
    if mask is None:
        return softmax_kl(scores_s, scores_t).mean()
    divergence = softmax_kl(scores_s, scores_t, mask[:, None, None, :]).mean(1)
    return (divergence * mask).sum() / mask.sum().clamp(min=1)


def _scores(vectors: Tensor, heads: int) -> Tensor:
    """Return ``X_a X_a^T / sqrt(d)`` of ``[B, N, D]`` for each relation head: ``[B, A, N, N]``."""
    split = vectors.reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
    return split @ split.mT / math.sqrt(split.shape[-1])


def minilm(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int = 48, mask: Tensor | None = None) -> Tensor:
    r"""Return the sum of MiniLMv2's three relations ([Wang et al. 2021](https://arxiv.org/abs/2012.15828), section 3).

    $$ L_{QQ} + L_{KK} + L_{VV} $$

    Args:
        student: Queries, keys and values ``[B, N, D_s]``.
        teacher: Queries, keys and values ``[B, N, D_t]``.
        heads: Number of relation heads, which divides both widths; 48 in the paper for a base-size teacher.
        mask: True at the tokens that count, ``[B, N]``; only those are attended to and averaged over.

    Examples:
        >>> student, teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
        >>> minilm([student] * 3, [teacher] * 3, heads=1)
        tensor(0.6751)
    """
    return torch.stack([attention_relation(s, t, heads, mask) for s, t in zip(student, teacher, strict=True)]).sum()


class MiniLM(Criterion):
    r"""The relations among a layer's queries, among its keys and among its values; the sum of the three.

    $$ L_{QQ} + L_{KK} + L_{VV} $$ ([Wang et al. 2021](https://arxiv.org/abs/2012.15828)), see ``minilm``.

    Widths, heads and numbers of layers may differ, and there are no parameters: one layer of the teacher teaches the
    student's last one. The paper takes the last layer of a base-size teacher, and an upper middle one of a large teacher
    (the 21st of BERT-large's 24); 48 relation heads for base and 64 for large ones. Both networks must see the same tokens.
    Time and memory are ``A B N²`` per relation and network: at 48 heads, 128 tokens and 32 samples some 100 MB per
    relation. Padding must be in the batch's mask (``attention_mask``), or it counts.

    Args:
        student_layer: The layers of queries, keys and values, in this order (``…attention.self.query`` and so on in Hugging
            Face's BERT, or a glob); one that gives all three side by side (``blocks.11.attn.qkv`` in timm, ``…:qkv`` for an
            ``nn.MultiheadAttention``); or ``auto``, those of the last self-attention.
        teacher_layer: The teacher's three layers, or its one.
        relation_heads: ``A``, which divides both networks' widths; the largest up to 48 that does, if None.

    Raises:
        ValueError: ``relation_heads`` is below 1; or, when built, the layers are not three or one, or do not fit.

    Examples:
        >>> qkv = torch.eye(2).repeat(1, 1, 3)  # 1 sample, 2 tokens, width 3 x 2
        >>> student, teacher = Outputs(torch.zeros(1, 2), {"qkv": qkv}), Outputs(torch.zeros(1, 2), {"qkv": 2 * qkv})
        >>> MiniLM("qkv", "qkv", relation_heads=1)(student, teacher)
        tensor(0.6751)
    """

    auto_stages = "attention"
    citation = Citation(
        "MiniLMv2",
        'Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained '
        'Transformers", Findings of ACL',
        weight=1,
        url="https://arxiv.org/abs/2012.15828",
    )

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        teacher_layer: str | list[str] = AUTO,
        relation_heads: int | None = None,
    ) -> None:
        super().__init__()
        self._student_layers = checked_layers(student_layer, "student_layer")
        self._teacher_layers = checked_layers(teacher_layer, "teacher_layer")
        self.relation_heads = None if relation_heads is None else check_whole("relation_heads", relation_heads, least=1)

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._student_layers if self.found_layers is None else self.found_layers[0]

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return self._teacher_layers if self.found_layers is None else self.found_layers[1]

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Check that the layers fit."""
        self._check(self._vectors(student, teacher))

    def _vectors(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return the queries, keys and values of each network."""
        names_s = expand_layers(self.student_layers, student, "student")
        names_t = expand_layers(self.teacher_layers, teacher, "teacher")
        return _split(names_s, student, "student"), _split(names_t, teacher, "teacher")

    def _check(self, vectors: tuple[list[Tensor], list[Tensor]]) -> int:
        """Return the number of relation heads; refuse vectors that do not fit."""
        common = math.gcd(*(x.shape[-1] for network in vectors for x in network))
        heads = self.relation_heads
        if heads is None:
            heads = max(number for number in range(1, _HEADS + 1) if common % number == 0)
        for owner, found in zip(("student", "teacher"), vectors, strict=True):
            width = next((x.shape[-1] for x in found if x.shape[-1] % heads), None)
            if width is not None:
                raise ValueError(
                    f"{heads} relation heads do not divide the {owner}'s width {width}; choose a divisor of "
                    f"{common}, which both networks' widths share."
                )
        tokens_s, tokens_t = vectors[0][0].shape[1], vectors[1][0].shape[1]
        if tokens_s != tokens_t:
            raise ValueError(f"the student has {tokens_s} tokens and the teacher {tokens_t}; both must see the same.")
        return heads

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        vectors = self._vectors(student, teacher)
        heads = self._check(vectors)
        masks = [token_mask(student.mask, *pair) for pair in zip(*vectors, strict=True)]
        return minilm(*vectors, heads, masks[0])


def _split(names: Sequence[str], outputs: Outputs, owner: str) -> list[Tensor]:
    """Return queries, keys and values ``[B, N, D]``, in float32 or wider, from three layers or from one."""
    features = [at_least_float32(outputs.features[name]) for name in names]
    for name, feature in zip(names, features, strict=True):
        if feature.dim() != 3:
            raise ValueError(f"the {owner}'s {name!r} gives {list(feature.shape)}, not tokens [B, N, D].")
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
