"""The JSON file beside an exported file."""

from __future__ import annotations

import json
from pathlib import Path

from lit_distill.export.exported import FileSignature


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
