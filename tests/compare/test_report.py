from __future__ import annotations

import builtins
import csv
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lit_distill.compare.page import render_page
from lit_distill.compare.picture import draw_comparison, render
from lit_distill.compare.report import report_text, write_report
from lit_distill.compare.results import read_json
from lit_distill.compare.summary import summarize
from lit_distill.compare.tables import cells
from tests.compare.runs import controls, run, runs

HOSTILE = ("<script>alert(1)</script>", "a\"b'&c", "$x_{1", "_hidden", "学生")


def results(names: tuple[str, ...] = ("tiny", "small")) -> list:
    found = []
    for place, student in enumerate(names, start=1):
        found += controls(student, [0.90, 0.91, 0.92], latency_ms=0.1 * place**3, size_bytes=1000 * place)
        for method in ("KD", "AT"):
            scores = [0.93, 0.92, 0.94 + place / 100]
            found += runs(student, f"of {student}", method, scores, latency_ms=0.1 * place**3, size_bytes=1000 * place)
    return found


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text; every element is closed in order."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    return write_report(results(), "Digits", folder), folder


def test_all_files_are_written(written: tuple[str, Path]) -> None:
    text, folder = written
    assert {path.name for path in folder.iterdir()} == {"report.html", "results.csv", "results.json", "picture.svg"}
    assert text.splitlines()[0] == "Digits: 18 runs"
    assert text.endswith(f"The report is {folder / 'report.html'}.")
    assert read_json(folder / "results.json") == results()
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [float(row["score"]) for row in rows] == [one.score for one in results()]
    assert ElementTree.parse(folder / "picture.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_page_says_what_the_terminal_says(written: tuple[str, Path]) -> None:
    text, folder = written
    page = Elements((folder / "report.html").read_text(encoding="utf-8"))
    squeezed = " ".join(page.text.split())
    for part in text[text.index("± is the") :].split("\n\n")[:-1]:
        for line in re.split(r"\n(?!    )", part):
            assert " ".join(line.split()) in squeezed
    summary = summarize(results())
    for row in summary.rows:
        assert "".join(cells(row, summary)) in page.text


def test_the_page_asks_for_nothing(written: tuple[str, Path]) -> None:
    content = (written[1] / "report.html").read_text(encoding="utf-8")
    page = Elements(content)
    assert not {"script", "link", "img", "iframe", "image", "object", "base", "form"} & {tag for tag, _ in page.found}
    for _, attributes in page.found:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert (value or "").startswith("#")
    assert "@import" not in content
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", content))
    assert set(re.findall(r"https?://[^\"'\s<]+", content)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_reads_in_light_and_dark(written: tuple[str, Path]) -> None:
    content = (written[1] / "report.html").read_text(encoding="utf-8")
    assert "color-scheme: light dark" in content
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in content.split("@media")[:2])
    for colors in (light, dark):
        for name in ("ink", "faint", "good", "bad"):
            assert contrast(colors[name], colors["paper"]) > 4.5, name
    drawing = content[content.index("<svg") :]
    assert "currentColor" in drawing
    for color in set(re.findall(r"(?:fill|stroke): (#\w{6})", drawing)):
        assert min(contrast(color, colors["paper"]) for colors in (light, dark)) > 2.5, color


def contrast(one: str, other: str) -> float:
    """The ratio of the luminances, as WCAG defines it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    text = write_report(results(HOSTILE), "<b>title</b> & more", tmp_path)
    page = Elements((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert Counter(tag for tag, _ in page.found)["script"] == 0
    assert Counter(tag for tag, _ in page.found)["b"] == 0
    assert "<b>title</b> & more" in page.text
    for name in HOSTILE:
        assert name in page.text
        assert name in text
    drawing = ElementTree.parse(tmp_path / "picture.svg")
    words = " ".join("".join(element.itertext()) for element in drawing.iter("{http://www.w3.org/2000/svg}text"))
    assert all(f"of {name}" in words for name in HOSTILE)


def test_the_picture_shows_means_deviations_and_the_front() -> None:
    summary = summarize(results())
    left, right = draw_comparison(summary).axes
    for axes, factor in ((left, [0.1, 0.8]), (right, [1.0, 2.0])):
        bars = list(axes.containers)
        points = sorted((float(bar[0].get_xdata()[0]), float(bar[0].get_ydata()[0])) for bar in bars)
        expected = sorted((factor[summary.students.index(row.student)], 100 * row.mean) for row in summary.rows)
        assert points == [pytest.approx(point) for point in expected]
        for bar, row in zip(bars, summary.rows, strict=True):
            (ends,) = bar[2][0].get_segments()
            assert ends[1][1] - ends[0][1] == pytest.approx(200 * (row.sd or 0))
        front = [text.get_text() for text in axes.texts]
        assert front == ["tiny", "small"]  # once each, though both methods have the same mean
        low, high = axes.get_ylim()
        assert low < min(100 * (row.mean - (row.sd or 0)) for row in summary.rows)
        assert high > max(100 * (row.mean + (row.sd or 0)) for row in summary.rows)
    assert left.get_ylabel() == "accuracy, % (mean of 3 seeds ± 1 sd)"


def test_one_seed_is_drawn_without_a_bar() -> None:
    left, _ = draw_comparison(summarize(controls("s", [0.9]))).axes
    assert left.containers[0].has_yerr is False
    assert left.get_ylabel() == "accuracy, % (1 seed)"


def test_many_teachers_and_methods_can_be_drawn() -> None:
    many = [run("s", f"t{number}", f"m{number}", 0, 0.9, latency_ms=math.nan) for number in range(20)]
    figure = draw_comparison(summarize(many))
    labels = [text.get_text().strip() for text in figure.legends[0].get_texts()]
    assert labels == ["no teacher", *sorted(f"teacher t{n}" for n in range(20)), "on the Pareto front"]
    colors = {handle.get_color() for handle in figure.legends[0].legend_handles[1:-1]}
    assert len(colors) == 20
    assert figure.axes[0].texts[0].get_text() == "not measured"


def test_the_picture_is_the_same_each_time() -> None:
    summary = summarize(results())
    assert render(summary) == render(summary)
    assert render(summary, "png").startswith(b"\x89PNG")


def test_without_matplotlib_the_page_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picture.svg").write_text("<svg/>")
    real = builtins.__import__

    def absent(name: str, *args: Any, **others: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **others)

    monkeypatch.setattr(builtins, "__import__", absent)
    text = write_report(results(), "Digits", tmp_path)
    assert text.endswith("There is no picture: it needs Matplotlib: pip install 'lit-distill[plot]'.")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in page
    assert "pip install &#x27;lit-distill[plot]&#x27;" in page
    assert not (tmp_path / "picture.svg").exists()  # the earlier one shows other results


def test_failed_runs_are_on_the_page() -> None:
    summary = summarize([*results(), run("tiny", "t", "X", 0, math.nan)], failed={("q", "", "no teacher", 1): "killed"})
    page = Elements(render_page(summary, "Digits", "no picture"))
    for line in ("Failed: tiny, X from t, seed 0: its accuracy is nan.", "Failed: q, no teacher, seed 1: killed."):
        assert line in report_text(summary, "Digits", 19, "end")
        assert line in page.text


def test_a_report_of_failures_only(tmp_path: Path) -> None:
    text = write_report(controls("s", [math.nan]), "Digits", tmp_path)
    assert "That cannot be told: no run was finished." in text
    Elements((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_page_of_a_metric_that_is_no_accuracy() -> None:
    summary = summarize(controls("s", [12.0, 14.0], metric="bleu"))
    assert "<h2>Score against cost</h2>" in render_page(summary, "t", "no picture")
