"""Recordings on disk: whole or not there, checked, and safe beside other processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_distill.recording import DamagedRecording, FolderStore, MemoryStore, Plan, StaleRecording
from lit_distill.recording.plan import Layout

DTYPE = np.dtype([("logits", "<f2", (4,))])
MANIFEST = {"format": "test", "teacher": {"weights": "abc", "class": "Net"}, "views": 2}
LAYOUT = Layout(Plan(6000, 2, 100))  # three shards


def rows_of(shard: int) -> Any:
    rows = np.zeros(LAYOUT.size(shard), DTYPE)
    rows["logits"] = (LAYOUT.first_rows[shard] + np.arange(len(rows)))[:, None] / 8 + np.arange(4)
    return rows


def store(folder: Path, **changes: Any) -> FolderStore:
    return FolderStore(folder / "recording", LAYOUT, DTYPE, {**MANIFEST, **changes})


def fill(folder: Path) -> FolderStore:
    made = store(folder)
    for shard in made.missing():
        claim = made.claim(shard)
        assert claim is not None
        made.write(shard, rows_of(shard))
        claim.release()
    return made


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_rows_come_back_in_the_order_asked_for(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        fill(tmp_path)
        made: Any = store(tmp_path)
    else:
        made = MemoryStore(LAYOUT, DTYPE)
        for shard in made.missing():
            assert made.claim(shard) is not None
            made.write(shard, rows_of(shard))
    assert made.missing() == []
    asked = np.array([11999, 0, 4097, 8000, 0])
    np.testing.assert_array_equal(made.read(asked)["logits"][:, 0], (asked / 8).astype(np.float16))


def test_other_tools_can_open_and_check_it(tmp_path: Path) -> None:
    folder = fill(tmp_path).folder
    rows = np.load(folder / "shard-00000.npy", mmap_mode="r", allow_pickle=False)
    assert rows["logits"].shape == (LAYOUT.size(0), 4)
    assert json.loads((folder / "manifest.json").read_text()) == MANIFEST
    files = sorted(path.name for path in folder.glob("*.sha256"))
    checked = subprocess.run(["sha256sum", "--check", *files], cwd=folder, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("OK") == 3
    assert sorted(path.name for path in folder.iterdir() if path.suffix not in (".npy", ".sha256", ".json")) in (
        [],
        ["manifest.lock"],
    )


@pytest.mark.parametrize("place", [100, -1])
def test_a_flipped_bit_is_found(tmp_path: Path, place: int) -> None:
    made = fill(tmp_path)
    made.verify()
    path = made.folder / "shard-00001.npy"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    for share in (0, 2):
        made.verify(share, 3)  # the other processes' shards are well
    with pytest.raises(DamagedRecording, match=r"shard-00001.npy is damaged.*it alone is recorded anew"):
        made.verify(1, 3)
    path.unlink()
    assert store(tmp_path).missing() == [1]


def test_a_shard_cut_short_is_found(tmp_path: Path) -> None:
    made = fill(tmp_path)
    path = made.folder / "shard-00002.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedRecording):
        made.verify()


def test_a_damaged_manifest_is_found(tmp_path: Path) -> None:
    folder = fill(tmp_path).folder
    (folder / "manifest.json").write_text('{"format": ')
    with pytest.raises(DamagedRecording, match=r"manifest.json is damaged"):
        store(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 3}, "views: recorded 2, now 3"),
        ({"teacher": {"weights": "xyz", "class": "Net"}}, "teacher.weights: recorded abc, now xyz"),
        ({"new": 1}, "new: recorded None, now 1"),
    ],
)
def test_a_recording_of_something_else_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    fill(tmp_path)
    with pytest.raises(StaleRecording, match=re.escape(message)):
        store(tmp_path, **change)
    assert store(tmp_path).missing() == []  # and left as it was


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recording").mkdir()
    (tmp_path / "recording/thesis.txt").write_text("…")
    with pytest.raises(ValueError, match=r"is not a recording: it has 'thesis.txt' and no manifest.json"):
        store(tmp_path)


def test_a_claim_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    claim = one.claim(0)
    assert claim is not None
    assert other.claim(0) is None
    second = other.claim(1)
    assert second is not None
    claim.release()
    again = other.claim(0)
    assert again is not None
    other.write(0, rows_of(0))
    again.release()
    assert one.claim(0) is None  # it is there
    assert one.missing() == [1, 2]


def hold(folder: Path, ready: Any) -> None:
    made = store(folder)
    claim = made.claim(0)
    assert claim is not None
    (made.folder / "shard-00000.npy.partial").write_bytes(b"half")
    ready.set()
    time.sleep(60)


@pytest.mark.slow
def test_a_killed_process_leaves_no_claim_and_no_half_shard(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    made = store(tmp_path)
    assert made.claim(0) is None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert made.missing() == [0, 1, 2]
    claim = made.claim(0)
    assert claim is not None
    made.write(0, rows_of(0))
    claim.release()
    made.verify()
    assert made.missing() == [1, 2]


_FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import rows_of, store
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
made = store(Path(sys.argv[1]))
made.claim(0)
try:
    made.write(0, rows_of(0))
except OSError as error:
    print(error)
    print([path.name for path in made.folder.iterdir() if ".npy" in path.name and path.suffix != ".lock"])
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    message, left = done.stdout.splitlines()
    assert "cannot be written: File too large. What is finished stays" in message
    assert left == "[]"
