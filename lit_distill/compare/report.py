"""The report of a comparison: its text for the terminal, and its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lit_distill.compare.answers import answers_text
from lit_distill.compare.front import front_text
from lit_distill.compare.page import render_page
from lit_distill.compare.picture import render
from lit_distill.compare.results import Result, write_csv, write_json
from lit_distill.compare.summary import Run, Summary, summarize
from lit_distill.compare.tables import footnotes, table_text
from lit_distill.files.whole_file import write_whole
from lit_distill.utils.names import count


def write_report(
    results: Sequence[Result],
    title: str,
    folder: Path,
    planned: Iterable[Run] = (),
    failed: Mapping[Run, str] | None = None,
) -> str:
    """Write ``report.html``, ``results.csv``, ``results.json`` and ``picture.svg``, and return the report as text.

    Args:
        results: Of one metric, each run once.
        title: Of the comparison.
        folder: Where the files go; made if absent.
        planned: All runs that there should be, as (student, teacher, method, seed); those without a result are named. If
            empty, every choice should have the seeds that any has.
        failed: Why runs have no result.

    Returns:
        Table, front and answers. Without Matplotlib there is no picture, and the text says how to get it.

    Raises:
        ValueError: There are no results, or they cannot be compared.

    Example:
        >>> import tempfile
        >>> from lit_distill.compare.results import CONTROL
        >>> runs = [Result("small", "", CONTROL, 0, 0.90, None, 3.0, (), 10, 40, 0.2, 2)]
        >>> runs += [Result("small", "big", "KD", 0, 0.92, 0.99, 4.0, (), 10, 40, 0.2, 2)]
        >>> print(write_report(runs, "Digits", Path(tempfile.mkdtemp())))
        Digits: 2 runs
        ...
        Does distillation lose accuracy here?
          That cannot be told with 1 seed: ...
    """
    summary = summarize(results, planned, failed)
    folder.mkdir(parents=True, exist_ok=True)
    picture = _picture(summary, folder)
    write_whole(folder / "report.html", render_page(summary, title, picture).encode())
    write_csv(list(results), folder / "results.csv")
    write_json(list(results), folder / "results.json")
    return report_text(summary, title, len(results), f"The report is {folder / 'report.html'}." + _no_picture(picture))


def report_text(summary: Summary, title: str, runs: int, end: str) -> str:
    """Return the report for the terminal."""
    parts = [
        f"{title}: {count(runs, 'run')}",
        table_text(summary),
        "\n".join(footnotes(summary)),
        front_text(summary),
        answers_text(summary),
        end,
    ]
    return "\n\n".join(part for part in parts if part)


def _picture(summary: Summary, folder: Path) -> str:
    """Write the picture, and return it; or return the sentence on how to get one."""
    try:
        content = render(summary)
    except ImportError as error:
        (folder / "picture.svg").unlink(missing_ok=True)  # of an earlier report, with other results
        return str(error)
    write_whole(folder / "picture.svg", content)
    return content.decode()


def _no_picture(picture: str) -> str:
    return "" if "<svg" in picture else f" There is no picture: {picture}"
