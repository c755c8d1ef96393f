"""The command line, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import nn

from lit_distill import CombinedDistillation, LogitDistillation
from lit_distill.cli.command import DistillationCLI, find_configs, main
from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.models import MLP, MultiHeadCNN, SmallCNN, load, resnet32, resnet56

ROOT = Path(__file__).parents[2]
DIGITS = sorted(path.name for path in (ROOT / "configs/digits").glob("*.yaml"))
CHAINS = ("assistant.yaml", "born_again.yaml")  # for `chain`, not for `fit`: tests/integration/test_chain.py
CIFAR = sorted(path.name for path in (ROOT / "configs/cifar10").glob("*.yaml"))
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = [*QUIET, "--trainer.max_epochs=2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with digits teachers in it, as `digits/teacher.yaml` and its like leave them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits/multitask_teacher").mkdir(parents=True)
    several = MultiHeadCNN({"digit": 10, "parity": 2}, 32)
    torch.save(several.state_dict(), tmp_path / "runs/digits/multitask_teacher/teacher.ckpt")
    (tmp_path / "runs/digits/teacher").mkdir(parents=True)
    for name in ("teacher", "teacher_1", "teacher_2", "teacher_3"):
        torch.save(SmallCNN(32).state_dict(), tmp_path / f"runs/digits/teacher/{name}.ckpt")
    torch.save(MLP(hidden=[64] * 5).state_dict(), tmp_path / "runs/digits/teacher/deep.ckpt")
    return tmp_path


def fit(config: str, *options: str) -> None:
    main(["fit", "--config", f"configs/digits/{config}", *SHORT, *options])


def quick_first(configs: list[str]) -> list[Any]:
    """Mark all but the most used configs as slow."""
    quick = ("logit.yaml", "combined.yaml", "recorded.yaml", "multitask.yaml")
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in configs]


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


# Every config ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", quick_first([name for name in DIGITS if name not in CHAINS]))
def test_every_digits_config_fits(folder: Path, config: str) -> None:
    fit(config)
    assert list(folder.glob(f"runs/digits/{config.removesuffix('.yaml')}/**/events.out.tfevents.*"))


def test_the_fast_config_lies_over_any_other_of_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for config in CIFAR:
        if config in ("images.yaml", "fast.yaml"):
            continue
        layers = [f"--config=configs/cifar10/{name}" for name in (config, "images.yaml", "fast.yaml")]
        with pytest.raises(SystemExit) as done:
            main(["fit", *layers, "--print_config"])
        assert done.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["model"]["init_args"]["fast"] is True, config
        assert printed["data"]["init_args"]["in_memory"] is True, config


@pytest.mark.parametrize("config", quick_first([name for name in CIFAR if name not in ("images.yaml", "fast.yaml")]))
def test_every_cifar_config_fits_on_image_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    from torchvision.transforms.functional import to_pil_image

    from lit_distill.models import resnet56

    monkeypatch.chdir(tmp_path)
    for index in range(40):
        path = tmp_path / f"images/train/class{index % 10}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)).save(path)
    for place in ("teachers/resnet56-4bfd9763.th", "runs/cifar10/teacher/teacher.ckpt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": resnet56().state_dict()}, tmp_path / place)
    data = [
        "--config",
        "configs/cifar10/images.yaml",
        "--data.root=images",
        "--data.batch_size=8",
        "--data.num_workers=0",
    ]
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    if config == "recorded.yaml":  # the logits of random weights on noise exceed float16
        limits += ["--model.teacher.init_args.logits=float32", "--model.teacher.init_args.views=1"]
    main(["fit", "--config", f"configs/cifar10/{config}", *data, *QUIET, *limits])


@pytest.mark.parametrize("config", [*(f"digits/{n}" for n in DIGITS), *(f"cifar10/{n}" for n in CIFAR)])
def test_every_config_is_short_and_says_how_to_run_it(config: str) -> None:
    text = (ROOT / "configs" / config).read_text()
    assert text.startswith("# ")
    assert f"configs/{config}" in text
    assert len(text.splitlines()) <= 45
    assert yaml.safe_load(text)


# The verbs -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_validate_test_and_predict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("logit.yaml")
    checkpoint = only(folder, "runs/digits/logit/**/last.ckpt")
    common = [
        "--config",
        "configs/digits/logit.yaml",
        "--ckpt_path",
        str(checkpoint),
        "--trainer.enable_progress_bar=false",
    ]
    main(["validate", *common])
    assert "val/accuracy/student" in capsys.readouterr().out
    main(["test", *common])
    assert "test/agreement" in capsys.readouterr().out
    main(["predict", *common])
    saved = capsys.readouterr().out.rpartition("Predictions saved: ")[2].strip()
    assert torch.load(saved, weights_only=True).shape == (449, 10)


def test_a_cli_made_checkpoint_is_rebuilt_where_trusted(folder: Path) -> None:
    fit("combined.yaml")
    checkpoint = only(folder, "runs/digits/combined/**/last.ckpt")
    with pytest.raises(ValueError, match=r"name \(.*lit_distill.*trust=True"):
        CombinedDistillation.load_from_checkpoint(checkpoint)
    module = CombinedDistillation.load_from_checkpoint(checkpoint, trust=True)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    assert any("projectors" in name for name in saved)
    assert not any("teacher" in name for name in saved)


def test_the_automatic_optimizer_holds_the_projectors(folder: Path) -> None:
    class Look(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
            self.equal = held == {id(p) for p in pl_module.parameters() if p.requires_grad}
            self.before = pl_module.criteria["hint"].projectors[0].linear.weight.clone()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.moved = not torch.equal(self.before, pl_module.criteria["hint"].projectors[0].linear.weight)

    cli = DistillationCLI(_without_verb(), run=False)
    look = Look()
    cli.trainer.callbacks.append(look)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert look.equal
    assert look.moved


def _without_verb() -> list[str]:
    return find_configs(["--config", "configs/digits/combined.yaml", *SHORT])


def test_weights_and_temperature_from_the_command_line(folder: Path) -> None:
    options = ["--model.weights.soft=0.25", "--model.temperature=7"]
    cli = DistillationCLI(find_configs(["--config", "configs/digits/logit.yaml", *SHORT, *options]), run=False)
    assert isinstance(cli.model, LogitDistillation)
    assert cli.model.criteria.weights == {"hard": 0.1, "soft": 0.25}
    assert cli.model.criteria["soft"].temperature == 7.0


def test_an_explicit_value_beats_the_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("logit.yaml")
    checkpoint = only(folder, "runs/digits/logit/**/last.ckpt")
    capsys.readouterr()
    options = ["--model.temperature=8", f"--ckpt_path={checkpoint}", "--trainer.max_epochs=3"]
    main(["fit", "--config", "configs/digits/logit.yaml", *QUIET, *options])
    assert "temperature: the checkpoint was made with 4.0, the config says 8.0" in capsys.readouterr().err
    resumed = max(folder.glob("runs/digits/logit/**/last.ckpt"), key=lambda path: path.stat().st_mtime)
    saved = torch.load(resumed, weights_only=True)
    assert saved["epoch"] == 2
    assert saved["hyper_parameters"]["temperature"] == 8.0


def test_print_config_and_help_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *_without_verb(), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == "lit_distill.CombinedDistillation"
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "lit-distill demo" in shown
    assert len(shown.splitlines()) < 60
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert capsys.readouterr().out.startswith("usage: lit-distill fit --config FILE")


@pytest.mark.slow
def test_demo_prints_student_teacher_and_baseline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--seeds", "1", "--epochs", "2"])
    shown = capsys.readouterr().out
    for word in ("teacher", "student, labels only", "student, distilled", "tensorboard --logdir"):
        assert word in shown


def test_strip_takes_out_what_distilling_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = {"layer.weight": torch.ones(2)}
    saved = {"state_dict": {**mine, f"{ENTRY_KEY}.projector.weight": torch.zeros(3)}, ENTRY_KEY: {}, "epoch": 4}
    torch.save(saved, tmp_path / "in.ckpt")
    main(["strip", str(tmp_path / "in.ckpt"), str(tmp_path / "out.ckpt")])
    stripped = torch.load(tmp_path / "out.ckpt", weights_only=True)
    assert stripped.keys() == {"state_dict", "epoch"}
    assert stripped["state_dict"].keys() == mine.keys()
    assert "projector.weight" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "message"), [(b"no", "in.ckpt"), ({"a": 1}, "no Lightning checkpoint")])
def test_what_strip_cannot_read_is_said(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "in.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(SystemExit, match=message):
        main(["strip", str(path), str(tmp_path / "out.ckpt")])
    assert not (tmp_path / "out.ckpt").exists()


# Models of every kind --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize(
    "model",
    [
        {"class_path": "torchvision.models.squeezenet1_1", "init_args": {"num_classes": 10}},
        {
            "class_path": "lit_distill.models.create_model",
            "init_args": {"function": "timm.create_model", "arguments": {"model_name": "resnet10t", "num_classes": 10}},
        },
        {
            "class_path": "lit_distill.models.build",
            "init_args": {"function": "transformers.ResNetForImageClassification", "arguments": {}},
        },
        {"class_path": "plain_models.bare_function", "init_args": {"width": 4}},
        {"class_path": "plain_models.Muted"},
    ],
    ids=["torchvision", "timm", "hugging_face", "bare_function", "lightning_module"],
)
def test_any_model_in_any_role_from_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, model: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plain_models.py").write_text(_PLAIN_MODELS)
    arguments = model.get("init_args", {})
    if arguments.get("function") == "transformers.ResNetForImageClassification":
        model = {"class_path": "plain_models.hugging_face"}
    other = {"class_path": "plain_models.bare_function"}
    config = {
        "trainer": {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "logger": False},
        "model": {
            "class_path": "lit_distill.LogitDistillation",
            "init_args": {"student": other, "teacher": other} | {role: model},
        },
        "data": {"class_path": "plain_models.Images"},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "config.yaml", *QUIET, "--trainer.enable_checkpointing=false"])


_PLAIN_MODELS = '''
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def bare_function(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def hugging_face() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=10)
    return ResNetForImageClassification(config)


class Muted(LightningModule):
    """Reads its own hparams and logs in forward, as real ones do."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.net = bare_function(width)

    def forward(self, x):
        assert self.hparams.width == 4
        self.log("inner", x.mean())
        return self.net(x)


class Images(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(4, 3, 64, 64), torch.arange(4)), batch_size=2)

    val_dataloader = train_dataloader
'''


# Mistakes --------------------------------------------------------------------------------------------


def _write_code(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {path.parent / 'exploded'}",))

    torch.save({"state_dict": Bomb()}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no checkpoint at runs/digits/teacher/teacher.ckpt"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "teacher.ckpt is damaged or no checkpoint"),
        (lambda path: torch.save(SmallCNN(16).state_dict(), path), "teacher.ckpt does not fit SmallCNN"),
        (_write_code, "loading them could run code; it was refused"),
    ],
    ids=["missing", "truncated", "wrong architecture", "code"],
)
def test_a_bad_teacher_file_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(folder / "runs/digits/teacher/teacher.ckpt")
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as caught:
        fit("logit.yaml")
    assert message in str(caught.value) + capsys.readouterr().err
    assert not (folder / "runs/digits/teacher/exploded").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.temperature=0", "temperature must be above 0"),
        ("--model.weights.sofd=1", "Did you mean 'soft'"),
        ("--model.weights.soft=-1", "at least 0"),
        ("--model.class_path=lit_distill.LogitDistilation", "LogitDistilation"),
        ("--data.train_size=0", "train_size must be between 1 and"),
    ],
)
def test_a_mistake_on_the_command_line_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:
        fit("logit.yaml", option)
    assert message in str(caught.value) + capsys.readouterr().err


# Whole processes -------------------------------------------------------------------------------------


def run_module(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lit_distill", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200, **options)


@pytest.mark.slow
def test_python_m_lit_distill(folder: Path) -> None:
    done = run_module("fit", "--config", "configs/digits/baseline.yaml", *SHORT, folder=folder)
    assert done.returncode == 0, done.stderr


_SLOW_DATA = '''
import time
from lit_distill.data import Digits


class SlowDigits(Digits):
    """Leaves the time to be killed in the middle of an epoch."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training and self.trainer.current_epoch == 2:
            open("in-epoch-2", "a").write(".")
            time.sleep(0.2)
        return batch
'''


@pytest.mark.slow
def test_kill_9_in_mid_epoch_and_resume_gives_the_same_weights_bit_for_bit(folder: Path) -> None:
    (folder / "slow_data.py").write_text(_SLOW_DATA)
    options = [*QUIET, "--trainer.max_epochs=4", "--data=slow_data.SlowDigits", "--data.train_size=256"]
    fit_combined = ["fit", "--config", "configs/digits/combined.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    whole = run_module(*fit_combined, "--trainer.default_root_dir=whole", folder=folder, env=environment)
    assert whole.returncode == 0, whole.stderr
    (folder / "in-epoch-2").unlink()

    command = [sys.executable, "-m", "lit_distill", *fit_combined, "--trainer.default_root_dir=killed"]
    victim = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    mark = folder / "in-epoch-2"
    deadline = time.monotonic() + 120
    while not (mark.exists() and mark.stat().st_size >= 3):
        assert victim.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()

    last = only(folder, "killed/**/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 1
    root = "--trainer.default_root_dir=resumed"
    resumed = run_module(*fit_combined, root, f"--ckpt_path={last}", folder=folder, env=environment)
    assert resumed.returncode == 0, resumed.stderr
    weights = [torch.load(only(folder, f"{run}/**/last.ckpt"), weights_only=True) for run in ("whole", "resumed")]
    assert weights[0]["epoch"] == weights[1]["epoch"] == 3
    for name, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][name]), name


# Real data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "file"),
    [(resnet32, "resnet32-d509ac18.th"), (resnet56, "resnet56-4bfd9763.th")],
    ids=["resnet32", "resnet56"],
)
def test_third_party_weights_load_strictly(shared_data: Path, model: Callable[[], nn.Module], file: str) -> None:
    fresh = {name: value.clone() for name, value in model().state_dict().items()}
    loaded = load(model(), shared_data / "teachers" / file).state_dict()
    assert loaded.keys() == fresh.keys()
    assert not torch.equal(loaded["linear.weight"], fresh["linear.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "file", "accuracy"), [("resnet20", "resnet20-12fca82f.th", 0.8103)])
def test_third_party_weights_reach_their_accuracy_on_real_images(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared_data: Path,
    cifar_images: Path,
    model: str,
    file: str,
    accuracy: float,
) -> None:
    monkeypatch.chdir(tmp_path)
    main(
        [
            "test",
            "--config=configs/cifar10/baseline.yaml",
            "--config=configs/cifar10/images.yaml",
            f"--data.root={cifar_images}",
            "--data.num_workers=1",
            "--model.model=lit_distill.models.load",
            f"--model.model.model=lit_distill.models.{model}",
            f"--model.model.checkpoint={shared_data / 'teachers' / file}",
            "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
            "--trainer.logger.save_dir=logs",
            *QUIET,
        ]
    )
    text = only(tmp_path, "logs/**/metrics.csv").read_text().splitlines()
    row = dict(zip(text[0].split(","), text[1].split(","), strict=True))
    assert abs(float(row["test/accuracy/student"]) - accuracy) <= 0.0005


# Mistakes ---------------------------------------------------------------------------------------------


def test_a_mistyped_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"no verb 'doctr'\. Did you mean 'doctor'\? Verbs: demo, fit, .*chain"):
        main(["doctr"])


def test_an_error_is_what_first_went_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", "configs/digits/logit.yaml"])
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "configs/digits/logit.yaml: no checkpoint at runs/digits/teacher/teacher.ckpt" in last


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.startswith("lit-distill ")
