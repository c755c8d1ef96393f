"""The report in TensorBoard: its text, its pictures, and the images on which student and teacher differ."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lit_distill.reporting.outcome import StudentReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # so that type hints can be evaluated without Matplotlib


def write_board(report: StudentReport, pictures: Mapping[str, Figure], folder: Path) -> None:
    """Write TensorBoard's files anew.

    Args:
        report: The report.
        pictures: By what they show; their figures have no background of their own.
        folder: Holds TensorBoard's files only: what was in it goes.
    """
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("report", report.markdown())
        for one in report.networks:
            for name, value in one.metrics.items():
                writer.add_scalar(f"report/{name}/{one.role.replace(' ', '_')}", value)
        for title, figure in pictures.items():
            figure.set_facecolor("white")
            writer.add_figure(f"report/{title.replace(' ', '_')}", figure, close=False)
        for place, example in enumerate(report.examples):
            label, own, taught = map(report.class_name, (example.label, example.student, example.teacher))
            pixels = np.asarray(Image.open(io.BytesIO(example.png)).convert("RGB"))
            tag = f"differ/{label}/{place}_student_{own}_teacher_{taught}"
            writer.add_image(tag, pixels, dataformats="HWC")
