"""An exported file and its JSON file are both there, or neither."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lit_distill.export import stored


@pytest.mark.parametrize("before", [None, b"the last good file"])
@pytest.mark.parametrize("ending", [".onnx", ".json"])
def test_a_full_disk_leaves_what_was_there(
    before: bytes | None, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    if before is not None:
        stored.write_both(path, before, {"target": "onnx"})
    kept = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    honest = stored.write_whole

    def full(target: Path, content: bytes) -> None:
        if target.suffix == ending and content != before:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(target, content)

    monkeypatch.setattr(stored, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        stored.write_both(path, b"new", {"target": "onnx", "precision": "int8"})
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == kept
