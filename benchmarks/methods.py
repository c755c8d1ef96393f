"""Which method when? Every method of configs/methods on one pair of networks, over seeds, beside plain distillation.

    python benchmarks/methods.py
    python benchmarks/methods.py --seeds 5 --only dkd dist hint
    python benchmarks/methods.py --auto
    python benchmarks/methods.py --pair cifar10 --data DATA --weights resnet56-4bfd9763.th --seeds 1 --only dkd dist
    python benchmarks/methods.py --pair cifar10 --data DATA --weights ... --epochs 10 --train-size 5000 --batch-size 64

On the digits (100 labels, SmallCNN of 56,554 parameters to one of 3,778) the configs' layers are those of the same depth;
weights and options stay as the config has them, tuned for another pair. On CIFAR-10 (ResNet-56 to ResNet-20) the configs
run as they are, the images in memory. Both: same student, data order and schedule for all, seeded anew each epoch; with
``--epochs`` the learning rate's schedule and the criteria's keep their share of the training.

Each run is written to ``--out`` as soon as it ends, and is not repeated: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from measure.machine import describe_machine, in_words
from measure.report import markdown
from measure.seeds import Rows, mean, over_seeds, percent, quietly, spread, with_error
from schemes import fit

from lit_distill import SupervisedModule
from lit_distill.cli.methods import method_configs
from lit_distill.criteria.sim_kd import SimKD, reuse_classifier

BASELINE, PLAIN = "no teacher", "KD"
_PLOT_FROM = -10.0  # a weight that fits another pair can cost far more; the bar then says how much
_NAMES = {"layer1": "stage1", "layer2": "stage2", "layer3": "stage3", "linear": "classifier"}
_NETWORKS = {
    "resnet20": {"class_path": "SmallCNN", "init_args": {"width": 8}},
    "resnet56": {"class_path": "SmallCNN", "init_args": {"width": 32}},
}
_EPOCHS = {"digits": 60, "cifar10": 30}  # of the pairs' configs; the methods' schedules are made for the second
_TEACHER = "runs/digits/teacher/teacher.ckpt"


def for_digits(value: Any, key: str = "") -> Any:
    """A method's settings for the digits' networks: layers of the same depth, times in proportion."""
    if isinstance(value, Mapping):
        return {name: for_digits(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [for_digits(inner, key) for inner in value]
    return _digits_word(value, key) if isinstance(value, str) else value


def _digits_word(value: str, key: str) -> Any:
    if value in _NETWORKS:
        return _NETWORKS[value]
    if value.endswith("teacher.ckpt"):
        return _TEACHER
    if not key.endswith(("layer", "layers", "head", "classifier")):
        return value
    path, mark, rest = value.partition(":")
    return ".".join(_NAMES.get(part, part.replace("layer", "stage")) for part in path.split(".")) + mark + rest


def in_proportion(value: Any, epochs: int, key: str = "") -> Any:
    """A method's settings with schedules that keep their share of a training of so many epochs."""
    share = epochs / _EPOCHS["cifar10"]
    if isinstance(value, Mapping) and key == "changes":
        return {max(1, round(epoch * share)): inner for epoch, inner in value.items()}
    if isinstance(value, Mapping):
        return {name: in_proportion(inner, epochs, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [in_proportion(inner, epochs, key) for inner in value]
    if key in ("until", "begin") and isinstance(value, (int, float)):
        return value * share
    return value


def without_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """A method's settings with no weight but 1 for the labels: the others are found in training."""
    model = settings["model"]
    inner = model.get("init_args", model)
    if "criteria" in inner:
        inner["weights"] = {"hard": 1.0} if "hard" in inner["criteria"] else {}
    schedules = inner.get("schedules", {})
    inner["schedules"] = {key: plan for key, plan in schedules.items() if not key.endswith(".weight")}
    return settings


def deployed(module: Any) -> Any:
    """What is tested: the student, or for SimKD the student with the teacher's classifier."""
    found = [criterion for criterion in module.criteria.criteria().values() if isinstance(criterion, SimKD)]
    if not found:
        return module
    classifier = getattr(module.teacher, "classifier", None) or module.teacher.linear
    return SupervisedModule(reuse_classifier(module.student, found[0], classifier))


def words_for(method: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """What to put after ``lit-distill fit``."""
    digits = options.pair == "digits"
    without, plain = ("digits/baseline", "digits/logit") if digits else ("cifar10/baseline", "methods/base")
    words = ["--config", f"configs/{without if method == BASELINE else plain}.yaml"]
    path = next((path for path in method_configs() if path.stem == method), None)
    if path is not None:
        settings = in_proportion(yaml.safe_load(path.read_text()), options.epochs or _EPOCHS[options.pair])
        overlay = folder / f"{method}.yaml"
        settings = without_weights(settings) if options.auto else settings
        if digits:
            settings = for_digits(settings)
            if "class_path" not in settings["model"]:  # the digits' own config compares logits only
                settings["model"] = {"class_path": "DistillationModule", "init_args": settings["model"]}
        overlay.write_text(yaml.safe_dump(settings))
        words += ["--config", str(overlay)]
    if not digits:
        words += ["--config", "configs/cifar10/images.yaml", f"--data.root={options.data}", "--data.in_memory=true"]
        sizes = {"train_size": options.train_size, "batch_size": options.batch_size}
        words += [f"--data.{name}={size}" for name, size in sizes.items() if size]
    return [*words, f"--lr_scheduler.T_max={options.epochs}"] if options.epochs else words


def prepare(options: argparse.Namespace) -> None:
    """Train the teacher, once."""
    if options.pair == "digits":
        checkpoint, words = Path(_TEACHER), ["--config", "configs/digits/teacher.yaml"]
    else:
        checkpoint = Path("runs/cifar10/teacher/teacher.ckpt")
        images = ["--config", "configs/cifar10/images.yaml", "--data.root", str(options.data)]
        words = ["--config", "configs/cifar10/teacher.yaml", *images]
        words += ["--model.model.init_args.checkpoint", str(options.weights)]
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
    names = [BASELINE, PLAIN, *(path.stem for path in method_configs() if path.stem != "kd")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--epochs", type=int, help="in place of the configs'; schedules keep their share")
    parser.add_argument("--auto", action="store_true", help="find the weights in training, but 1 for the labels")
    parser.add_argument("--train-size", type=int, help="training images, for --pair cifar10; all where left out")
    parser.add_argument("--batch-size", type=int, help="for --pair cifar10; 128 where left out")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as train/<class> and test/<class> image folders")
    parser.add_argument("--weights", type=Path, help="third-party ResNet-56 weights")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder (default: runs/methods)")
    options = parser.parse_args()
    if options.pair == "digits" and (options.train_size or options.batch_size):
        parser.error("--train-size and --batch-size are for --pair cifar10.")
    if options.pair == "cifar10":
        if options.data is None or options.weights is None:
            parser.error("--pair cifar10 needs --data and --weights.")
        options.data, options.weights = options.data.absolute(), options.weights.absolute()
    return options


def main() -> None:
    options = parse()
    quietly()
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)  # where the configs look for the teacher
    start = time.perf_counter()
    suffix = f"-{options.epochs}-epochs" if options.epochs else ""
    suffix += f"-{options.train_size}-images" if options.train_size else ""
    suffix += f"-batches-of-{options.batch_size}" if options.batch_size else ""
    suffix += "-auto" if options.auto else ""
    results = Rows(Path(f"methods-{options.pair}{suffix}.json").absolute())
    prepare(options)
    methods = list(dict.fromkeys([BASELINE, PLAIN, *options.only]))

    def run(method: str, seed: int) -> dict[str, float]:
        figures = fit(words_for(method, options, Path()), seed, options.epochs, deploy=deployed)
        return {"accuracy": figures["accuracy/student"], **figures}

    failed = over_seeds(results, methods, options.seeds, run)
    print(
        f"\n{table(results, methods)}\n\n{time.perf_counter() - start:.0f} s in this call. {in_words(describe_machine())}"
    )
    plot(results, methods, results.path.with_suffix(".png"))
    print(f"All figures: {results.path}")
    if failed:
        raise SystemExit(json.dumps(failed, indent=1))


if __name__ == "__main__":
    main()
