"""Logits as rows of classes."""

import pytest
import torch

from lit_distill import Outputs
from lit_distill.criteria.ops.rows import check_same_classes, paired_rows, valid_rows, wide_rows


def test_valid_rows_lay_every_form_out_alike() -> None:
    rows = torch.arange(24.0).reshape(12, 2)
    pixels = rows.reshape(2, 2, 3, 2).permute(0, 3, 1, 2)
    assert torch.equal(valid_rows(rows), rows)
    assert torch.equal(valid_rows(rows.reshape(3, 4, 2)), rows)
    assert torch.equal(valid_rows(pixels), rows)
    keep = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0])
    assert torch.equal(valid_rows(rows, keep), rows[keep.bool()])
    assert torch.equal(valid_rows(rows.reshape(3, 4, 2), keep.reshape(3, 4)), rows[keep.bool()])
    assert torch.equal(valid_rows(pixels, keep.reshape(2, 2, 3)), rows[keep.bool()])


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5, 6, 7)])
def test_other_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must be \[B, C\], \[B, T, C\], \[B, C, H, W\] or \[B, C, D, H, W\]"):
        valid_rows(torch.zeros(shape))


def test_paired_rows_use_the_students_mask_for_both() -> None:
    logits, mask = torch.arange(8.0).reshape(1, 4, 2), torch.tensor([[True, False, True, False]])
    rows_s, rows_t = paired_rows(Outputs(logits, mask=mask), Outputs(logits + 1))
    assert torch.equal(rows_s, logits[0, [0, 2]])
    assert torch.equal(rows_t, logits[0, [0, 2]] + 1)


def test_check_same_classes_says_what_differs() -> None:
    check_same_classes(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="the student has 3 classes and the teacher 10"):
        check_same_classes(torch.zeros(2, 4, 3), torch.zeros(2, 4, 10))
    with pytest.raises(ValueError, match=r"\[2, 3, 4, 4\] do not match teacher logits \[2, 3, 8, 8\]"):
        check_same_classes(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8))


def test_wide_rows_are_float32_and_standardized_on_request() -> None:
    logits = torch.tensor([[[0.0, 2.0], [4.0, 0.0]]], dtype=torch.bfloat16)
    rows_s, rows_t = wide_rows(logits, 2 * logits)
    assert rows_s.dtype == torch.float32
    assert rows_t.tolist() == [[0.0, 4.0], [8.0, 0.0]]
    half = 0.5**0.5  # two numbers, minus their mean and over their unbiased deviation
    for rows in wide_rows(logits, 2 * logits, standardize=True):
        torch.testing.assert_close(rows, torch.tensor([[-half, half], [half, -half]]))
