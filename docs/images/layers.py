"""Draw the layers of the package, as pyproject.toml has them: python docs/images/layers.py."""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
HOLDS = {
    "__main__": "python -m lit_distill",
    "reporting": "what a student saves, and what that costs",
    "compare": "which teacher, student and method",
    "by_name": "fit by two names and a folder",
    "chain": "several fits in a row",
    "doctor": "checks of a setup",
    "compress": "prune, quantise, cluster: the next, smaller student",
    "export": "files for servers, phones, C++, read back and compared",
    "cli": "lit-distill VERB, config files, their errors",
    "pytorch_lightning": "for that import name",
    "modules": "LightningModules",
    "callbacks": "Distill for a module of your own, Unfreeze, Throughput",
    "preflight": "the dry run before the first batch",
    "engine": "Distiller, weighted criteria, metrics, checkpoints",
    "data": "DataModules",
    "models": "load, create_model, adapt",
    "optim": "DOT",
    "teachers": "frozen, joint, recorded",
    "recording": "a teacher's outputs on disk",
    "balance": "weights found in training",
    "functional": "every formula by name: tensors in, scalar out",
    "criteria": "one file per method; shared maths in criteria/ops",
    "schedules": "values that follow the training",
    "capture": "reads named layers",
    "measures": "parameters, operations, bytes and time of a network",
    "batch": "what is read from a batch",
    "outputs": "Outputs: logits, features, mask",
    "files": "checkpoints read safely and written whole",
    "utils": "argument checks, names, random states",
}
WIDTH, HEIGHT, GAP = 720, 34, 6
STYLE = (
    "rect{fill:#eef0fa;stroke:#4051b5}text{font-size:13px;fill:#222;font-family:sans-serif}"
    ".name{font-family:monospace;font-weight:bold}"
)


def layers() -> list[list[str]]:
    """Return the layers of the contract, highest first; those side by side import nothing from each other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def box(name: str, x: float, y: float, width: float, beside: bool) -> str:
    """Return one folder or file; in a narrow box the words are below the name."""
    words_x, words_y = (x + 10, y + 37) if beside else (x + 160, y + 22)
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT + 14 * beside}" rx="4"/>'
        f'<text class="name" x="{x + 10}" y="{y + 22 - 2 * beside}">{escape(name)}</text>'
        f'<text x="{words_x}" y="{words_y}">{escape(HOLDS[name])}</text>'
    )


def picture() -> str:
    """Return the picture as SVG."""
    parts, y = [], GAP
    for layer in layers():
        beside = len(layer) > 1
        width = (WIDTH - GAP * (len(layer) + 1)) / len(layer)
        parts += [box(name, GAP + at * (width + GAP), y, width, beside) for at, name in enumerate(layer)]
        y += HEIGHT + 14 * beside + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
    title = "<title>The layers of the package: each imports only from those below it</title>"
    ground = f'<path d="M0 0H{WIDTH}V{y}H0z" fill="#fff"/>'
    return "\n".join([head, title, f"<style>{STYLE}</style>", ground, *parts, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
