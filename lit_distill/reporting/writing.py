"""The files of a report."""

from __future__ import annotations

import json
from pathlib import Path

from lit_distill.compare.picture import as_file
from lit_distill.files.whole_file import write_whole
from lit_distill.reporting.board import write_board
from lit_distill.reporting.outcome import StudentReport
from lit_distill.reporting.pictures import draw_pictures
from lit_distill.reporting.student_page import student_page


def write_files(report: StudentReport, folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``report.json``, each whole or not at all, and ``tensorboard``.

    Without Matplotlib the page has no pictures, and says how to get them.

    Args:
        report: The report.
        folder: Where they go; made if absent.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = ""
    try:
        pictures = draw_pictures(report)
    except ImportError as error:
        pictures, missing = {}, str(error)
    drawn = {title: as_file(figure).decode() for title, figure in pictures.items()}
    contents = {
        "report.html": student_page(report, drawn, missing).encode(),
        "report.md": report.markdown().encode(),
        "report.json": json.dumps(report.plain(), indent=1).encode(),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    write_board(report, pictures, folder / "tensorboard")
    return [*(folder / name for name in contents), folder / "tensorboard"]
