"""A run that a signal ends never looks like one that succeeded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, LogitDistillation, RecordedTeacher
from lit_distill.chain import LinkCheckpoint, Record
from lit_distill.cli.command import main
from lit_distill.models import MLP
from lit_distill.recording import plan
from lit_distill.utils.signals import TERMINATED, exit_code_on_sigterm
from tests.promises.conftest import Tally
from tests.promises.forks import in_fork

pytestmark = pytest.mark.slow

NEVER_SUCCESS = "SIGTERM ends a run with 143, and no signal that ends one reads as success"
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

HOOKS = {
    "fit": [
        "setup",
        "on_fit_start",
        "on_sanity_check_start",
        "on_validation_batch_end",
        "on_sanity_check_end",
        "on_train_start",
        "on_train_batch_start",
        "on_before_zero_grad",
        "on_train_batch_end",
        "on_validation_end",
        "on_train_epoch_end",
        "on_train_end",
        "on_fit_end",
        "teardown",
    ],
    "validate": ["setup", "on_validation_start", "on_validation_batch_end", "on_validation_end", "teardown"],
    "test": ["on_test_batch_end", "on_test_epoch_end", "teardown"],
    "predict": ["on_predict_start", "on_predict_batch_start", "on_predict_end", "teardown"],
}
CASES = [(verb, hook) for verb, hooks in HOOKS.items() for hook in hooks]


def loader() -> DataLoader[Any]:
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(24, 8), torch.randint(0, 3, (24,))), 8)


def theirs(package: Any) -> Any:
    """A module of a package of Lightning's, and what distils into it."""

    class Theirs(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = MLP(8, [6], 3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", self.training_step(batch, batch_idx))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=0.1)

    return Theirs()


def sending(package: Any, hook: str, number: int) -> Any:
    """A callback that sends this process a signal, once, in a hook."""
    callback = package.Callback()

    def send(*arguments: Any, **options: Any) -> None:
        delattr(callback, hook)
        os.kill(os.getpid(), number)
        time.sleep(0.001)

    setattr(callback, hook, send)
    return callback


def run(door: str, verb: str, hook: str, number: int = signal.SIGTERM, **options: Any) -> None:
    """Run a Trainer's verb by one of the doors to the library."""
    package = pytorch_lightning if door == "pytorch_lightning" else lightning.pytorch
    callbacks = [sending(package, hook, number)]
    if door == "module":
        module: Any = LogitDistillation(MLP(8, [6], 3), MLP(8, [10], 3))
    else:
        module = theirs(package)
        callbacks.insert(0, Distill(MLP(8, [10], 3)))
    trainer: Any = package.Trainer(**{**QUIET, "max_epochs": 2, "callbacks": callbacks, **options})
    data = [loader(), loader()] if verb == "fit" else [loader()]
    getattr(trainer, verb)(module, *data)


@pytest.mark.parametrize("door", ["module", "lightning.pytorch", "pytorch_lightning"])
def test_sigterm_at_any_moment_ends_a_script_with_143(tmp_path: Path, door: str, tally: Tally) -> None:
    log = tmp_path / "log"
    found = {case: in_fork(lambda case=case: run(door, *case), log=str(log)) for case in CASES}
    assert found == dict.fromkeys(CASES, TERMINATED), log.read_text()[-3000:]
    tally(NEVER_SUCCESS, len(found))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL])
def test_no_other_signal_reads_as_success(number: signal.Signals, tally: Tally) -> None:
    import resource

    def limited(verb: str, hook: str) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        run("module", verb, hook, number)

    cases = [
        ("fit", "setup"),
        ("fit", "on_train_batch_end"),
        ("fit", "on_train_end"),
        ("validate", "on_validation_end"),
    ]
    found = [in_fork(lambda case=case: limited(*case)) for case in cases]
    assert all(found), found
    tally(NEVER_SUCCESS, len(found))


def test_a_run_that_no_signal_reached_ends_with_0_and_a_script_may_go_on() -> None:
    assert in_fork(lambda: run("module", "fit", "on_nothing")) == 0


def test_the_users_own_handler_is_called_and_what_it_raises_stands() -> None:
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)

    def with_handler(handler: Callable[..., Any]) -> None:
        signal.signal(signal.SIGTERM, handler)
        try:
            run("module", "fit", "on_train_batch_end")
        finally:
            assert signal.getsignal(signal.SIGTERM) is handler
            assert handler is not note or seen == [signal.SIGTERM]

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(7)

    assert in_fork(lambda: with_handler(note)) == TERMINATED
    assert in_fork(lambda: with_handler(leave)) == 7


# The command line --------------------------------------------------------------------------------


COMMAND = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
COMMAND += ["--trainer.max_epochs=2", "--data.train_size=64"]
ASK = "tests.promises.test_signals.Sender"


class Sender(lightning.pytorch.Callback):
    """``sending``, for a config."""

    def __init__(self, hook: str) -> None:
        vars(self).update(vars(sending(lightning.pytorch, hook, signal.SIGTERM)))


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("verb", "hooks"),
    [
        ("fit", ["setup", "on_train_batch_end", "on_train_epoch_end", "on_fit_end"]),
        ("validate", ["on_validation_end"]),
        ("test", ["on_test_batch_end"]),
        ("predict", ["on_predict_start", "on_predict_end"]),
    ],
)
def test_sigterm_ends_the_command_line_with_143(baseline: Path, tally: Tally, verb: str, hooks: list[str]) -> None:
    for hook in hooks:
        words = [verb, "--config", "configs/digits/baseline.yaml", *COMMAND]
        words += [f"--trainer.callbacks+={ASK}", f"--trainer.callbacks.hook={hook}"]
        assert in_fork(lambda words=words: main(words), log=str(baseline / "log")) == TERMINATED, hook
        assert "Traceback" not in (baseline / "log").read_text()
    tally(NEVER_SUCCESS, len(hooks))


@pytest.mark.parametrize("words", [["demo", "--seeds", "1"], ["fit", "--config", "configs/digits/baseline.yaml"]])
def test_sigterm_from_outside_ends_the_command_line_with_143(baseline: Path, tally: Tally, words: list[str]) -> None:
    """At any time: while it parses, sets up and trains."""

    def sent_after(seconds: float) -> None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with exit_code_on_sigterm():
            signal.setitimer(signal.ITIMER_REAL, seconds)
            main([*words, *(["--trainer.max_epochs=1000", "--trainer.logger=false"] if words[0] == "fit" else [])])

    for seconds in (0.01, 0.3, 0.8, 1.5):
        assert in_fork(lambda seconds=seconds: sent_after(seconds)) == TERMINATED
    tally(NEVER_SUCCESS, 4)


def test_sigterm_while_recording_ends_it_and_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setattr(plan, "_FEWEST_ROWS", 8)

    def record(send: bool) -> None:
        asked = 0

        class Sending(MLP):
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                nonlocal asked
                asked += 1
                if send and asked == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().forward(inputs)

        torch.manual_seed(0)
        teacher = RecordedTeacher(Sending(8, [10], 3), tmp_path / "record")
        torch.manual_seed(0)
        module = LogitDistillation(MLP(8, [6], 3), teacher)
        data = DataLoader(TensorDataset(torch.arange(512.0).reshape(64, 8), torch.arange(64) % 3), 8)
        lightning.pytorch.Trainer(**QUIET, max_epochs=1).fit(module, data)

    assert in_fork(lambda: record(True)) == TERMINATED
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "record").glob("*.npy")}
    assert 0 < len(shards) < 8
    assert in_fork(lambda: record(False)) == 0
    assert len(list((tmp_path / "record").glob("*.npy"))) == 8
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in shards.items())
    tally(NEVER_SUCCESS)


def test_the_commands_own_handler_ends_the_processes_that_it_started() -> None:
    def started() -> None:
        with exit_code_on_sigterm():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            time.sleep(0.3)  # Python drops signals that come as it forks
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                child.join(5)
                assert child.exitcode is not None

    assert in_fork(started) == TERMINATED


# A link of a chain ---------------------------------------------------------------------------------


def link(folder: Path, number: int | None, hook: str, resume: bool = False, **options: Any) -> None:
    """One link's fit as the chain starts it: with a record that says that it is not finished."""
    torch.manual_seed(0)
    callbacks: list[Any] = [LinkCheckpoint(str(folder)), *options.pop("callbacks", [])]
    if number is not None:
        callbacks.append(sending(lightning.pytorch, hook, number))
    settings = {**QUIET, "max_epochs": 3, "enable_checkpointing": True, "callbacks": callbacks, **options}
    trainer = lightning.pytorch.Trainer(**settings)
    trainer.fit(
        LogitDistillation(MLP(8, [6], 3), MLP(8, [10], 3)),
        loader(),
        loader(),
        ckpt_path=folder / "last.ckpt" if resume else None,
    )


def finished(folder: Path) -> bool:
    record = Record.read(folder)
    assert record is not None
    return record.finished


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    ("hook", "done"), [("on_train_batch_end", False), ("on_train_epoch_end", False), ("on_train_end", None)]
)
def test_a_link_is_finished_when_its_fit_says_so(
    tmp_path: Path, tally: Tally, number: signal.Signals, hook: str, done: bool | None
) -> None:
    Record("run", False, {}, {}).write(tmp_path)
    assert in_fork(lambda: link(tmp_path, number, hook)) == 128 + number
    # SIGTERM that comes when all is trained leaves a finished fit, SIGKILL none.
    assert finished(tmp_path) is (number == signal.SIGTERM if done is None else done)
    saved = tmp_path / "last.ckpt"
    before = torch.load(saved, weights_only=True)["state_dict"] if saved.exists() else {}
    assert in_fork(lambda: link(tmp_path, None, "", resume=saved.exists())) == 0
    assert finished(tmp_path)
    after = torch.load(saved, weights_only=True)["state_dict"]
    if done is None:  # between its last checkpoint and its mark
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    tally("a chain's link counts as finished only when its fit was")


def test_a_link_that_early_stopping_ended_is_finished_and_stays_so_when_killed_before_its_mark(
    tmp_path: Path, tally: Tally
) -> None:
    def stopping() -> list[Any]:
        return [lightning.pytorch.callbacks.EarlyStopping("train/loss", patience=1, min_delta=1e9, mode="min")]

    Record("run", False, {}, {}).write(tmp_path)
    options = {"max_epochs": 50}
    assert in_fork(lambda: link(tmp_path, signal.SIGKILL, "on_train_end", callbacks=stopping(), **options)) == 137
    assert not finished(tmp_path)
    epoch = torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"]
    assert epoch == 1
    assert in_fork(lambda: link(tmp_path, None, "", resume=True, callbacks=stopping(), **options)) == 0
    assert finished(tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == epoch
    tally("a chain's link counts as finished only when its fit was")


# Several processes -----------------------------------------------------------------------------------


_SCRIPT = """
import os, sys
import torch
from lightning.pytorch import Trainer
from tests.promises.test_signals import LogitDistillation, MLP, QUIET, loader, sending
import lightning.pytorch as package

if __name__ == "__main__":
    class Ready(package.Callback):
        def on_train_batch_end(self, trainer, *rest):
            if trainer.current_epoch == 2 and trainer.is_global_zero:
                open(sys.argv[2], "w").close()

    torch.manual_seed(0)
    trainer = Trainer(**QUIET, max_epochs=10**6, devices=2, strategy=sys.argv[1], callbacks=[Ready()])
    trainer.fit(LogitDistillation(MLP(8, [6], 3), MLP(8, [10], 3)), loader())
"""


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_sigterm_ends_two_processes(tmp_path: Path, tally: Tally, strategy: str) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(tmp_path / "script.py"), strategy, str(tmp_path / "ready")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 100
        while not (tmp_path / "ready").exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        process.terminate()
        code = process.wait(60)
        assert code in (TERMINATED, -signal.SIGTERM), (tmp_path / "log").read_text()[-3000:]
        end = time.monotonic() + 30
        while _alive(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert not _alive(process.pid), "a process of it trains on"
    finally:
        if _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    tally(NEVER_SUCCESS)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
