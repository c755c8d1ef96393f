"""What compressing each layer alone costs: a table, JSON, a plot, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_distill.files.whole_file import write_whole
from lit_distill.utils.plotting import Axes, axes_or_new
from lit_distill.utils.text_tables import aligned


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer's compression does to the network.

    Attributes:
        layer: Its path.
        way: How it alone was compressed.
        weights: Number of its weights.
        kl_divergence: From the float student to the compressed one, mean over samples, in nats; for regression the mean squared
            difference.
        agreement: Share of samples on which both decide alike; None without classes.
        accuracy: Of the compressed student; None without labels of classes.
    """

    layer: str
    way: str
    weights: int
    kl_divergence: float
    agreement: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Sensitivity:
    """Every layer's sensitivity; ``str`` of it is a table.

    Attributes:
        rows: For each layer, in the network's order, each way.
        samples: Number of validation samples.
        accuracy: Of the float student; None without labels of classes.
        skipped: Layers that cannot be compressed in a way, with the reason, by ``layer: way``.
    """

    rows: tuple[LayerSensitivity, ...]
    samples: int
    accuracy: float | None
    skipped: dict[str, str]

    def worst(self, way: str) -> list[LayerSensitivity]:
        """Return a way's rows, the most sensitive layer first."""
        return sorted((row for row in self.rows if row.way == way), key=lambda row: -row.kl_divergence)

    def table(self) -> list[list[str]]:
        """Return the table's cells, its head first."""
        ways = list(dict.fromkeys(row.way for row in self.rows))
        with_accuracy = self.accuracy is not None
        head = [title for way in ways for title in (f"{way}: KL", *([f"{way}: accuracy"] if with_accuracy else []))]
        found = {(row.layer, row.way): row for row in self.rows}
        lines = [["layer", "weights", *head]]
        for layer, weights in dict.fromkeys((row.layer, row.weights) for row in self.rows):
            cells = [cell for way in ways for cell in _cells(found.get((layer, way)), with_accuracy)]
            lines.append([layer, f"{weights:,}", *cells])
        return lines

    def __str__(self) -> str:
        return "\n".join([self._head(), *aligned(self.table()), *self._notes()])

    def markdown(self) -> str:
        """Return the table in Markdown."""
        head, *lines = self.table()
        rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"{self._head()}\n\n{table}\n" + "".join(f"\n{note}\n" for note in self._notes())

    def _head(self) -> str:
        accuracy = f", on which the float student is right in {self.accuracy:.2%}" if self.accuracy is not None else ""
        return f"Each layer alone, compared with the float student on {self.samples:,} validation samples{accuracy}."

    def _notes(self) -> list[str]:
        return [f"Not done, {place}: {reason}" for place, reason in self.skipped.items()]

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw each layer's KL divergence as bars, one colour a way, on a logarithmic scale."""
        axes = axes_or_new(axes)
        layers = list(dict.fromkeys(row.layer for row in self.rows))
        ways = list(dict.fromkeys(row.way for row in self.rows))
        for place, way in enumerate(ways):
            rows = [row for row in self.rows if row.way == way]
            spots = [layers.index(row.layer) + (place - (len(ways) - 1) / 2) * 0.8 / len(ways) for row in rows]
            axes.barh(spots, [row.kl_divergence for row in rows], 0.8 / len(ways), label=way)
        axes.set_yticks(range(len(layers)), layers)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("KL divergence from the float student")
        axes.legend()
        return axes

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``sensitivity.md``, ``sensitivity.json``, with Matplotlib ``sensitivity.png``, and TensorBoard's scalars.

        Returns:
            The files; TensorBoard's are in ``tensorboard``.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        files = [place / "sensitivity.md", place / "sensitivity.json"]
        write_whole(files[0], self.markdown().encode())
        write_whole(files[1], json.dumps(asdict(self), indent=1).encode())
        try:
            from matplotlib.figure import Figure
        except ImportError:
            figure = None
        else:
            count = len({row.layer for row in self.rows})
            figure = Figure(figsize=(7, 1.5 + 0.35 * count), layout="constrained")
            self.plot(figure.subplots())
            files.append(place / "sensitivity.png")
            figure.savefig(files[-1])
        self._write_board(place / "tensorboard", figure)
        return files

    def _write_board(self, folder: Path, figure: object) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder)) as writer:
            writer.add_text("sensitivity", self.markdown())
            for number, row in enumerate(self.rows):
                writer.add_scalar(f"sensitivity/{row.way}/{row.layer}", row.kl_divergence, number)
            if figure is not None:
                writer.add_figure("sensitivity", figure, close=False)


def _cells(row: LayerSensitivity | None, with_accuracy: bool) -> Sequence[str]:
    if row is None:
        return ["-", "-"] if with_accuracy else ["-"]
    accuracy = [f"{row.accuracy:.2%}" if row.accuracy is not None else "-"] if with_accuracy else []
    return [f"{row.kl_divergence:.3g}", *accuracy]
