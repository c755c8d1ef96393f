"""The page of a report, as text and in a browser, and what TensorBoard gets."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lit_distill
from lit_distill.models import SmallCNN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CLASSES = [f"<b>class & {place}" for place in range(10)]
# Measures the page in a frame as wide as a phone, and leaves the figures in the document.
WRAPPER = """<!DOCTYPE html><html><body><iframe id="page" width="390" height="800" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
const errors = [];
window.onerror = (text) => {{ errors.push(text); }};
window.onload = () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const images = [...page.querySelectorAll("img")], drawings = [...page.querySelectorAll("svg")];
  const small = [...page.querySelectorAll("p, td, th, li, figcaption")].map(
    (one) => parseFloat(page.defaultView.getComputedStyle(one).fontSize));
  document.getElementById("found").textContent = JSON.stringify({{
    errors, width: root.clientWidth, scroll: root.scrollWidth, body: page.body.scrollWidth,
    images: images.filter((one) => one.complete && one.naturalWidth > 0 && one.getBoundingClientRect().width > 0).length,
    allImages: images.length,
    drawings: drawings.map((one) => one.getBoundingClientRect()).filter((at) => at.width > 200 && at.right <= 390).length,
    allDrawings: drawings.length, smallest: Math.min(...small),
    wide: [...page.querySelectorAll("table, h1, h2, h3, p, figure")].filter(
      (one) => one.getBoundingClientRect().right > 391).length,
  }});
}};
</script></body></html>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a report on images."""
    place = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 10), 20)
    networks: list[Any] = [SmallCNN(4), SmallCNN(8), SmallCNN(4)]
    for network in networks:
        network.train()(torch.rand(50, 1, 8, 8))  # statistics that spread the answers
    lit_distill.report(
        networks[0], networks[1], loader, control=networks[2], classes=CLASSES, title="A <script>title</script> " + "x" * 80,
        batch_size=2, timing_seconds=0.001, folder=place,
    )  # fmt: skip
    return place


def test_the_page_asks_for_nothing_and_runs_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert not re.search(r"url\((?!#|'#|\"#)", page)
    assert "<b>class" not in page
    assert page.count("<svg") == 5  # score against latency, three of reliability, classes
    assert page.count("<img") > 0


def test_the_page_says_what_the_table_says(folder: Path) -> None:
    page = html.unescape((folder / "report.html").read_text())
    lines = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| ")][1:]
    cells = [cell.strip() for line in lines for cell in line.strip("|").split(" | ")]
    assert len(cells) > 40
    assert [cell for cell in cells if f">{cell}<" not in page] == []


def test_without_matplotlib_the_page_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_distill.reporting import writing

    def missing(report: Any) -> Any:
        raise ImportError("it needs Matplotlib: pip install 'lit-distill[plot]'.")

    monkeypatch.setattr(writing, "draw_pictures", missing)
    loader = DataLoader(TensorDataset(torch.rand(4, 4), torch.arange(4) % 2), 2)
    networks = [torch.nn.Linear(4, 2) for _ in range(3)]
    lit_distill.report(
        networks[0], networks[1], loader, control=networks[2], timing_seconds=0.001, batch_size=2, folder=tmp_path
    )
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "pip install 'lit-distill[plot]'" in page
    assert "<svg" not in page


def test_tensorboard_has_text_figures_and_images(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()
    tags = board.Tags()
    content = json.loads((folder / "report.json").read_text())
    assert "report/accuracy/no_teacher" in tags["scalars"]
    assert board.Scalars("report/accuracy/student")[0].value == pytest.approx(
        content["networks"][0]["metrics"]["accuracy"]
    )
    figures = [tag for tag in tags["images"] if tag.startswith("report/")]
    assert len(figures) == 5
    assert any(tag.startswith("differ/") for tag in tags["images"])
    assert tags["tensors"] == ["report/text_summary"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_shows_all_of_it_on_a_phone(folder: Path, tmp_path: Path) -> None:
    page = (folder / "report.html").read_text()
    (tmp_path / "wrapper.html").write_text(WRAPPER.format(page=html.escape(page)))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        "--dump-dom",
        f"file://{tmp_path / 'wrapper.html'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text is not None
    assert text[1], done.stderr
    found = json.loads(html.unescape(text[1]))
    assert found["errors"] == []
    assert "CONSOLE" not in done.stderr
    assert found["scroll"] <= found["width"]
    assert found["body"] <= 390
    assert found["wide"] == 0
    assert found["images"] == found["allImages"] > 0
    assert found["drawings"] == found["allDrawings"] == 5
    assert found["smallest"] >= 12
