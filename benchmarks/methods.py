"""Which method when? Every method of configs/methods on one pair of networks, over seeds, beside plain distillation.

    python benchmarks/methods.py
    python benchmarks/methods.py --seeds 5 --only dkd dist fitnets
    python benchmarks/methods.py --weights found
    python benchmarks/methods.py --weights 0.3
    python benchmarks/methods.py --pair vowels --data aeon-1.6.0-py3-none-any.whl --weights found
    python benchmarks/methods.py --pair cifar10 --data DATA --checkpoint resnet56-4bfd9763.th --seeds 1 --only dkd dist
    python benchmarks/methods.py --pair cifar10 --data DATA --checkpoint ... --epochs 10 --train-size 5000 --batch-size 64

On the digits (100 labels, SmallCNN of 56,554 parameters to one of 3,778) the configs' layers are those of the same depth.
On CIFAR-10 (ResNet-56 to ResNet-20) the configs run as they are, the images in memory. On the vowels (54 labels, a
bidirectional GRU of 86,217 parameters to a GRU of 3,625) the layers are sequences of unequal length; methods that need maps
are left out. All: same student, data order and schedule for all, seeded anew each epoch; with ``--epochs`` the learning
rate's schedule and the criteria's keep their share of the training.

Weights: ``config`` has those of the configs, tuned for other networks. ``found`` has 1 for the labels, and leaves out all
others, which are found in training. A number fixes the others at so many times the last weight that ``--weights found``
found, on average over the seeds that are in the same ``--out``. Each row has a criterion's first and last weight.

Each run is written to ``--out`` as soon as it ends, and is not repeated: a run that was cut off goes on. Several calls may
share a folder once the teacher is trained. ``verdict.py`` puts the weights next to each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import yaml
from measure.machine import describe_machine, in_words
from measure.pairs import PAIRS, fitted_to
from measure.report import markdown
from measure.seeds import Rows, mean, over_seeds, percent, quietly, spread, with_error
from measure.weighting import CONFIG, FOUND, WatchWeights, reweighted, weights_mode
from schemes import fit

from lit_distill.cli.methods import method_configs
from lit_distill.compare.training import deployed

BASELINE, PLAIN = "no teacher", "KD"
_PLOT_FROM = -10.0  # a weight that fits another pair can cost far more; the bar then says how much


def words_for(method: str, options: argparse.Namespace, found: Rows) -> list[str]:
    """What to put after ``lit-distill fit``."""
    pair = PAIRS[options.pair]
    words = ["--config", pair.baseline if method == BASELINE else pair.plain]
    path = next((path for path in method_configs() if path.stem == method), None)
    if path is not None:
        settings = fitted_to(yaml.safe_load(path.read_text()), options.pair, options.epochs)
        settings = reweighted(settings, options.weights, found.of(method))
        overlay = Path(f"{method}-{options.weights}.yaml")
        overlay.write_text(yaml.safe_dump(settings))
        words += ["--config", str(overlay)]
    if options.pair == "cifar10":
        words += ["--config", "configs/cifar10/images.yaml", "--data.in_memory=true"]
        sizes = {"train_size": options.train_size, "batch_size": options.batch_size}
        words += [f"--data.{name}={size}" for name, size in sizes.items() if size]
    words += [f"--data.root={options.data}"] if options.data else []
    words += [f"--trainer.precision={options.precision}"] if options.precision else []
    return [*words, f"--lr_scheduler.T_max={options.epochs}"] if options.epochs else words


def prepare(options: argparse.Namespace) -> None:
    """Train the teacher, once."""
    pair = PAIRS[options.pair]
    checkpoint, words = Path(pair.checkpoint), ["--config", pair.teacher]
    if options.pair == "cifar10":
        words += ["--config", "configs/cifar10/images.yaml"]
        words += ["--model.model.init_args.checkpoint", str(options.checkpoint)]
    words += [f"--data.root={options.data}"] if options.data else []
    if not checkpoint.is_file():
        accuracy = fit(words, 0, None, save=checkpoint)["accuracy/student"]
        print(f"teacher: {accuracy:.2%}", flush=True)


def table(results: Rows, methods: list[str]) -> str:
    """Mean and standard deviation over seeds, and the paired difference to plain distillation with its standard error."""
    rows = []
    for method in methods:
        found = results.of(method)
        if not found:
            continue
        gaps = [100 * gap for gap in results.paired(method, PLAIN, "accuracy")]
        rows.append(
            [
                method,
                str(len(found)),
                spread(percent(found, "accuracy")),
                with_error(gaps) if gaps and method != PLAIN else "-",
                mean(percent(found, "agreement"), 1),
                mean([row["seconds"] for row in found]),
            ]
        )
    best_first = sorted(rows, key=lambda row: -float(row[2].split(" ")[0]))
    return markdown(["method", "seeds", "student's test accuracy", "to KD", "agreement", "seconds"], best_first)


def plot(results: Rows, methods: list[str], path: Path) -> None:
    """Every method's paired difference to plain distillation, with its standard error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gaps = {m: [100 * gap for gap in results.paired(m, PLAIN, "accuracy")] for m in methods if m != PLAIN}
    ordered = sorted((m for m in gaps if gaps[m]), key=lambda m: statistics.fmean(gaps[m]))
    figure, axis = plt.subplots(figsize=(7, 0.24 * len(ordered) + 1))
    for place, method in enumerate(ordered):
        values = gaps[method]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        axis.barh(place, statistics.fmean(values), xerr=error, color="C0" if statistics.fmean(values) > 0 else "0.6")
        if statistics.fmean(values) < _PLOT_FROM:
            axis.text(_PLOT_FROM + 0.2, place, f"{statistics.fmean(values):.0f}", color="w", va="center", fontsize=7)
    axis.set_yticks(range(len(ordered)), ordered, fontsize=8)
    axis.set_xlim(left=_PLOT_FROM)
    axis.margins(y=0.01)
    axis.axvline(0, color="k", linewidth=0.8)
    axis.set_xlabel(f"points of test accuracy above plain distillation, {len(gaps[ordered[0]])} seeds, standard error")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def parse() -> argparse.Namespace:
    names = [BASELINE, PLAIN, *(path.stem for path in method_configs())]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=list(PAIRS), default="digits")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--epochs", type=int, help="in place of the configs'; schedules keep their share")
    parser.add_argument("--weights", type=weights_mode, default=CONFIG, help="config (default), found, or a number")
    parser.add_argument("--train-size", type=int, help="training images, for --pair cifar10; all where left out")
    parser.add_argument("--precision", help="the trainer's; the configs' where left out")
    parser.add_argument("--batch-size", type=int, help="for --pair cifar10; 128 where left out")
    parser.add_argument(
        "--data", type=Path, help="CIFAR-10 as train/<class> and test/<class> image folders; aeon's wheel"
    )
    parser.add_argument("--checkpoint", type=Path, help="third-party ResNet-56 weights, for --pair cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder (default: runs/methods)")
    options = parser.parse_args()
    if options.pair != "cifar10" and (options.train_size or options.batch_size):
        parser.error("--train-size and --batch-size are for --pair cifar10.")
    needed = {"digits": [], "vowels": ["data"], "cifar10": ["data", "checkpoint"]}[options.pair]
    for name in needed:
        if getattr(options, name) is None:
            parser.error(f"--pair {options.pair} needs --{name}.")
        setattr(options, name, getattr(options, name).absolute())
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    """The methods to run, after those that they are compared with; a plain KD whose weights change is one more method."""
    unsuited = PAIRS[options.pair].unsuited
    if options.weights == CONFIG:
        unsuited = {"kd": "is the plain distillation that all are compared with", **unsuited}
    for name in options.only:
        if name in unsuited:
            print(f"{name} is left out: {unsuited[name]}.")
    compared = [] if isinstance(options.weights, float) else [BASELINE, PLAIN]
    names = dict.fromkeys([*compared, *options.only])
    fixed = {BASELINE, PLAIN} - set(compared)
    return [name for name in names if name not in unsuited and name not in fixed]


def results_file(options: argparse.Namespace, weights: str | float) -> Path:
    suffix = f"-{options.epochs}-epochs" if options.epochs else ""
    suffix += f"-{options.train_size}-images" if options.train_size else ""
    suffix += f"-batches-of-{options.batch_size}" if options.batch_size else ""
    suffix += "" if weights == CONFIG else f"-{weights}" if weights == FOUND else f"-x{weights:g}"
    return Path(f"methods-{options.pair}{suffix}.json").absolute()


def main() -> None:
    options = parse()
    quietly()
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)  # where the configs look for the teacher
    start = time.perf_counter()
    results, found = Rows(results_file(options, options.weights)), Rows(results_file(options, FOUND))
    prepare(options)
    methods = chosen(options)

    def run(method: str, seed: int) -> dict[str, Any]:
        weights = WatchWeights()
        figures = fit(words_for(method, options, found), seed, options.epochs, deploy=deployed, watch=[weights])
        return {"accuracy": figures["accuracy/student"], **figures, "weights": weights.seen}

    failed = over_seeds(results, methods, options.seeds, run)
    print(f"\n{table(results, methods)}\n\n{time.perf_counter() - start:.0f} s in this call.")
    print(f"{in_words(describe_machine())}\nAll figures: {results.path}")
    if PLAIN in methods:
        plot(results, methods, results.path.with_suffix(".png"))
    if failed:
        raise SystemExit(json.dumps(failed, indent=1))


if __name__ == "__main__":
    main()
