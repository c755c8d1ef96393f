"""A teacher whose predictions are made once and recorded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler, default_collate
from torchvision.transforms import v2

from lit_distill import (
    CombinedDistillation,
    FeatureDistillation,
    FrozenTeacher,
    Hint,
    LogitDistillation,
    RecordedTeacher,
    SoftTarget,
    TeacherRuntime,
)
from lit_distill.data import Digits
from lit_distill.models import MLP, SmallCNN
from lit_distill.recording import DamagedRecording, StaleRecording

SAMPLES = 22
MakeTrainer = Callable[..., Trainer]


class Counting(nn.Module):
    """Counts the samples that run through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        return self.model(x)


class Comparing(LogitDistillation):
    """Keeps how far the teacher's outputs are from what it would say live, and the inputs."""

    distances: list[float]
    seen: list[Tensor]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs = batch[0]
        given = self._teacher(inputs).logits
        own = inputs.to(next(self.teacher.parameters()).dtype)  # a teacher keeps its type
        live = self.teacher.eval()(own) if not isinstance(self.teacher, Counting) else self.teacher.model(own)
        self.distances.append(float((given - live).abs().max()))
        self.seen += inputs.clone().unbind()
        return super().training_step(batch, batch_idx)

    @property
    def order(self) -> list[float]:
        return [float(image.flatten()[0]) for image in self.seen]


@pytest.fixture
def data() -> TensorDataset:
    return TensorDataset(torch.randn(SAMPLES, 1, 8, 8), torch.arange(SAMPLES) % 10)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def make(kind: Callable[..., FrozenTeacher] = RecordedTeacher, counting: bool = False, **settings: Any) -> Comparing:
    torch.manual_seed(3)
    student, network = SmallCNN(2), SmallCNN(3)
    if kind is RecordedTeacher:
        settings.setdefault("logits", "float32")
    module = Comparing(student, kind(Counting(network) if counting else network, **settings), optimizer=sgd)
    module.distances, module.seen = [], []
    return module


def augmented(**settings: Any) -> Digits:
    return Digits(train_size=40, batch_size=8, augment=[v2.RandomCrop(8, padding=2)], **settings)


# The same as live -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}, {"shuffle": True, "num_workers": 1}],
    ids=["in order", "shuffled", "drop_last", "workers"],
)
def test_equals_the_live_teacher_step_by_step(
    data: TensorDataset, settings: dict[str, Any], quick_trainer: MakeTrainer
) -> None:
    runs = []
    for kind in (FrozenTeacher, RecordedTeacher):
        seed_everything(1, verbose=False)
        module = make(kind)
        quick_trainer(max_epochs=3).fit(module, DataLoader(data, batch_size=4, **settings))
        runs.append(module)
    online, recorded = runs
    assert recorded.order == online.order
    assert len(recorded.distances) == 3 * (5 if settings.get("drop_last") else 6)
    assert max(recorded.distances) < 1e-6
    for name, value in online.student.state_dict().items():
        torch.testing.assert_close(recorded.student.state_dict()[name], value, atol=1e-5, rtol=0)


def test_a_loader_with_its_own_generator_keeps_its_order(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    orders = []
    for kind in (FrozenTeacher, RecordedTeacher):
        module = make(kind)
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(data, batch_size=4, shuffle=True, generator=generator)
        quick_trainer(max_epochs=2).fit(module, loader)
        orders.append(module.order)
    assert orders[0] == orders[1]


class CollateMix(LightningDataModule):
    """Mixes in the collate function, as torchvision's documentation shows."""

    def __init__(self, data: TensorDataset) -> None:
        super().__init__()
        self.data = data
        self.mix = v2.CutMix(num_classes=10)

    def collate(self, samples: list[Any]) -> Any:
        return self.mix(*default_collate(samples))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=4, shuffle=True, collate_fn=self.collate)


class NoiseOnDevice(CollateMix):
    """Augments a whole batch after it is moved, and pairs samples before."""

    collate = staticmethod(default_collate)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + batch[0].roll(1, 0) * torch.rand(()), batch[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + torch.randn_like(batch[0]), batch[1]


@pytest.mark.parametrize(
    "source",
    [
        lambda data: augmented(),
        lambda data: augmented(num_workers=2),
        lambda data: augmented(mix=v2.MixUp(num_classes=10)),
        lambda data: augmented(in_memory=True),
        lambda data: augmented(in_memory=True, mix=v2.CutMix(num_classes=10)),
        lambda data: augmented(mix=v2.RandomChoice([v2.CutMix(num_classes=10), v2.MixUp(num_classes=10)])),
        CollateMix,
        NoiseOnDevice,
    ],
    ids=[
        "crop",
        "workers",
        "crop and MixUp",
        "in memory",
        "in memory and CutMix",
        "CutMix or MixUp",
        "CutMix in collate",
        "batch hooks",
    ],
)
def test_training_sees_exactly_the_views_that_were_recorded(
    data: TensorDataset, source: Callable[[TensorDataset], Any], quick_trainer: MakeTrainer
) -> None:
    module = make(views=2, counting=True)
    module.teacher.count = 0
    loaders = source(data)
    quick_trainer(max_epochs=4, num_sanity_val_steps=0, limit_val_batches=0).fit(module, datamodule=loaders)
    assert max(module.distances) < 2e-6
    by_epoch = torch.stack(module.seen).flatten(1).chunk(4)
    views = [{tuple(image) for image in epoch.tolist()} for epoch in by_epoch]
    assert views[0] == views[2]  # bit for bit, in another order
    assert views[1] == views[3]
    assert views[0] != views[1]
    assert by_epoch[0].tolist() != by_epoch[2].tolist()
    samples = len(views[0])
    assert module._teacher.recorded == 2 * samples


def test_other_random_numbers_are_left_alone(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    class Drawing(Comparing):
        drawn: list[float]

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.drawn.append(float(torch.rand(())))

    runs = []
    for kind in (FrozenTeacher, RecordedTeacher):
        seed_everything(1, verbose=False)
        module = make(kind)
        module.__class__, module.drawn = Drawing, []
        quick_trainer(max_epochs=2).fit(module, DataLoader(data, batch_size=4, shuffle=True))
        runs.append(module.drawn)
    assert runs[0] == runs[1]


def test_what_the_datamodule_and_the_trainer_were_is_put_back(quick_trainer: MakeTrainer) -> None:
    loaders = augmented(mix=v2.MixUp(num_classes=10))
    trainer = quick_trainer(max_epochs=1)
    source = trainer.fit_loop._data_source
    trainer.fit(make(views=1), datamodule=loaders)
    assert trainer.fit_loop._data_source is source
    assert "on_after_batch_transfer" not in vars(loaders)


# Features and formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("features", ["float32", "int8"])
def test_features_are_recorded_as_the_criteria_want_them(
    data: TensorDataset, pooled: bool, features: Any, quick_trainer: MakeTrainer
) -> None:
    given: list[Tensor] = []

    class Watching(FeatureDistillation):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            outputs = self._teacher(batch[0])
            live = self._teacher.predict(batch[0])
            expected = live.features["stage3"].mean((2, 3)) if pooled else live.features["stage3"]
            given.append((outputs.features["stage3"] - expected).abs().max() / expected.abs().max())
            assert outputs.features["stage3"].shape == expected.shape
            return super().training_step(batch, batch_idx)

    torch.manual_seed(3)
    teacher = RecordedTeacher(SmallCNN(3), features=features, pool_features=pooled)
    module = Watching(SmallCNN(2), teacher, "stage3", "stage3", optimizer=sgd)
    quick_trainer(max_epochs=2).fit(module, DataLoader(data, batch_size=4, shuffle=True))
    assert len(given) == 12
    assert max(given) < (1e-6 if features == "float32" else 0.01)


def test_logits_and_features_together(data: TensorDataset, quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    teacher = RecordedTeacher(SmallCNN(3), tmp_path / "record")
    criteria = {"soft": SoftTarget(), "hint": Hint("stage2", "stage2")}
    module = CombinedDistillation(SmallCNN(2), teacher, criteria=criteria, weights={"soft": 1.0, "hint": 1.0})
    quick_trainer(max_epochs=2).fit(module, DataLoader(data, batch_size=4))
    stored = json.loads((tmp_path / "record/manifest.json").read_text())["stored"]["fields"]
    assert [name for name, _, _ in stored] == ["logits", "stage2", "sample/crc32"]


@pytest.mark.parametrize(
    ("formats", "tolerance"),
    [({"logits": "float16"}, 2e-3), ({"logits": "int8"}, 0.01), ({"logits": "top_k", "top_k": 9}, 2e-3)],
)
def test_compressed_logits_stay_close(
    data: TensorDataset, formats: dict[str, Any], tolerance: float, quick_trainer: MakeTrainer
) -> None:
    module = make(**formats)
    quick_trainer().fit(module, DataLoader(data, batch_size=4))
    assert 0 < max(module.distances) < tolerance


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_the_recording_is_made_in_the_runtime_that_is_asked_for(
    data: TensorDataset, precision: Any, quick_trainer: MakeTrainer, tmp_path: Path
) -> None:
    differences: list[float] = []

    class Watching(LogitDistillation):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            given, engine = self._teacher(batch[0]).logits, FrozenTeacher.__call__(self._teacher, batch[0]).logits
            differences.append(float((given - engine).abs().max()))
            return super().training_step(batch, batch_idx)

    torch.manual_seed(3)
    runtime = TeacherRuntime(precision=precision)
    teacher = RecordedTeacher(SmallCNN(3), tmp_path / "record", logits="float32", runtime=runtime)
    module = Watching(SmallCNN(2), teacher, optimizer=sgd)
    quick_trainer(max_epochs=2).fit(module, DataLoader(data, batch_size=4, shuffle=True))
    assert max(differences) < 1e-2 if precision == "bf16" else max(differences) == 0
    live = teacher.predict(data.tensors[0]).logits
    assert not torch.equal(live, FrozenTeacher.__call__(teacher, data.tensors[0]).logits)
    assert json.loads((tmp_path / "record/manifest.json").read_text())["teacher"]["precision"] == precision
    plain = make(path=tmp_path / "record")
    with pytest.raises(StaleRecording, match=f"teacher.precision: recorded {precision}, now 32"):
        quick_trainer().fit(plain, DataLoader(data, batch_size=4))


def test_little_covered_mass_is_said(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    with pytest.warns(UserWarning, match=r"the 1 largest classes hold \d+% of the teacher's probability; keep more"):
        quick_trainer().fit(make(logits="top_k", top_k=1), DataLoader(data, batch_size=4))


def test_the_teacher_runs_once_a_view(data: TensorDataset, quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        module = make(counting=True, path=tmp_path / "record")
        module.__class__ = LogitDistillation
        quick_trainer(max_epochs=4).fit(module, DataLoader(data, batch_size=4, shuffle=True))
        counts.append((module.teacher.count, module._teacher.recorded))
    # Beside the samples: the look ahead (2), the example that gives the shapes (2) and each epoch's check (4 times 4).
    assert counts[0] == (SAMPLES + 20, SAMPLES)
    assert counts[1] == (20, 0)


def test_validation_asks_the_live_teacher(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    module = make()
    other = DataLoader(TensorDataset(torch.randn(6, 1, 8, 8), torch.arange(6)), batch_size=3)
    trainer = quick_trainer(max_epochs=2)
    trainer.validate(module, other, verbose=False)
    trainer.fit(module, DataLoader(data, batch_size=4), other)
    assert module._teacher.recorded == SAMPLES
    assert max(module.distances) < 1e-6


def test_records_follow_the_type(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    doubled = TensorDataset(data.tensors[0].double(), data.tensors[1])
    module = make()
    quick_trainer(precision="64-true").fit(module, DataLoader(doubled, batch_size=4))
    assert max(module.distances) < 1e-6


@pytest.mark.slow
def test_resume_equals_an_uninterrupted_run(quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    settings = {"path": tmp_path / "record", "views": 2}
    seed_everything(2, verbose=False)
    whole = make(**settings)
    quick_trainer(max_epochs=4).fit(whole, augmented())
    seed_everything(2, verbose=False)
    half = make(**settings)
    keep = ModelCheckpoint(tmp_path, filename="half")
    quick_trainer(max_epochs=1, enable_checkpointing=True, callbacks=[keep]).fit(half, augmented())
    seed_everything(77, verbose=False)
    rest = make(**settings)
    quick_trainer(max_epochs=4).fit(rest, augmented(), ckpt_path=tmp_path / "half.ckpt")
    together = half.seen + rest.seen
    assert len(whole.seen) == len(together) == 4 * 40
    assert all(torch.equal(a, b) for a, b in zip(whole.seen, together, strict=True))
    for name, value in whole.student.state_dict().items():
        assert torch.equal(rest.student.state_dict()[name], value)


def test_a_fast_dev_run_records_nothing(data: TensorDataset, quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = make(path=tmp_path / "record")
    quick_trainer(fast_dev_run=True).fit(module, DataLoader(data, batch_size=4))
    assert not (tmp_path / "record").exists()
    assert module._teacher.recorded == 0


def test_reloaded_loaders_are_replayed_too(quick_trainer: MakeTrainer) -> None:
    module = make(views=2)
    quick_trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(module, augmented())
    assert len(module.distances) == 15
    assert max(module.distances) < 2e-6


# A folder that outlives the run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "loaders", "message"),
    [
        ({"views": 3}, augmented, "views.number: recorded 2, now 3"),
        ({"seed": 5}, augmented, "views.seed: recorded 0, now 5"),
        ({"logits": "int8"}, augmented, "stored.logits: recorded float32, now int8"),
        ({}, lambda: Digits(train_size=40, batch_size=8, augment=[v2.RandomCrop(8, padding=1)]), "data.digest"),
        ({}, lambda: augmented(split_seed=3), "data.digest"),
        ({"teacher": SmallCNN(4)}, augmented, "teacher.weights"),
    ],
    ids=["views", "seed", "format", "transform", "data", "teacher"],
)
def test_a_recording_of_something_else_is_refused_before_the_first_step(
    change: dict[str, Any], loaders: Callable[[], Digits], message: str, quick_trainer: MakeTrainer, tmp_path: Path
) -> None:
    quick_trainer().fit(make(views=2, path=tmp_path / "record"), augmented())
    before = {path.name: path.read_bytes() for path in (tmp_path / "record").glob("*.npy")}
    teacher = change.pop("teacher", None)
    module = make(**{"views": 2, "path": tmp_path / "record", **change})
    if teacher is not None:
        module._teacher.model.load_state_dict(make(kind=FrozenTeacher).teacher.state_dict())
        next(module.teacher.parameters()).data.add_(0.01)
    trainer = quick_trainer()
    with pytest.raises(StaleRecording, match=re.escape(message)):
        trainer.fit(module, loaders())
    assert trainer.global_step == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "record").glob("*.npy")} == before


def test_other_versions_are_refused_unless_they_are_accepted(
    monkeypatch: pytest.MonkeyPatch, quick_trainer: MakeTrainer, tmp_path: Path
) -> None:
    from lit_distill.recording import session

    quick_trainer().fit(make(views=1, path=tmp_path / "record"), augmented())
    found = session.installed_versions()
    monkeypatch.setattr(session, "installed_versions", lambda: {**found, "torchvision": "99.0"})
    with pytest.raises(StaleRecording, match=r"versions.torchvision: recorded \S+, now 99.0"):
        quick_trainer().fit(make(views=1, path=tmp_path / "record"), augmented())
    module = make(views=1, path=tmp_path / "record", ignore_versions=True)
    quick_trainer().fit(module, augmented())
    assert module._teacher.recorded == 0


def test_another_batch_size_reads_the_same_recording(quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    quick_trainer().fit(make(views=2, path=tmp_path / "record"), augmented())
    module = make(views=2, path=tmp_path / "record")
    loaders = augmented()
    loaders.batch_size = 5
    quick_trainer(max_epochs=2).fit(module, loaders)
    assert module._teacher.recorded == 0
    assert max(module.distances) < 2e-6


def test_a_damaged_recording_is_refused(quick_trainer: MakeTrainer, tmp_path: Path) -> None:
    quick_trainer().fit(make(views=1, path=tmp_path / "record"), augmented())
    (shard,) = (tmp_path / "record").glob("*.npy")
    content = bytearray(shard.read_bytes())
    content[200] ^= 4
    shard.write_bytes(content)
    with pytest.raises(DamagedRecording, match="shard-00000.npy is damaged"):
        quick_trainer().fit(make(views=1, path=tmp_path / "record"), augmented())


_CUT_OFF = """
import sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer
from lit_distill import LogitDistillation, RecordedTeacher
from lit_distill.models import MLP
from lit_distill.recording import plan
from torch.utils.data import DataLoader, TensorDataset

plan._FEWEST_ROWS = 8
torch.manual_seed(0)
data = TensorDataset(torch.randn(64, 8), torch.arange(64) % 3)
torch.manual_seed(1)
slow = float(sys.argv[2])

class Slow(MLP):
    def forward(self, x):
        if slow and len(x) == 4:
            import time; time.sleep(slow)
        return super().forward(x)

module = LogitDistillation(MLP(8, [2], 3), RecordedTeacher(Slow(8, [4], 3), sys.argv[1], logits="float32"))
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(module, DataLoader(data, batch_size=4, shuffle=True))
print("recorded", module._teacher.recorded)
live = module.teacher(data.tensors[0])
import numpy as np
found = np.concatenate([np.load(p) for p in sorted(Path(sys.argv[1]).glob("*.npy"))])["logits"]
print("distance", float((live - torch.from_numpy(found)).abs().max()))
"""


def start(path: Path, slow: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CUT_OFF, str(path), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def outcome(process: subprocess.Popen[str]) -> dict[str, float]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    return {
        line.split()[0]: float(line.split()[1]) for line in out.splitlines() if line[:8] in ("recorded", "distance")
    }


@pytest.mark.slow
def test_a_killed_recording_is_finished_from_where_it_stood(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    process = start(folder, slow=0.3)
    for _ in range(600):
        if len(list(folder.glob("*.npy"))) >= 2:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    there = len(list(folder.glob("*.npy")))
    assert 2 <= there < 8
    found = outcome(start(folder, slow=0))
    assert found["recorded"] == 64 - 8 * there
    assert found["distance"] < 1e-6


@pytest.mark.slow
def test_two_processes_at_once_share_the_work(tmp_path: Path) -> None:
    processes = [start(tmp_path / "record", slow=0.05) for _ in range(2)]
    found = [outcome(process) for process in processes]
    assert sum(one["recorded"] for one in found) == 64
    assert max(one["distance"] for one in found) < 1e-6
    assert len(list((tmp_path / "record").glob("*.npy"))) == 8


# Refused ----------------------------------------------------------------------------------------------


class TestRefused:
    """What a record would be wrong for is refused before the first step."""

    def refuse(self, module: LogitDistillation, message: str, trainer: Trainer, source: Any) -> None:
        before = {name: value.clone() for name, value in module.student.named_parameters()}
        arguments = {"datamodule": source} if isinstance(source, LightningDataModule) else {"train_dataloaders": source}
        with pytest.raises(ValueError, match=message):
            trainer.fit(module, **arguments)
        assert trainer.global_step == 0
        assert all(torch.equal(value, before[name]) for name, value in module.student.named_parameters())

    def test_random_augmentation_without_a_number_of_views(self, quick_trainer: MakeTrainer) -> None:
        self.refuse(
            make(),
            r"differs each time it is read \(random augmentation\): set how many views",
            quick_trainer(),
            augmented(),
        )

    def test_mixing_without_a_number_of_views(self, quick_trainer: MakeTrainer) -> None:
        data = Digits(train_size=40, mix=v2.MixUp(num_classes=10))
        self.refuse(make(), "are mixed at random", quick_trainer(), data)

    def test_several_loaders(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        class First(LogitDistillation):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return super().training_step(batch["a"], batch_idx)

        module = First(SmallCNN(2), RecordedTeacher(SmallCNN(2)))
        loaders = {"a": DataLoader(data, batch_size=4), "b": DataLoader(data, batch_size=4)}
        self.refuse(module, "reads one DataLoader, not a dict", quick_trainer(), loaders)

    def test_iterable_data(self, quick_trainer: MakeTrainer) -> None:
        class Stream(IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter([(torch.ones(4), torch.tensor(0))] * 4)

        module = LogitDistillation(MLP(4), RecordedTeacher(MLP(4)))
        message = "needs a map-style data set, with numbered samples, to have each again; Stream is an iterable one"
        self.refuse(module, message, quick_trainer(), DataLoader(Stream(), batch_size=2))

    def test_data_that_make_their_own_batches(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        class Whole(Dataset[Any]):
            def __len__(self) -> int:
                return 2

            def __getitem__(self, index: int) -> Any:
                return data[index * 4 : index * 4 + 4]

        self.refuse(make(), "has batch_size=None", quick_trainer(), DataLoader(Whole(), batch_size=None))

    def test_data_with_a_generator_of_their_own(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        class Own(Dataset[Any]):
            generator = torch.Generator()

            def __len__(self) -> int:
                return SAMPLES

            def __getitem__(self, index: int) -> Any:
                return data[index][0] + torch.rand((), generator=self.generator), data[index][1]

        module = make(views=2)
        self.refuse(module, "draws from a generator of its own", quick_trainer(), DataLoader(Own(), batch_size=4))

    def test_a_collate_function_that_leaves_samples_out(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        def lossy(samples: list[Any]) -> Any:
            return default_collate(samples[:3])

        loader = DataLoader(data, batch_size=4, collate_fn=lossy)
        self.refuse(make(), "leaves some out or doubles some", quick_trainer(), loader)

    def test_mixing_with_a_sampler_that_chooses(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        loader = DataLoader(
            data, 4, sampler=WeightedRandomSampler([1.0] * SAMPLES, SAMPLES), collate_fn=CollateMix(data).collate
        )
        self.refuse(make(views=1), "the loader's WeightedRandomSampler decides that itself", quick_trainer(), loader)

    def test_inputs_that_change_inside_the_training_step(self, data: TensorDataset, quick_trainer: MakeTrainer) -> None:
        class Changing(LogitDistillation):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return super().training_step((batch[0].flip(0), batch[1]), batch_idx)

        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        module = Changing(SmallCNN(2), RecordedTeacher(network))
        self.refuse(
            module, "are not the teacher's outputs for these inputs", quick_trainer(), DataLoader(data, batch_size=4)
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"views": 0}, "views must be at least 1, not 0"),
            ({"logits": "float8"}, "logits must be one of"),
            ({"logits": "top_k"}, "top_k needs top_k"),
        ],
    )
    def test_wrong_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            RecordedTeacher(SmallCNN(2), **arguments)


def test_a_weighted_sampler_is_followed_where_nothing_is_mixed(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    weights = [0.0] * 11 + [1.0] * 11
    module = make()
    quick_trainer().fit(module, DataLoader(data, 4, sampler=WeightedRandomSampler(weights, 12)))
    allowed = set(data.tensors[0][11:].flatten(1)[:, 0].tolist())
    assert len(module.order) == 12
    assert set(module.order) <= allowed
    assert max(module.distances) < 1e-6


def test_other_data_are_recorded_anew(data: TensorDataset, quick_trainer: MakeTrainer) -> None:
    module = make()
    quick_trainer().fit(module, DataLoader(data, batch_size=4))
    other = TensorDataset(torch.randn(6, 1, 8, 8), torch.arange(6))
    quick_trainer().fit(module, DataLoader(other, batch_size=4))
    assert module._teacher.recorded == 6
    assert max(module.distances) < 1e-6
