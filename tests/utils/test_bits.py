"""Digests see every bit and every place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_distill.utils.bits import value_digest


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("size", [1, 7, 8, 1001])
def test_every_bit_counts(dtype: torch.dtype, size: int) -> None:
    x = torch.arange(size).to(dtype)
    known = value_digest(x)
    assert known == value_digest(x.clone())
    raw = x.view(torch.uint8)
    for place in {0, len(raw) // 2, len(raw) - 1}:
        for bit in (0, 3, 7):
            raw[place] ^= 1 << bit
            assert value_digest(x) != known, (place, bit)
            raw[place] ^= 1 << bit
    assert value_digest(x) == known


def test_places_signs_shapes_and_types_count() -> None:
    x = torch.randn(300_000, dtype=torch.float64)
    others: list[Any] = [x.flip(0), x.view(2, -1), x.float(), x[:-1], -x]
    halves = torch.cat([x[131072:262144], x[:131072], x[262144:]])  # whole pieces of the sum exchanged
    two = x.clone()
    two[[5, 200_000]] *= -1
    found = [value_digest(one) for one in (x, *others, halves, two)]
    assert len(set(found)) == len(found)
    assert value_digest(torch.zeros(4)) != value_digest(-torch.zeros(4))
    assert value_digest(torch.zeros(4)) != value_digest(torch.zeros(5))


def test_a_nan_equals_itself_by_its_payload() -> None:
    nan = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert value_digest(nan[:1]) == value_digest(nan[:1].clone())
    assert value_digest(nan[:1]) != value_digest(nan[1:])


KINDS: dict[str, Tensor] = {
    "sparse": torch.eye(3).to_sparse(),
    "CSR": torch.eye(3).to_sparse_csr(),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "quantised": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
    "by channel": torch.quantize_per_channel(torch.randn(4, 4), torch.ones(4), torch.zeros(4), 0, torch.qint8),
    "complex": torch.randn(3, dtype=torch.complex64),
    "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    "bool": torch.ones(3, dtype=torch.bool),
    "empty": torch.empty(0),
    "meta": torch.empty(2, device="meta"),
    "float8": torch.randn(8).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(3.0),
    "offset": torch.randn(5)[1:],
    "transposed": torch.randn(3, 4).t(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_every_kind(kind: str) -> None:
    assert value_digest(KINDS[kind]) == value_digest(KINDS[kind])
    assert value_digest(KINDS[kind]) != value_digest(torch.full((3,), 0.5))


def test_layout_in_memory_does_not_count() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert value_digest(x) == value_digest(x.contiguous(memory_format=torch.channels_last))
