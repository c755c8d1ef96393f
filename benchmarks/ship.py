"""From the teacher to the file on the device: what does each step cost, and does the teacher help in each?

    python benchmarks/ship.py fashion_mnist
    python benchmarks/ship.py cifar10 --seeds 3 --out runs/ship --set data.init_args.root=data/cifar10

Two roads lead from one start to one file: the teacher helps in every step of one, labels alone train every step of the other.
Both are links of `configs/compress/NAME.yaml`, which is run for every seed; its comments say what to train first. Each student
is exported as ONNX, and the file itself is tested on all test images and timed in ONNX Runtime, in turns with the teacher in
eager PyTorch. What was done before is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure.machine import describe_machine, in_words
from measure.report import markdown, spread, with_error
from torch import Tensor, nn

from lit_distill.chain import read_chain
from lit_distill.chain.link import Link
from lit_distill.cli.command import main as lit_distill
from lit_distill.cli.fit import DistillationCLI
from lit_distill.export import Exported, load_exported
from lit_distill.measures.cost import cost_of
from lit_distill.measures.latency import latencies

# What is shipped: its name, the links that made it without a teacher and with, and the precision of the file.
STEPS = (
    ("student", "no_teacher", "distilled", "float32"),
    ("pruned", "pruned_no_teacher", "pruned", "float32"),
    ("pruned, int8", "pruned_no_teacher", "pruned", "int8"),
    ("pruned, trained for int8", "int8_no_teacher", "int8", "int8"),
)
ROADS = ("no teacher", "taught")
TEACHER = "teacher"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a chain in configs/compress")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/ship"))
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="of every fit, without dashes")
    options = parser.parse_args()
    further = ["--trainer.enable_progress_bar=false", *(f"--{word}" for word in options.set)]
    runs = [
        Run(Path(f"configs/compress/{options.name}.yaml"), options.out / options.name / f"seed{seed}", seed, further)
        for seed in range(options.seeds)
    ]
    for run in runs:
        run.train()
    rows = [row for run in runs for row in run.rows()]
    first = runs[0]
    found: dict[str, Any] = {
        "machine": describe_machine(),
        "teacher": first.teacher_row(),
        "rows": rows,
        "milliseconds": first.milliseconds(),
        "macs": first.macs(),
    }
    place = options.out / options.name
    (place / "ship.json").write_text(json.dumps(found, indent=1))
    draw(found, place / "ship.png")
    print(in_words(found["machine"]), table(found), sep="\n\n")


@dataclass(frozen=True)
class Run:
    """The chain of one seed."""

    chain: Path
    folder: Path
    seed: int
    further: Sequence[str]

    @property
    def words(self) -> list[str]:
        return [f"--seed_everything={self.seed}", *self.further]

    def train(self) -> None:
        _run("chain", "--config", str(self.chain), "--folder", str(self.folder), *self.words)

    def rows(self) -> list[dict[str, Any]]:
        """Return the accuracy and size of every file."""
        found = []
        for step, *links, precision in STEPS:
            for road, name in zip(ROADS, links, strict=True):
                file = self.exported(name, precision)
                accuracy = _once(file.path.with_suffix(".tested.json"), file.path, partial(self._accuracy, file.run))
                row = {"step": step, "road": road, "seed": self.seed, "accuracy": accuracy}
                found.append({**row, "bytes": file.path.stat().st_size})
        return found

    def exported(self, name: str, precision: str) -> Exported:
        """Return the file of a link's student; it is written if the student is newer."""
        link = self._link(name)
        path = link.folder / f"{precision}.onnx"
        if not path.is_file() or path.stat().st_mtime < link.checkpoint.stat().st_mtime:
            words = [*link.settings(self.words), "--ckpt_path", str(link.checkpoint), "--target", "onnx"]
            words += ["--precision", precision, "--output", str(path), "--agreement", "0.8"]
            _run("export", *words)
        return load_exported(path)

    def teacher_row(self) -> dict[str, Any]:
        """Return what the teacher is, in eager PyTorch."""
        teacher, folder = self._teacher(), self.folder
        checkpoint = self._link(STEPS[0][2]).checkpoint
        accuracy = _once(folder / "teacher.tested.json", checkpoint, partial(self._accuracy, teacher))
        cost = cost_of(teacher, self._example())
        return {"accuracy": accuracy, "bytes": cost.file_bytes, "macs": cost.macs}

    def macs(self) -> dict[str, int | None]:
        """Return the multiplications with additions of each step's student; int8 changes what they are, not their number."""
        whole, pruned = (
            cost_of(self._setup(taught).model.student, self._example()).macs for _, _, taught, _ in STEPS[:2]
        )
        return {step: whole if step == STEPS[0][0] else pruned for step, *_ in STEPS}

    def milliseconds(self) -> dict[str, float]:
        """Time the teacher in eager PyTorch and the taught students' files in their runtime, one sample with one thread."""
        example = self._example()
        networks: dict[str, tuple[nn.Module, Any]] = {TEACHER: (self._teacher(), example)}
        for step, _, taught, precision in STEPS:
            networks[step] = (_File(self.exported(taught, precision)), example)
        return {name: one.median_ms for name, one in latencies(networks, seconds=0.5, turns=6).items()}

    def _link(self, name: str) -> Link:
        return next(link for link in read_chain(self.chain, self.folder) if link.name == name)

    def _setup(self, name: str) -> DistillationCLI:
        return DistillationCLI(self._link(name).settings(self.words), run=False)

    def _teacher(self) -> nn.Module:
        network: nn.Module = self._setup(STEPS[0][2]).model.distiller.teacher.network
        return network.eval()

    def _example(self) -> Tensor:
        images: Tensor = next(iter(self._test_batches()))[0]
        return images[:1]

    def _test_batches(self) -> Any:
        data = self._setup(STEPS[0][2]).datamodule
        data.prepare_data()
        data.setup("test")
        return data.test_dataloader()

    @torch.no_grad()
    def _accuracy(self, predict: Callable[[Tensor], Tensor]) -> float:
        hits = [predict(images).argmax(1) == labels for images, labels in self._test_batches()]
        return float(torch.cat(hits).double().mean())


class _File(nn.Module):
    """A file where a network is timed."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.exported, self.weight = exported, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.exported.call((x,))[0]
        return logits


def _run(*words: str) -> None:
    """Run a verb; a failure ends the script, with the verb's own message."""
    try:
        lit_distill(words)
    except SystemExit as done:
        if done.code:
            raise


def _once(kept: Path, of: Path, measure: Callable[[], float]) -> float:
    """Return what was measured before, unless what it was measured of is newer."""
    if not kept.is_file() or kept.stat().st_mtime < of.stat().st_mtime:
        kept.write_text(json.dumps(measure()))
    return float(json.loads(kept.read_text()))


def _of(found: dict[str, Any], step: str, road: str, key: str = "accuracy") -> list[float]:
    return [row[key] for row in found["rows"] if row["step"] == step and row["road"] == road]


def table(found: dict[str, Any]) -> str:
    """Return the table in Markdown; accuracies are means over seeds with their standard deviation, differences are paired."""
    teacher, times = found["teacher"], found["milliseconds"]
    head = ("", *ROADS, "taught minus no teacher", "file, kB", "MACs, M", "ms", "smaller", "faster")
    own = [f"{100 * teacher['accuracy']:.2f}", "", f"{teacher['bytes'] / 1000:,.0f}", f"{teacher['macs'] / 1e6:.1f}"]
    lines = [[TEACHER, "", *own, f"{times[TEACHER]:.3f}", "1", "1"]]
    for step, *_ in STEPS:
        alone, taught = ([100 * one for one in _of(found, step, road)] for road in ROADS)
        apart = [one - other for one, other in zip(taught, alone, strict=True)]
        size = statistics.fmean(_of(found, step, ROADS[1], "bytes"))
        cells = [step, spread(alone), spread(taught), with_error(apart)]
        cells += [f"{size / 1000:,.0f}", f"{(found['macs'][step] or 0) / 1e6:.1f}", f"{times[step]:.3f}"]
        lines.append([*cells, f"{teacher['bytes'] / size:.0f} x", f"{times[TEACHER] / times[step]:.0f} x"])
    return markdown(head, lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw accuracy against the size of the file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    teacher = found["teacher"]
    axis.plot(teacher["bytes"] / 1000, 100 * teacher["accuracy"], "k*", markersize=12)
    axis.annotate(
        TEACHER, (teacher["bytes"] / 1000, 100 * teacher["accuracy"]), xytext=(-8, -14), textcoords="offset points"
    )
    for road, color in zip(ROADS, ("0.55", "C3"), strict=True):
        sizes = [statistics.fmean(_of(found, step, road, "bytes")) / 1000 for step, *_ in STEPS]
        means = [100 * statistics.fmean(_of(found, step, road)) for step, *_ in STEPS]
        errors = [100 * statistics.stdev(both) if len(both := _of(found, step, road)) > 1 else 0 for step, *_ in STEPS]
        axis.errorbar(sizes, means, errors, fmt="o-", color=color, capsize=3, label=road)
        if road == ROADS[1]:
            for (step, *_), size, mean in zip(STEPS, sizes, means, strict=True):
                axis.annotate(step, (size, mean), xytext=(4, 6), textcoords="offset points", fontsize=8)
    axis.set(xscale="log", xlabel="file, kB", ylabel="test accuracy, %")
    axis.invert_xaxis()
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
