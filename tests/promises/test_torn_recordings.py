"""A recording that is cut off, at any moment and by anything, is finished exactly; a full disk is said, and loses nothing."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_distill.recording import FolderStore, Plan, store
from lit_distill.recording.plan import Layout

pytestmark = pytest.mark.slow
FINISHED = "an interrupted recording is finished exactly"
FULL = "a full disk is reported, and what is recorded stays"
DTYPE = np.dtype([("logits", "<f2", (4,))])
LAYOUT = Layout(Plan(6000, 2, 100))  # three shards


class Cut(BaseException):
    """Ends a process's work as a kill does: nobody handles it."""


def rows_of(shard: int) -> Any:
    rows = np.zeros(LAYOUT.size(shard), DTYPE)
    rows["logits"] = (LAYOUT.first_rows[shard] + np.arange(len(rows)))[:, None] / 8 + np.arange(4)
    return rows


def record(folder: Path) -> FolderStore:
    made = FolderStore(folder, LAYOUT, DTYPE, {"format": "test"})
    made.verify()
    for shard in made.missing():
        claim = made.claim(shard)
        assert claim is not None
        try:
            made.write(shard, rows_of(shard))
        finally:  # as the system does for a process that ends
            claim.release()
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    """What a recording consists of; what helps to write it is none of it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npy", ".sha256", ".json")}


class Steps:
    """Counts what is done to files, and stops at one step: before it, or in the middle of a write."""

    def __init__(self, patch: pytest.MonkeyPatch, stop: int, fault: BaseException) -> None:
        self.count, self.stop, self.fault = 0, stop, fault
        patch.setattr(Path, "replace", self.around(Path.replace))
        patch.setattr(os, "open", self.around(os.open))
        patch.setattr(Path, "unlink", self.around(Path.unlink))
        patch.setattr(os, "fsync", self.around(os.fsync))

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.stop:
                raise self.fault
            return real(*args, **named)

        return step


def steps_of_a_recording(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, -1, Cut())
        record(folder)
    return steps.count


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    return files_of(record(tmp_path / "whole").folder)


def test_a_cut_at_every_step_is_finished_to_the_byte(tmp_path: Path, whole: dict[str, bytes], tally: Any) -> None:
    count = steps_of_a_recording(tmp_path / "counted")
    assert count >= 20
    for stop in range(1, count + 1):
        folder = tmp_path / f"cut-{stop}"
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, stop, Cut())
            with pytest.raises(Cut):
                record(folder)
        finished = record(folder)
        finished.verify()
        assert files_of(folder) == whole
    tally(FINISHED, count)


def test_a_full_disk_at_every_step_is_said_and_loses_nothing(
    tmp_path: Path, whole: dict[str, bytes], tally: Any
) -> None:
    count = steps_of_a_recording(tmp_path / "counted")
    for stop in range(1, count + 1):
        folder = tmp_path / f"full-{stop}"
        before: dict[str, bytes] = {}
        said: OSError | None = None
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, stop, OSError(errno.ENOSPC, "No space left on device"))
            try:
                record(folder)
            except OSError as error:
                said, before = error, files_of(folder)
        if said is not None:  # what only tidies up may fail without a word
            assert said.errno == errno.ENOSPC
            assert f"the recording in {folder} cannot be written: No space left on device" in str(said)
        assert all(before[name] == whole[name] for name in before if name.endswith(".npy"))
        record(folder)
        assert files_of(folder) == whole
    tally(FULL, count)


_LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_torn_recordings import record
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    record(Path(sys.argv[1]))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("most", [0, 40, 20_000])
def test_files_that_may_not_grow_are_said(most: int, tmp_path: Path, whole: dict[str, bytes], tally: Any) -> None:
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "limited"), str(Path(__file__).parent), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "cannot be written: File too large" in done.stdout
    assert not list((tmp_path / "limited").glob("*.npy"))
    record(tmp_path / "limited")
    assert files_of(tmp_path / "limited") == whole
    tally(FULL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where there is the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_is_said_and_a_larger_one_finishes(
    small_disk: Path, tmp_path: Path, whole: dict[str, bytes], tally: Any
) -> None:
    with pytest.raises(OSError, match=r"cannot be written: No space left on device"):
        record(small_disk / "record")
    there = files_of(small_disk / "record")
    assert {name: whole[name] for name in there} == there
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    record(small_disk / "record")
    assert files_of(small_disk / "record") == whole
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert record(small_disk / "record").missing() == []  # a finished one needs no writing
    (tmp_path / "none").mkdir()
    tally(FULL, 2)


class _NotWritable:
    def __init__(self, path: Any, *rest: Any, **named: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_a_finished_recording_is_read_where_nothing_can_be_written(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tally: Any
) -> None:
    monkeypatch.setattr(store, "FileLock", _NotWritable)
    assert record(tmp_path / "whole").missing() == []
    (tmp_path / "whole/shard-00001.npy").unlink()
    with pytest.raises(OSError, match=r"cannot be written: Permission denied \(shard-00001.npy.lock\)"):
        record(tmp_path / "whole")
    with pytest.raises(OSError, match=r"cannot be written: Permission denied \(manifest.lock\)"):
        record(tmp_path / "new")
    tally("a finished recording is read where nothing can be written")


# Whole fits that are killed ----------------------------------------------------------------------------------------

_FIT = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from lightning.pytorch import Trainer
from lit_distill import LogitDistillation, RecordedTeacher
from lit_distill.models import MLP
from lit_distill.recording import plan
from torch.utils.data import DataLoader, TensorDataset

plan._FEWEST_ROWS = 8
data = TensorDataset(torch.randn(160, 8, generator=torch.Generator().manual_seed(0)), torch.arange(160) % 3)
torch.manual_seed(1)
pause = float(sys.argv[2])

class Slow(MLP):
    def forward(self, x):
        if len(x) == 4:
            print("asked", flush=True)
            time.sleep(pause)
        return super().forward(x)

module = LogitDistillation(MLP(8, [2], 3), RecordedTeacher(Slow(8, [4], 3), sys.argv[1], logits="float32"))
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(module, DataLoader(data, batch_size=4, shuffle=True))
print("recorded", module._teacher.recorded)
"""


def begin(folder: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _FIT, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def test_kills_at_random_moments_are_finished_to_the_byte(tmp_path: Path, tally: Any) -> None:
    done = begin(tmp_path / "whole")
    done.communicate(timeout=120)
    assert done.returncode == 0
    whole = files_of(tmp_path / "whole")
    moments = random.Random(0)
    folder, kills = tmp_path / "killed", 0
    for _ in range(4):  # of one recording, each time from where the last kill left it
        process = begin(folder, pause=0.03)
        assert process.stdout is not None
        if process.stdout.readline() == "asked\n":
            time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        assert all(content == whole[name] for name, content in files_of(folder).items() if name.endswith(".npy"))
    process = begin(folder)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert files_of(folder) == whole
    tally(FINISHED, kills)


def test_two_processes_that_record_at_once_make_one_recording(tmp_path: Path, tally: Any) -> None:
    together = [begin(tmp_path / "shared", pause=0.01) for _ in range(2)]
    said = [process.communicate(timeout=180)[0].splitlines()[-1] for process in together]
    assert sum(int(line.split()[1]) for line in said) == 160
    assert {path.suffix for path in (tmp_path / "shared").iterdir()} <= {".npy", ".sha256", ".json", ".lock"}
    tally("processes that record at the same time make one recording")
