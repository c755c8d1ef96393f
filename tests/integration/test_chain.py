"""Chains that train: what they leave, and that an interrupted one goes on to the same weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_distill.chain import main as chain
from lit_distill.chain.running import Launch, in_own_process
from lit_distill.cli.command import main
from lit_distill.models import SmallCNN

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = [*QUIET, "--trainer.max_epochs=2", "--data.train_size=64"]

_FRAGILE_DATA = '''
import os
import signal
from pathlib import Path

from lit_distill.data import Digits


class FragileDigits(Digits):
    """Ends a run of the link that a file names: in its second epoch, at the second batch."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        doomed = Path("doomed")
        here = Path(self.trainer.default_root_dir).name
        if doomed.exists() and doomed.read_text() == here and self.trainer.training and self.trainer.global_step == 3:
            doomed.unlink()
            if os.environ.get("DOOM") == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("a fault in mid-epoch")
        return batch
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a digits teacher, and with data that can end a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits/teacher").mkdir(parents=True)
    torch.save(SmallCNN(32).state_dict(), tmp_path / "runs/digits/teacher/teacher.ckpt")
    (tmp_path / "fragile_data.py").write_text(_FRAGILE_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def here(words: list[str]) -> int:
    """Run a link in this process: the import of the library is most of a short one's time."""
    try:
        main(words)
    except RuntimeError:
        return 1
    return 0


def run_chain(name: str, config: str = "assistant.yaml", launch: Launch = here) -> None:
    options = ["--config", f"configs/digits/{config}", "--folder", name, *SHORT, "--data=fragile_data.FragileDigits"]
    chain(options, launch)


def weights(folder: str, link: str) -> dict[str, Any]:
    saved = torch.load(Path(folder, link, "last.ckpt"), weights_only=True)
    assert saved["epoch"] == 1
    return saved["state_dict"]


def assert_equal(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.slow
def test_an_interrupted_chain_goes_on_to_the_same_weights_bit_for_bit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_chain("whole")
    made: dict[str, int] = {}
    for doomed in ("assistant", "student"):
        (folder / "doomed").write_text(doomed)
        with pytest.raises(SystemExit, match=f"link '{doomed}' ended early"):
            run_chain("cut")
        assert torch.load(folder / "cut" / doomed / "last.ckpt", weights_only=True)["epoch"] == 0
        made[doomed] = (folder / "cut/assistant/last.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    run_chain("cut")
    printed = capsys.readouterr().out
    assert "[1/2] assistant: finished before, skipped" in printed
    assert "[2/2] student: goes on from cut/student/last.ckpt" in printed
    assert (folder / "cut/assistant/last.ckpt").stat().st_mtime_ns == made["student"] > made["assistant"]
    for link in ("assistant", "student"):
        assert_equal(weights("whole", link), weights("cut", link))


@pytest.mark.slow
def test_a_link_killed_in_its_own_process_goes_on_and_its_command_repeats_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a user runs it: SIGKILL in mid-epoch; and the printed command gives the same weights by hand."""
    monkeypatch.setenv("DOOM", "kill")
    (folder / "doomed").write_text("student")
    with pytest.raises(SystemExit, match=r"link 'student' ended early .exit code -9."):
        run_chain(
            "cut",
            launch=lambda words: (in_own_process if "--model.student.init_args.width=8" in words else here)(words),
        )
    printed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("$ lit-distill ")]
    run_chain("cut")
    assert "[1/2] assistant: finished before, skipped" in capfd.readouterr().out
    main(shlex.split(printed[1].removeprefix("$ lit-distill ").replace("cut/student", "by_hand/student")))
    assert_equal(weights("cut", "student"), weights("by_hand", "student"))


@pytest.mark.slow
def test_each_generation_is_taught_by_the_one_before(folder: Path) -> None:
    """The defining property of born-again networks, seen in what each run says of its teacher."""
    run_chain("born", "born_again.yaml")
    first, second, third = (weights("born", f"generation{number}") for number in (1, 2, 3))
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in third.items()}
    assert not torch.equal(first["student.stage1.0.weight"], second["student.stage1.0.weight"])
    configs = [next(folder.glob(f"born/generation{n}/**/config.yaml")).read_text() for n in (1, 2, 3)]
    assert "runs/digits/teacher/teacher.ckpt" in configs[0]
    assert "born/generation1/last.ckpt" in configs[1]
    assert "born/generation2/last.ckpt" in configs[2]


FOUND = """
folder: runs/found
config: start.yaml
links:
  assistant: {model.init_args.student.init_args.width: 16}
  student:
    model.init_args.teacher.init_args.model: {class_path: SmallCNN, init_args: {width: 16}}
    model.init_args.teacher.init_args.checkpoint: "{assistant}"
"""
_START = """
trainer: {max_epochs: 2, callbacks: [{class_path: ModelCheckpoint, init_args: {filename: last, enable_version_counter: false}}]}
model:
  class_path: DistillationModule
  init_args:
    student: {class_path: SmallCNN, init_args: {width: 8}}
    teacher: {class_path: load, init_args: {model: SmallCNN, checkpoint: runs/digits/teacher/teacher.ckpt}}
    criteria: {hard: HardTarget, soft: SoftTarget, hint: Hint}
    weights: {}
data: {class_path: Digits, init_args: {train_size: 64}}
"""


@pytest.mark.slow
def test_weights_and_layers_are_found_anew_in_each_link(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "found.yaml").write_text(FOUND)
    (folder / "start.yaml").write_text(_START)

    def run(name: str) -> None:
        chain(["--config", "found.yaml", "--folder", name, *SHORT, "--data=fragile_data.FragileDigits"], here)

    run("whole")
    (folder / "doomed").write_text("student")
    with pytest.raises(SystemExit, match="link 'student' ended early"):
        run("cut")
    run("cut")
    for link in ("assistant", "student"):
        assert_equal(weights("whole", link), weights("cut", link))
        saved = torch.load(Path("cut", link, "last.ckpt"), weights_only=True)
        assert saved["lit_distill"]["layers"]["hint"] == {side: ["stage2", "stage3"] for side in ("student", "teacher")}
        assert weights("cut", link)["criteria.balance.norms"].gt(0).all()
    found = [weights("whole", link)["criteria.balance.norms"] for link in ("assistant", "student")]
    assert not torch.equal(*found)
