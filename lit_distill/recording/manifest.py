"""The manifest of a recording: its identity, as plain JSON, read back with care."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_distill.recording.fingerprint import manifest_differences

MANIFEST = "manifest.json"
FORMAT = "lit-distill recording 2"
UNMARKED = "lit-distill recording 1"  # without the samples' marks
_LARGEST = 2**31


class DamagedRecording(ValueError):
    """Raised if a file of a recording does not hold what was written."""


def known_manifest(folder: Path | None) -> dict[str, Any]:
    """Return the manifest in a recording's folder, checked for what reading takes; empty if there is none."""
    if folder is None or not has_manifest(folder):
        return {}
    found = read_manifest(folder)
    layout = found.get("layout")
    size = layout.get("batch_size") if isinstance(layout, dict) else None
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < _LARGEST:
        shown = repr(layout if not isinstance(layout, dict) else size)[:80]
        why = f"layout.batch_size must be a whole number of at least 1, and it is {shown}"
        raise _damaged(folder / MANIFEST, why)
    return found


def has_manifest(folder: Path) -> bool:
    """Return True if a folder has a manifest of any kind: a dangling link is a damaged one."""
    path = folder / MANIFEST
    return path.exists() or path.is_symlink()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a recording's folder."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if not isinstance(found, dict):
        raise _damaged(path, f"it holds a {type(found).__name__}, not an object")
    return found


def only_digest_differs(known: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return True if two manifests differ only in the bits of their samples."""
    data = known.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("digest"), str) or data["digest"] == now["data"]["digest"]:
        return False
    return not manifest_differences({**known, "data": {**data, "digest": now["data"]["digest"]}}, now)


def identity(manifest: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of what a recording is of, whatever its batches and versions."""
    kept = {key: value for key, value in manifest.items() if key not in ("layout", "versions")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _damaged(path: Path, why: str) -> DamagedRecording:
    return DamagedRecording(f"{path} is damaged: {why[:300]}. Delete {path.parent} and record again.")
