"""A recording is of what it says: other data are refused, or noticed in the epoch that meets them; right ones are read."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from lit_distill import BatchFormat, Distill, LogitDistillation, RecordedTeacher, SoftTarget
from lit_distill.models import SmallCNN
from lit_distill.recording import StaleRecording
from lit_distill.utils.notices import DistillationWarning

pytestmark = pytest.mark.slow
COUNT = 96
REFUSED = "a recording of other data is refused or noticed within an epoch"
READ = "a recording of the same inputs is read"
MakeTrainer = Callable[..., Trainer]


class Images(Dataset[Any]):
    """Images in memory, some of which a test changes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(COUNT, 1, 8, 8, generator=generator)
        self.labels = torch.arange(COUNT) % 10
        self.order = list(range(COUNT))
        self.change: Callable[[Tensor], Tensor] = nn.Identity()
        self.name = "/data"

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        place = self.order[index]
        return self.change(self.images[place]), self.labels[place], f"{self.name}/{place}.png"


def fit(trainer: Trainer, folder: Path | None, loader: Any, teacher: nn.Module | None = None, **settings: Any) -> Any:
    torch.manual_seed(3)
    student, network = SmallCNN(2), teacher or SmallCNN(3)
    recorded = RecordedTeacher(network, folder, **settings)
    soft = {"soft": SoftTarget()}
    told = BatchFormat(input_key=0, target_key=1, unused=[2])
    module = LogitDistillation(student, recorded, criteria=soft, weights={"soft": 1.0}, batch_format=told)
    arguments = {"datamodule": loader} if isinstance(loader, LightningDataModule) else {"train_dataloaders": loader}
    trainer.fit(module, **arguments)
    return module


def one_image(data: Images) -> None:
    data.images[37] = torch.randn(1, 8, 8)


def some_images(data: Images) -> None:
    data.images[[3, 20, 38, 50, 51, 77]] = torch.randn(6, 1, 8, 8)


def two_swapped(data: Images) -> None:
    data.order[40], data.order[41] = 41, 40


def shifted(data: Images) -> None:
    data.order = [*data.order[1:], 0]


def shifted_after_the_middle(data: Images) -> None:
    data.order = [*data.order[:50], *data.order[51:], 50]


def doubled(data: Images) -> None:
    data.order[60] = 61


def reversed_order(data: Images) -> None:
    data.order.reverse()


def flipped(data: Images) -> None:
    data.images[10] = data.images[10].flip(-1)


def scaled(data: Images) -> None:
    data.images[70] *= 0.5


def masked(data: Images) -> None:
    data.images[52, :, :4] = 0


def encoded_again(data: Images) -> None:
    data.images[30:40] = (data.images[30:40] * 2).round() / 2


def other_transform(data: Images) -> None:
    data.change = lambda image: image.flip(-2)


def now_and_then(data: Images) -> None:
    data.change = lambda image: image.roll(1, -1) if float(image[0, 0, 0]) > 1.5 else image


CHANGES = [
    one_image,
    some_images,
    two_swapped,
    shifted,
    shifted_after_the_middle,
    doubled,
    reversed_order,
    flipped,
    scaled,
    masked,
    encoded_again,
    other_transform,
    now_and_then,
]


@pytest.mark.parametrize("logits", ["float32", "float16", "int8", "top_k"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_other_data_are_noticed_within_the_epoch(
    change: Callable[[Images], None], logits: str, quick_trainer: MakeTrainer, tmp_path: Path, tally: Any
) -> None:
    formats = {"logits": logits, **({"top_k": 5} if logits == "top_k" else {})}
    torch.manual_seed(3)
    fit(quick_trainer(), tmp_path / "record", DataLoader(Images(), batch_size=8), **formats)
    other = Images()
    change(other)
    trainer = quick_trainer(max_epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(StaleRecording, match=r"not those that were recorded in .*sample|data.digest|transforms"):
            fit(trainer, tmp_path / "record", DataLoader(other, batch_size=8, shuffle=True), **formats)
    assert trainer.current_epoch == 0
    tally(REFUSED)


def test_data_that_change_during_a_fit_are_noticed_in_that_epoch(quick_trainer: MakeTrainer, tally: Any) -> None:
    data = Images()

    class Later(LogitDistillation):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                some_images(data)

    torch.manual_seed(3)
    told = BatchFormat(input_key=0, target_key=1, unused=[2])
    module = Later(SmallCNN(2), RecordedTeacher(SmallCNN(3)), batch_format=told)
    trainer = quick_trainer(max_epochs=4)
    with pytest.raises(
        StaleRecording, match=r"of the 8 samples of batch \d+ of epoch 2 are not those that were recorded"
    ):
        trainer.fit(module, DataLoader(data, batch_size=8, shuffle=True))
    assert trainer.current_epoch == 2
    tally(REFUSED)


class Own(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = SmallCNN(2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


def test_the_callback_notices_them_too(quick_trainer: MakeTrainer, tmp_path: Path, tally: Any) -> None:
    torch.manual_seed(3)
    teacher = SmallCNN(3)

    def run(data: Images) -> None:
        told = BatchFormat(input_key=0, target_key=1, unused=[2])
        recorded = RecordedTeacher(copy.deepcopy(teacher), tmp_path / "record")
        distill = Distill(recorded, student="net", batch_format=told)
        quick_trainer(callbacks=[distill]).fit(Own(), DataLoader(data, batch_size=8, shuffle=True))

    run(Images())
    run(Images())
    tally(READ)
    other = Images()
    one_image(other)
    with pytest.raises(StaleRecording, match="1 of the 8 samples .* are not those that were recorded.*: sample 37"):
        run(other)
    tally(REFUSED)


# Inputs that change after the data set has read them ---------------------------------------------------------------


class Hooked(LightningDataModule):
    """Changes some samples after they are on the device, from a batch of an epoch on."""

    def __init__(self, epoch: int, batch: int, share: float) -> None:
        super().__init__()
        self.since, self.share = (epoch, batch), share

    def train_dataloader(self) -> Any:
        return DataLoader(Images(), batch_size=1 if self.since[1] else 8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = self.trainer
        assert trainer is not None
        if not trainer.training or (trainer.current_epoch, trainer.fit_loop.batch_idx + 1) < self.since:
            return batch
        count = max(1, round(self.share * len(batch[0])))
        return torch.cat([batch[0][:count].flip(-1), batch[0][count:]]), *batch[1:]


@pytest.mark.parametrize("share", [1.0, 0.125])
@pytest.mark.parametrize(
    ("epoch", "batch", "resumed"),
    [(1, 0, False), (2, 0, False), (0, 20, False), (1, 50, False), (1, 0, True), (2, 0, True), (1, 50, True)],
)
def test_a_hook_that_is_switched_at_an_epoch_or_a_step_is_noticed_in_that_epoch(
    epoch: int, batch: int, share: float, resumed: bool, quick_trainer: MakeTrainer, tmp_path: Path, tally: Any
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    trainer = quick_trainer(max_epochs=4)
    torch.manual_seed(3)
    teacher, data = SmallCNN(3), Hooked(epoch, batch, share)
    arguments: dict[str, Any] = {"datamodule": data}
    if resumed:
        keep = ModelCheckpoint(tmp_path, filename="half")
        fit(quick_trainer(max_epochs=epoch, enable_checkpointing=True, callbacks=[keep]), tmp_path / "r", data, teacher)
        arguments["ckpt_path"] = tmp_path / "half.ckpt"
    told = BatchFormat(input_key=0, target_key=1, unused=[2])
    soft: dict[str, Any] = {"criteria": {"soft": SoftTarget()}, "weights": {"soft": 1.0}}
    module = LogitDistillation(SmallCNN(2), RecordedTeacher(teacher, tmp_path / "r"), batch_format=told, **soft)
    with pytest.raises(
        StaleRecording, match=rf"batch \d+ of epoch {epoch} are not the teacher's outputs for these inputs"
    ):
        trainer.fit(module, **arguments)
    tally(REFUSED)


# Right inputs ------------------------------------------------------------------------------------------------------


def other_labels(data: Images) -> None:
    data.labels = (data.labels + 1) % 10


def a_few_other_labels(data: Images) -> None:
    data.labels[[5, 40]] = 0


def another_folder(data: Images) -> None:
    data.name = "/elsewhere"


def rounded_otherwise(data: Images) -> None:
    data.images = data.images * (1 + 1e-7 * torch.randn(data.images.shape))


def nothing(data: Images) -> None:
    pass


def another_size_of_batch(data: Images) -> None:
    pass


@pytest.mark.parametrize("logits", ["float32", "float16", "int8", "top_k"])
@pytest.mark.parametrize(
    ("same", "told"),
    [
        (nothing, False),
        (another_size_of_batch, False),
        (other_labels, True),
        (a_few_other_labels, True),
        (another_folder, True),
        (rounded_otherwise, True),
    ],
)
def test_the_same_inputs_are_read(
    same: Callable[[Images], None],
    told: bool,
    logits: str,
    quick_trainer: MakeTrainer,
    tmp_path: Path,
    tally: Any,
) -> None:
    formats = {"logits": logits, **({"top_k": 5} if logits == "top_k" else {})}
    fit(quick_trainer(), tmp_path / "record", DataLoader(Images(), batch_size=8), **formats)
    other = Images()
    same(other)
    size = 5 if same is another_size_of_batch else 8
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = fit(quick_trainer(max_epochs=2), tmp_path / "record", DataLoader(other, size, shuffle=True), **formats)
    said = [str(one.message) for one in caught if isinstance(one.message, DistillationWarning)]
    assert any("not bit for bit those recorded" in line for line in said) == told
    assert any("bits are no longer compared" in line for line in said) == (told and same is not a_few_other_labels)
    assert module._teacher.recorded == 0
    tally(READ)


def test_a_half_precise_teacher_is_not_refused_for_its_rounding(quick_trainer: MakeTrainer, tally: Any) -> None:
    from lit_distill import TeacherRuntime

    for runtime in (TeacherRuntime("bf16"), TeacherRuntime(channels_last=True, fold_batch_norm=True), None):
        for precision in ("32-true", "bf16-mixed"):
            loader = DataLoader(Images(), batch_size=8, shuffle=True)
            fit(quick_trainer(max_epochs=2, precision=precision), None, loader, runtime=runtime)
            tally(READ)


@pytest.mark.parametrize("columns", [0, 1])
def test_outputs_of_one_number_are_compared(columns: int, quick_trainer: MakeTrainer, tally: Any) -> None:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.fc(x.flatten(1))
            return out if columns else out.squeeze(1)

    class Floats(Images):
        def __getitem__(self, index: int) -> Any:
            return self.images[self.order[index]], self.labels[self.order[index]].float()

    from lit_distill.criteria import LogitMSE

    def run(data: Floats) -> None:
        mse: dict[str, Any] = {"criteria": {"mse": LogitMSE()}, "weights": {"mse": 1.0}}
        module = LogitDistillation(Scalar(), RecordedTeacher(Scalar()), task="regression", **mse)
        quick_trainer(max_epochs=2, callbacks=[]).fit(
            module, DataLoader(data, batch_size=8, collate_fn=default_collate)
        )

    run(Floats())
    tally(READ)


def test_a_recording_of_an_earlier_version_is_read_and_that_is_said(
    quick_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Any
) -> None:
    from lit_distill.recording import session
    from lit_distill.recording.manifest import UNMARKED

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(session, "known_manifest", lambda path: {"format": UNMARKED, "layout": {"batch_size": 8}})
        fit(quick_trainer(), tmp_path / "record", DataLoader(Images(), batch_size=8))
    assert "crc32" not in (tmp_path / "record/manifest.json").read_text()
    assert "#" not in (tmp_path / "record/shard-00000.npy.sha256").read_text()
    with pytest.warns(DistillationWarning, match="was made by an earlier version, which kept no marks of the samples"):
        module = fit(quick_trainer(), tmp_path / "record", DataLoader(Images(), batch_size=8))
    assert module._teacher.recorded == 0
    tally(READ)
    other = Images()
    other_transform(other)
    with pytest.raises(StaleRecording, match=r"data\.digest|transforms"):
        fit(quick_trainer(), tmp_path / "record", DataLoader(other, batch_size=8))
    tally(REFUSED)
