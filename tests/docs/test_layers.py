"""The picture of the layers in docs/architecture.md is that of the contract in pyproject.toml."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DRAWING = Path(__file__).resolve().parents[2] / "docs" / "images" / "layers.py"


def test_the_picture_is_that_of_the_contract() -> None:
    spec = importlib.util.spec_from_file_location("layers", DRAWING)
    assert spec is not None
    assert spec.loader is not None
    layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layers)
    assert layers.PICTURE.read_text(encoding="utf-8") == layers.picture(), "run: python docs/images/layers.py"
    assert {name for layer in layers.layers() for name in layer} <= set(layers.HOLDS)
