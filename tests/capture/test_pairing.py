"""Pairs of two networks' stages."""

from __future__ import annotations

import torch

from lit_distill.capture.pairing import match, pair_stages
from lit_distill.capture.stages import Block, Stages


def anything(student: Block, teacher: Block) -> bool:
    return True


def pyramid(*sides: int, name: str = "stage") -> Stages:
    blocks = tuple(
        Block(f"{name}{place}", torch.zeros(2, 3, side, side), place / len(sides))
        for place, side in enumerate(sides, start=1)
    )
    return Stages(blocks, blocks)


def transformer(count: int, *ends: int, tokens: int = 16) -> Stages:
    blocks = tuple(Block(f"block{n}", torch.zeros(2, tokens, 4), n / count) for n in range(1, count + 1))
    return Stages(tuple(blocks[end - 1] for end in ends), blocks)


def names(student: Stages, teacher: Stages) -> list[tuple[str, str]]:
    return [(one.layer, other.layer) for one, other in pair_stages(student, teacher, anything)]


def test_stages_of_one_resolution_pair() -> None:
    found = names(pyramid(56, 28, 14, 7), pyramid(112, 56, 28, 14, 7))
    assert found == [("stage1", "stage2"), ("stage2", "stage3"), ("stage3", "stage4"), ("stage4", "stage5")]
    assert names(pyramid(28, 14), pyramid(56, 28, 14, 7)) == [("stage1", "stage2"), ("stage2", "stage3")]


def test_stages_pair_with_the_blocks_at_their_share_of_the_depth() -> None:
    found = names(pyramid(56, 28, 14), transformer(12, 3, 6, 9, 12))
    assert found == [("stage1", "block4"), ("stage2", "block8"), ("stage3", "block12")]
    assert [pair[::-1] for pair in names(transformer(12, 3, 6, 9, 12), pyramid(56, 28, 14))] == found


def test_two_transformers_are_cut_at_parts_that_divide_both() -> None:
    assert names(transformer(6, 2, 3, 5, 6), transformer(12, 3, 6, 9, 12)) == [
        ("block2", "block4"),
        ("block4", "block8"),
        ("block6", "block12"),
    ]
    assert names(transformer(24, 6, 12, 18, 24), transformer(4, 1, 2, 3, 4))[0] == ("block6", "block1")
    assert names(transformer(5, 2, 3, 4, 5), transformer(12, 3, 6, 9, 12)) == [
        ("block2", "block5"),
        ("block3", "block7"),
        ("block4", "block10"),
        ("block5", "block12"),
    ]


def test_pairs_keep_the_order_and_leave_out_what_does_not_fit() -> None:
    student, teacher = pyramid(8, 4, 2), pyramid(8, 4, 2)
    found = match(student.ends, teacher.ends, lambda one, other: one.layer != "stage2")
    assert [one.layer for one, _ in found] == ["stage1", "stage3"]
    assert not match(student.ends, teacher.ends, lambda one, other: False)


def test_the_inputs_of_the_heads_are_the_last_resort() -> None:
    head = Block("head:input", torch.zeros(2, 3), 1.0)
    maps = Stages(pyramid(8, 4).ends, pyramid(8, 4).blocks, head)
    vectors = Block("hidden", torch.zeros(2, 3), 1.0)
    perceptron = Stages((vectors,), (vectors,))
    pairs = pair_stages(perceptron, maps, lambda one, other: one.feature.dim() >= other.feature.dim())
    assert pairs == [(vectors, head)]
