"""The order of the links, what is left when one fails, and the command line; nothing is trained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lit_distill.chain import Record, main
from lit_distill.chain.config import read_chain
from lit_distill.chain.planning import plan, settings_of
from lit_distill.chain.running import in_own_process, run

CHAIN = """
folder: runs/x
config: configs/digits/baseline.yaml
links:
  one: {}
  two: {optimizer.lr: 0.5}
"""


class Launcher:
    """Stands in for the processes: leaves a checkpoint and the fit's mark, unless told that a link fails or is cut short."""

    def __init__(self, fails: str | None = None, leaves: bool = True, cut: bool = False) -> None:
        self.commands: list[list[str]] = []
        self.fails, self.leaves, self.cut = fails, leaves, cut

    def __call__(self, words: list[str]) -> int:
        self.commands.append(words)
        folder = next(word for word in words if "default_root_dir" in word).partition("=")[2]
        if self.leaves:
            Path(folder, "last.ckpt").touch()
        failed = Path(folder).name == self.fails
        record = Record.read(Path(folder))
        if record is not None and self.leaves and not failed and not self.cut:
            replace(record, finished=True).write(Path(folder))
        return int(failed)

    @property
    def names(self) -> list[str]:
        return [Path(word.partition("=")[2]).name for words in self.commands for word in words if "root_dir" in word]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.yaml").write_text(CHAIN)
    return tmp_path


def chain(launch: Launcher, *options: str) -> Launcher:
    main(["--config", "chain.yaml", *options], launch)
    return launch


def test_links_run_in_order_and_further_options_reach_each(capsys: pytest.CaptureFixture[str]) -> None:
    launch = chain(Launcher(), "--trainer.max_epochs", "2")
    assert launch.names == ["one", "two"]
    assert all(words[words.index("--trainer.max_epochs") + 1] == "2" for words in launch.commands)
    printed = capsys.readouterr().out
    assert "$ lit-distill fit --config configs/digits/baseline.yaml --optimizer.lr=0.5" in printed
    assert "two: runs/x/two/last.ckpt" in printed


def test_a_finished_chain_runs_nothing_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    chain(Launcher())
    assert chain(Launcher()).commands == []
    assert "[1/2] one: finished before, skipped" in capsys.readouterr().out


def test_a_failed_link_stops_the_chain_which_then_goes_on_from_it() -> None:
    with pytest.raises(SystemExit, match="link 'two' ended early .exit code 1."):
        chain(Launcher(fails="two"))
    record = Record.read(Path("runs/x/two"))
    assert record is not None
    assert not record.finished
    launch = chain(Launcher())
    assert launch.names == ["two"]
    assert launch.commands[0][-1] == "--ckpt_path=runs/x/two/last.ckpt"
    assert chain(Launcher()).commands == []


def test_a_link_that_ended_with_0_is_unfinished_unless_its_fit_says_so() -> None:
    with pytest.raises(SystemExit, match="link 'one' ended before its fit was finished, and with exit code 0"):
        chain(Launcher(cut=True))
    launch = chain(Launcher())
    assert launch.names == ["one", "two"]
    assert launch.commands[0][-1] == "--ckpt_path=runs/x/one/last.ckpt"


@pytest.mark.parametrize("code", [143, -15])
def test_a_link_that_was_terminated_ends_the_chain_with_143(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config", "chain.yaml"], lambda words: code)
    assert ended.value.code == 143
    assert f"lit-distill chain: link 'one' ended early (exit code {code})" in capsys.readouterr().err


@pytest.mark.parametrize("code", [1, 143])
def test_messages_speak_for_the_command_that_was_given(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    links = read_chain(Path("chain.yaml"))
    steps = plan(links, {link.name: settings_of(link) for link in links})
    with pytest.raises(SystemExit) as ended:
        run(steps, launch=lambda words: code, verb="fit")
    assert (
        f"lit-distill fit: link 'one' ended early (exit code {code})" in f"{ended.value.code}{capsys.readouterr().err}"
    )


def test_a_link_started_again_never_sees_the_checkpoint_of_its_last_making() -> None:
    chain(Launcher())
    with pytest.raises(SystemExit, match="left no runs/x/one/last.ckpt"):
        chain(Launcher(leaves=False), "--optimizer.weight_decay=0.3", "--again")
    record = Record.read(Path("runs/x/one"))
    assert record is not None
    assert not record.finished
    assert not Path("runs/x/one/last.ckpt").exists()


def test_changed_settings_are_refused_with_what_differs() -> None:
    chain(Launcher())
    with pytest.raises(SystemExit, match=r"two: optimizer.init_args.weight_decay: 0.01, now 0.3"):
        chain(Launcher(), "--optimizer.weight_decay=0.3")
    with pytest.raises(SystemExit, match="--again"):
        chain(Launcher(), "--optimizer.weight_decay=0.3", "--dry_run")


def test_a_dry_run_prints_a_script_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch = chain(Launcher(), "--dry_run", "--folder", "runs/y")
    lines = capsys.readouterr().out.splitlines()
    assert launch.commands == []
    assert [line.split()[0] for line in lines] == ["#", "lit-distill", "#", "lit-distill"]
    assert "--trainer.default_root_dir=runs/y/two" in lines[3]
    assert [path.name for path in folder.iterdir()] == ["chain.yaml"]


def test_a_mistake_in_the_last_link_is_found_before_the_first_runs(folder: Path) -> None:
    launch = Launcher()
    (folder / "chain.yaml").write_text(CHAIN.replace("optimizer.lr", "optimizer.lrr"))
    with pytest.raises(SystemExit, match="link 'two' cannot run"):
        chain(launch)
    assert launch.commands == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "nowhere.yaml"], "one chain at a time"),
        (["--folder"], "expected one argument"),
    ],
)
def test_a_mistake_on_the_command_line_is_said(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        chain(Launcher(), *options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_a_launcher_of_many_processes_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "2")
    with pytest.raises(SystemExit, match=f"{variable} is 2.*--dry_run"):
        chain(Launcher())
    monkeypatch.setenv(variable, "1")
    assert chain(Launcher()).names == ["one", "two"]


def test_two_chains_cannot_share_a_folder() -> None:
    class Nested(Launcher):
        def __call__(self, words: list[str]) -> int:
            with pytest.raises(SystemExit, match="another chain is running in runs/x"):
                chain(Launcher())
            return super().__call__(words)

    assert chain(Nested()).names == ["one", "two"]


_LINK = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up'); time.sleep(60)"


def test_sigterm_is_handed_to_the_link_and_counts_as_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job manager ends the chain's process alone: its link must not train on, nor count as finished."""
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(words: list[str]) -> subprocess.Popen[str]:
        assert words[1:] == ["-m", "lit_distill", "fit"]
        started.append(popen([sys.executable, "-uc", _LINK], stdout=subprocess.PIPE, text=True))
        return started[0]

    def interrupt() -> None:
        while signal.getsignal(signal.SIGTERM) is before:
            time.sleep(0.01)
        assert started[0].stdout is not None
        started[0].stdout.readline()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.getsignal(signal.SIGTERM)
    helper = threading.Thread(target=interrupt)
    helper.start()
    begin = time.monotonic()
    assert in_own_process(["fit"]) == 143, "the link's own exit code was 0"
    helper.join()
    assert started[0].poll() == 0
    assert time.monotonic() - begin < 30
    assert signal.getsignal(signal.SIGTERM) is before
