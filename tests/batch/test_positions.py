"""Which positions count, for logits and features alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_distill import BatchFormat, DistillationModule, LogitDistillation, SoftTarget
from lit_distill.batch.batch import Batch
from lit_distill.batch.positions import position_mask, positions_that_count, settle
from lit_distill.criteria import CRD, CWD, VID, AttentionTransfer, Criterion, Hint, QueueKL
from lit_distill.criteria.ops.features import counting_rows, pooled
from lit_distill.outputs import Outputs

KEEP = torch.arange(6) < torch.tensor([2, 6, 4])[:, None]
LOGITS, TOKENS = torch.randn(3, 6, 5), torch.randn(3, 6, 8)


def mask_for(logits: Tensor, **batch: Any) -> Tensor | None:
    from_labels = batch.pop("from_labels", False)
    return positions_that_count(Batch(torch.zeros(3, 6), **batch), Outputs(logits), from_labels)


class TestWhichPositions:
    def test_a_mask_of_the_logits_positions_is_taken(self) -> None:
        assert mask_for(LOGITS, mask=KEEP) is KEEP

    def test_one_of_other_positions_is_left_out_if_found_and_refused_if_told(self) -> None:
        other = torch.ones(3, 9, dtype=torch.bool)
        assert mask_for(LOGITS, mask=other) is None
        with pytest.raises(ValueError, match=r"mask \[3, 9\] does not fit the logits' positions \[3, 6\].*mask_key"):
            mask_for(LOGITS, mask=other, mask_is_told=True)

    def test_a_mask_beside_classes_of_whole_samples_stays_for_the_tokens(self) -> None:
        assert mask_for(torch.randn(3, 5), mask=KEEP) is KEEP

    def test_an_images_mask_with_a_channel_of_one_fits(self) -> None:
        mask = torch.rand(3, 1, 4, 4) > 0.5
        found = mask_for(torch.randn(3, 5, 4, 4), mask=mask)
        assert found is not None
        assert torch.equal(found, mask[:, 0])

    def test_lengths_are_read_in_the_logits_positions(self) -> None:
        found = mask_for(LOGITS, lengths=torch.tensor([2, 6, 4]))
        assert found is not None
        assert torch.equal(found, KEEP)
        with pytest.raises(ValueError, match=r"lengths reach 7, and the logits have 6 positions"):
            mask_for(LOGITS, lengths=torch.tensor([2, 7, 4]))

    def test_columns_in_which_nothing_counts_may_be_missing_from_the_logits(self) -> None:
        found = mask_for(torch.randn(3, 4, 5), mask=KEEP & (torch.arange(6) < 4))
        assert found is not None
        assert found.shape == (3, 4)
        assert mask_for(torch.randn(3, 4, 5), mask=KEEP) is None

    def test_a_told_mask_of_an_encoder_stays_for_its_features(self) -> None:
        outputs = Outputs(torch.randn(3, 9, 5), {"encoder": TOKENS})
        data = Batch(torch.zeros(3), mask=KEEP, mask_is_told=True)
        assert positions_that_count(data, outputs, False) is KEEP

    @pytest.mark.parametrize("column", [False, True])
    def test_samples_whose_label_is_not_known_are_left_out_where_that_is_told(self, column: bool) -> None:
        labels = torch.tensor([1, -100, 2])
        data = Batch(torch.zeros(3), labels[:, None] if column else labels)
        outputs = Outputs(torch.randn(3, 5))
        found, student, _ = settle(data, BatchFormat(mask_from_labels=True), outputs)
        assert torch.equal(student.logits, outputs.logits[[0, 2]])
        assert isinstance(found.target, Tensor)
        assert found.target.flatten().tolist() == [1, 2]

    def test_labels_that_are_not_known_leave_positions_out_only_where_that_is_told(self) -> None:
        labels = torch.zeros(3, 6, dtype=torch.long).masked_fill(~KEEP, -100)
        assert mask_for(LOGITS, target=labels) is None
        found = mask_for(LOGITS, target=labels, from_labels=True)
        assert found is not None
        assert torch.equal(found, KEEP)
        both = mask_for(LOGITS, target=labels, mask=torch.arange(6) < torch.full((3, 1), 3), from_labels=True)
        assert both is not None
        assert both.sum().item() == 2 + 3 + 3

    def test_labels_of_other_positions_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"labels \[3, 4\] are not of the logits' positions \[3, 6\]"):
            mask_for(LOGITS, target=torch.zeros(3, 4, dtype=torch.long), from_labels=True)

    def test_of_samples_picks_samples_such_as_a_graphs_training_nodes(self) -> None:
        mask, labels = torch.tensor([True, False, True]), torch.tensor([4, 5, 6])
        data = Batch(torch.zeros(3), labels, mask, mask_is_told=True, sample_weight=torch.tensor([1.0, 2.0, 3.0]))
        outputs = Outputs(torch.randn(3, 5), {"body": torch.randn(3, 8)})
        found, student, teacher = settle(data, BatchFormat(), outputs, outputs)
        assert isinstance(found.target, Tensor)
        assert found.target.tolist() == [4, 6]
        assert teacher is not None
        for one in (student, teacher):
            assert torch.equal(one.logits, outputs.logits[[0, 2]])
            assert torch.equal(one.features["body"], outputs.features["body"][[0, 2]])
            assert one.sample_weight is not None
            assert one.sample_weight.tolist() == [1.0, 3.0]
            assert one.mask is None


def test_dense_logits_are_resized_to_the_labels_where_that_is_told() -> None:
    small = torch.randn(2, 3, 4, 4)
    for target in (torch.zeros(2, 16, 16, dtype=torch.long), torch.zeros(2, 1, 16, 16, dtype=torch.long)):
        data = Batch(small, target)
        _, student, teacher = settle(data, BatchFormat(resize_logits=True), Outputs(small), Outputs(small[:, :, :2]))
        assert teacher is not None
        expected = F.interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
        assert torch.equal(student.logits, expected)
        assert teacher.logits.shape == (2, 3, 16, 16)
        assert settle(data, BatchFormat(), Outputs(small))[1].logits is small


class TestFeatures:
    def test_the_mask_of_tokens_is_that_of_as_many(self) -> None:
        assert position_mask(KEEP, TOKENS) is KEEP
        assert position_mask(KEEP, torch.randn(3, 20, 8)) is None
        assert position_mask(KEEP, torch.randn(3, 8)) is None
        assert position_mask(None, TOKENS) is None

    def test_class_tokens_before_the_masks_count(self) -> None:
        found = position_mask(KEEP, torch.randn(3, 7, 8))
        assert found is not None
        assert found[:, 0].all()
        assert torch.equal(found[:, 1:], KEEP)

    def test_fewer_tokens_count_where_one_that_they_cover_does(self) -> None:
        found = position_mask(KEEP, torch.randn(3, 3, 8))
        assert found is not None
        assert found.tolist() == [[True, False, False], [True, True, True], [True, True, False]]

    def test_pixels_mask_the_patches_that_hold_them(self) -> None:
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[0, 5, 1] = True
        found = position_mask(mask, torch.randn(1, 17, 8))
        assert found is not None
        assert found[0].nonzero().flatten().tolist() == [0, 1 + 2 * 4]

    def test_time_steps_mask_every_band_of_a_spectrogram(self) -> None:
        found = position_mask(KEEP, torch.randn(3, 8, 5, 6))
        assert found is not None
        assert torch.equal(found, KEEP[:, None].expand(3, 5, 6))

    def test_the_mask_of_an_image_is_brought_to_the_maps_size(self) -> None:
        mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        mask[0, 0, 1] = True
        found = position_mask(mask, torch.randn(1, 8, 2, 2))
        assert found is not None
        assert found.tolist() == [[[True, False], [False, False]]]

    def test_a_mean_over_positions_is_over_those_that_count(self) -> None:
        expected = torch.stack([row[keep].mean(0) for row, keep in zip(TOKENS, KEEP, strict=True)])
        torch.testing.assert_close(pooled(TOKENS, KEEP), expected)
        images, mask = torch.randn(2, 5, 3, 3), torch.rand(2, 3, 3) > 0.3
        expected = torch.stack([row[:, keep].mean(1) for row, keep in zip(images, mask, strict=True)])
        torch.testing.assert_close(pooled(images, mask), expected)

    def test_rows_are_those_that_count(self) -> None:
        assert torch.equal(counting_rows(TOKENS, KEEP), TOKENS[KEEP])
        assert counting_rows(TOKENS, None) is TOKENS


def padded(outputs: Outputs, more: int, value: float) -> Outputs:
    """The same outputs with more positions at the end, which do not count."""
    assert outputs.mask is not None
    features = {name: F.pad(feature, (0, 0, 0, more), value=value) for name, feature in outputs.features.items()}
    return Outputs(outputs.logits, features, F.pad(outputs.mask, (0, more)))


CRITERIA: dict[str, Criterion] = {
    "hint": Hint("a", "a"),
    "hint, each channel": Hint("a", "a", normalise="channel"),
    "hint, cosine": Hint("a", "a", distance="cosine"),
    "attention": AttentionTransfer("a", "a"),
    "channel-wise": CWD("a", "a"),
    "variational": VID("a", "a"),
    "contrast": CRD("a", "a", embedding=4, queue=8),
    "queue": QueueKL("a", "a", size=8),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("value", [0.0, 50.0, float("nan")])
def test_padding_changes_no_criterion_of_features(name: str, value: float) -> None:
    torch.manual_seed(0)
    criterion = CRITERIA[name]
    student = Outputs(torch.zeros(3, 5), {"a": TOKENS}, KEEP)
    teacher = Outputs(torch.zeros(3, 5), {"a": torch.randn(3, 6, 8)}, KEEP)
    criterion.build(student, teacher)
    criterion.eval()
    expected = criterion(student, teacher, None)
    found = criterion(padded(student, 3, value), padded(teacher, 3, value), None)
    torch.testing.assert_close(found, expected)
    assert torch.isfinite(found)


class Tagger(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.words, self.body, self.fc = nn.Embedding(20, width), nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.fc(self.body(self.words(input_ids)))}


def texts(lengths: list[int]) -> dict[str, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.randint(1, 20, mask.shape) * mask, "attention_mask": mask.long(), "labels": mask.long()}


def test_texts_of_many_lengths_match_features_of_another_width(quick_trainer: Any) -> None:
    data = DataLoader([[3, 5], [7, 4], [9, 6]], batch_size=None, collate_fn=texts)  # type: ignore[arg-type]
    criteria: dict[str, Criterion] = {"hint": Hint("body", "body"), "soft": SoftTarget()}
    module = DistillationModule(Tagger(8), Tagger(12), criteria, {"hint": 1.0, "soft": 1.0})
    trainer: Trainer = quick_trainer(max_epochs=2)
    trainer.fit(module, data)
    assert trainer.global_step == 6


def test_the_answer_alone_is_taught_by_unknown_labels(quick_trainer: Any) -> None:
    ids = torch.randint(0, 20, (4, 9))
    labels = ids.clone().masked_fill(torch.arange(9) < 5, -100)
    rows = [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]
    student, teacher = Tagger(), Tagger()
    told = BatchFormat(mask_from_labels=True, shift_labels=True)
    module = LogitDistillation(
        student,
        teacher,
        weights={"hard": 0.0, "soft": 1.0},
        batch_format=told,
        optimizer=lambda p: torch.optim.SGD(p, 0.0),
    )
    student.fc, teacher.fc = nn.Linear(8, 20), nn.Linear(8, 20)
    trainer: Trainer = quick_trainer(max_epochs=1)
    trainer.fit(module, DataLoader(rows, batch_size=4))  # type: ignore[arg-type]
    s, t = (network(ids)["logits"][:, 4:8].flatten(0, 1) / 4 for network in (student, teacher))
    expected = 16 * F.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [20, 3])
@pytest.mark.parametrize("arranged", [False, True])
def test_class_probabilities_of_time_steps_are_read_in_the_networks_layout(
    quick_trainer: Any, length: int, arranged: bool
) -> None:
    """Of a 1-D convolution ``[B, C, L]``, as PyTorch's cross_entropy has them; or classes last, where the shape says so."""
    x, y = torch.randn(4, 1, length), torch.randn(4, 3, length).softmax(1)
    student, teacher = nn.Conv1d(1, 3, 1), nn.Conv1d(1, 3, 1)
    given = y.transpose(1, 2) if arranged and length != 3 else y
    data = DataLoader(torch.utils.data.TensorDataset(x, given), batch_size=4)
    module = LogitDistillation(student, teacher, optimizer=lambda p: torch.optim.SGD(p, 0.0), weights={"soft": 0.0})
    trainer: Trainer = quick_trainer(max_epochs=1)
    trainer.fit(module, data, data)
    expected = 0.1 * F.cross_entropy(student(x), y)
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        trainer.callback_metrics["val/accuracy/student"], (student(x).argmax(1) == y.argmax(1)).float().mean()
    )
