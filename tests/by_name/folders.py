"""Folders of tiny images, of classes that a small network learns at once."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

COLOURS = {"blue": (2,), "green": (1,), "red": (0,), "yellow": (0, 1)}


def make_folder(root: Path, classes: int = 3, images: int = 12, size: tuple[int, int] = (16, 16)) -> Path:
    """Write images of a bright channel or two in noise, a folder for each class."""
    generator = torch.Generator().manual_seed(classes)
    for name, channels in list(COLOURS.items())[:classes]:
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(images):
            pixels = torch.randint(0, 100, (3, *size), generator=generator, dtype=torch.uint8)
            for channel in channels:
                pixels[channel] += 150
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{index:02}.png")
    return root
