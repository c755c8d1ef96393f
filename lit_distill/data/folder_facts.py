"""What is in a folder of images: its parts, its classes, and whether every image opens."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes

from lit_distill.data.image_folder import ImageFolder
from lit_distill.data.memory import usable_cores
from lit_distill.utils.names import first_line, listed

_PARTS = ("train", "val", "test")
_MISNAMED = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
_DECODED = 2**29  # bytes of files up to which every image is decoded to its end; beyond, only its header is read
Size = tuple[int, int]


@dataclass(frozen=True)
class FolderFacts:
    """What a folder of images holds, as ``ImageFolder`` reads it.

    Attributes:
        root: The folder.
        classes: Their names, in the order of their numbers.
        counts: Images by part: ``train``, ``val``, and ``test`` if there are any.
        split: The parts that are split off others, as the folder does not have them.
        sizes: The least and the greatest height and width.
        left_out: Files that are no images by their names.
    """

    root: Path
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    split: tuple[str, ...]
    sizes: tuple[Size, Size]
    left_out: tuple[str, ...]

    @property
    def size(self) -> Size | None:
        """Height and width if all images have the same; else None."""
        return self.sizes[0] if self.sizes[0] == self.sizes[1] else None

    @property
    def judged_on(self) -> Literal["test", "val"]:
        """The part that accuracies are measured on: neither is used to choose anything."""
        return "test" if "test" in self.counts else "val"

    def words(self) -> str:
        """Return the facts as a line."""
        (low, left), (high, wide) = self.sizes
        size = f"{left}x{low}" if self.size else f"{left}x{low} to {wide}x{high}"
        parts = ", ".join(f"{count:,} {part}" for part, count in self.counts.items())
        split = f" ({' and '.join(self.split)} split off by a fixed seed)" if self.split else ""
        unread = f"; left out, as they are no images by their names: {listed(self.left_out)}" if self.left_out else ""
        return f"{self.root}: {len(self.classes)} classes ({listed(self.classes, 6)}), images of {size}: {parts}{split}{unread}"


def read_folder(root: str | Path) -> FolderFacts:
    """Read what a folder of images holds, and open every image.

    Args:
        root: Holds ``train/<class>/…``, with ``val`` and ``test`` beside it or not, or ``<class>/…``.

    Raises:
        FileNotFoundError: There is no such folder, or a part or a class has no images.
        ValueError: There is only one class, the parts have different classes, a class has too few images to be split, or a
            file is no image.
    """
    root = Path(root)
    _check_root(root)
    data = ImageFolder(str(root), num_workers=0)
    parted = (root / "train").is_dir()
    _check_classes(root / "train" if parted else root)
    data.setup("fit")
    counts = {"train": _count(data.train_data), "val": _count(data.val_data)}
    if not parted or (root / "test").is_dir():
        data.setup("test")
        counts["test"] = _count(data.test_data)
    split = tuple(part for part in counts if part != "train" and not (parted and (root / part).is_dir()))
    classes = tuple(find_classes(str(root / "train" if parted else root))[0])
    _check_training(data.train_data, classes)
    images, others = _files([root / part for part in _PARTS if (root / part).is_dir()] if parted else [root])
    sizes = _opened(images)
    least = min(height for height, _ in sizes), min(width for _, width in sizes)
    greatest = max(height for height, _ in sizes), max(width for _, width in sizes)
    left_out = tuple(str(path.relative_to(root)) for path in others)
    return FolderFacts(root, classes, counts, split, (least, greatest), left_out)


def _count(data: Any) -> int:
    return len(data)


def _check_root(root: Path) -> None:
    if not root.is_dir():
        kind = "it is a file" if root.is_file() else f"looked in {Path.cwd()}"
        raise FileNotFoundError(f"there is no folder {root} ({kind}).")
    if (root / "train").is_dir():
        return
    inner = sorted(path.name for path in root.iterdir() if path.is_dir())
    meant = [name for name in inner if name.lower() in _MISNAMED]
    if meant:
        raise ValueError(
            f"{root} has a folder {meant[0]!r}, which would count as a class; the parts of a data set are called train, val "
            f"and test: rename it to {_MISNAMED[meant[0].lower()]!r} if it is one."
        )
    if not inner:
        images = any(path.suffix.lower() in IMG_EXTENSIONS for path in root.iterdir())
        held = "images, and no folders of classes" if images else "no folders"
        raise FileNotFoundError(
            f"{root} has {held}; a folder for each class is needed, {root}/<class>/<image>, or {root}/train/<class>/<image>."
        )


def _check_classes(folder: Path) -> None:
    classes = [path.name for path in folder.iterdir() if path.is_dir()]
    if len(classes) == 1:
        raise ValueError(
            f"{folder} has one class, {classes[0]!r}: there is nothing to tell apart. At least two folders are needed, each "
            "with the images of a class."
        )


def _check_training(data: Any, classes: Sequence[str]) -> None:
    """Refuse a class of which nothing is left to train on."""
    there = Counter(data.dataset.targets[index] for index in data.indices)
    lacking = [name for number, name in enumerate(classes) if not there[number]]
    if lacking:
        raise ValueError(
            f"{listed(lacking)} has too few images to be split into training, validation and test; give it more."
        )


def _files(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the images in the classes' folders, and the other files there."""
    images: list[Path] = []
    others: list[Path] = []
    for path in (found for folder in folders for found in _walk(folder)):
        (images if path.suffix.lower() in IMG_EXTENSIONS else others).append(path)
    return images, others


def _walk(folder: Path) -> Iterator[Path]:
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        for place, _, names in sorted(os.walk(inner, followlinks=True)):
            yield from (Path(place, name) for name in sorted(names))


def _opened(images: Sequence[Path]) -> list[Size]:
    """Return the height and width of every image.

    Raises:
        ValueError: A file is no image, or broken.
    """
    whole = sum(path.stat().st_size for path in images) <= _DECODED
    with ThreadPoolExecutor(usable_cores()) as threads:
        return list(threads.map(lambda path: _open(path, whole), images))


def _open(path: Path, whole: bool) -> Size:
    try:
        with Image.open(path) as image:
            size = image.height, image.width
            if whole:
                image.draft("RGB", (1, 1))  # a JPEG at an eighth of its size, which takes less time
                image.load()
            return size
    except Exception as error:  # a broken file can fail in any way
        raise ValueError(
            f"{path} is no image, or a broken one ({first_line(error)}); remove it from the folder."
        ) from error
