"""An exported file and the JSON file beside it, which belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_distill.export.exported import FileSignature
from lit_distill.files.whole_file import write_whole


def read_signature(path: Path) -> tuple[str, FileSignature]:
    """Return a file's target, and what it takes and returns.

    Raises:
        ValueError: There is no such file, or its JSON file is missing or damaged.
    """
    beside = Path(f"{path}.json")
    for one in (path, beside):
        if not one.is_file():
            raise ValueError(f"there is no file {one}; `export` writes both.")
    try:
        content = json.loads(beside.read_text())
        given = content["signature"]
        shapes = tuple(tuple(shape) for shape in given["shapes"])
        largest = given.get("largest")
        return content["target"], FileSignature(
            tuple(given["inputs"]),
            shapes,
            tuple(given["types"]),
            tuple(given["outputs"]),
            tuple(tuple(shape) for shape in largest) if largest is not None else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{beside} is damaged, or was not written by export: {error!r}.") from error


def write_both(path: Path, content: bytes, about: Mapping[str, Any]) -> None:
    """Write a file and the JSON file beside it; if the second cannot be written, the first is as it was before.

    Raises:
        OSError: One of them cannot be written: the disk is full, say.
    """
    before = path.read_bytes() if path.is_file() else None
    write_whole(path, content)
    try:
        write_whole(Path(f"{path}.json"), json.dumps(about, indent=1).encode())
    except BaseException:
        path.unlink()
        if before is not None:
            write_whole(path, before)
        raise
