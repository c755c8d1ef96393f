"""The files of a report."""

from __future__ import annotations

import json
from pathlib import Path

from lit_distill.files.whole_file import write_whole
from lit_distill.reporting.outcome import StudentReport


def write_files(report: StudentReport, folder: Path) -> list[Path]:
    """Write ``report.md`` and ``report.json``, each whole or not at all.

    Args:
        report: The report.
        folder: Where they go; made if absent.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.md": report.markdown().encode(),
        "report.json": json.dumps(report.plain(), indent=1).encode(),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]
