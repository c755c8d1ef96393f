"""What is each scheme of teaching worth? Every shipped digits config, over seeds, beside the baseline.

    python benchmarks/schemes.py
    python benchmarks/schemes.py --seeds 5 --only baseline logit ema mutual
    python benchmarks/schemes.py --seeds 1 --epochs 2 --only baseline logit assistant    # to see that it works

Each config is run as it is shipped, teacher and data split included. The runs of a seed start from the same student
where its constructor draws first, and before every epoch the random generators are seeded anew, so that schemes on the
same data see the same batches. The accuracy is the student's on the test set after the last epoch. A chain's student is
that of its last link, and its seconds are those of all links.

Each run is written to ``--out`` as soon as it ends, and is not repeated: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from measure.machine import describe_machine, in_words
from measure.report import markdown
from measure.seeds import Rows, mean, over_seeds, percent, quietly, spread, with_error
from measure.shipped import ACCURACY, FITTED_BEFORE, SCHEMES, Scheme

from lit_distill.chain import read_chain
from lit_distill.cli.command import DistillationCLI, find_configs
from lit_distill.compare.training import test_figures

QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


class SameOrder(Callback):
    """Seeds before every epoch, so that what a scheme draws does not change the batches of the next one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_everything(1000 * self.seed + trainer.current_epoch, verbose=False)


def fit(
    words: Sequence[str],
    seed: int,
    epochs: int | None,
    save: Path | None = None,
    deploy: Callable[[Any], Any] | None = None,
    watch: Sequence[Callback] = (),
) -> dict[str, float]:
    """Fit and test what a command line says, with nothing written while it trains.

    Args:
        words: After ``lit-distill fit``.
        seed: Of the run.
        epochs: In place of the config's.
        save: Where to leave a checkpoint at the end.
        deploy: From the trained module to the one that is tested.
        watch: Further callbacks.

    Returns:
        The seconds of the fit, and the test's figures.
    """
    shorter = [f"--trainer.max_epochs={epochs}"] if epochs else []
    cli = DistillationCLI(find_configs([*words, *QUIET, *shorter, f"--seed_everything={seed}"]), run=False)
    trainer = cli.trainer
    trainer.check_val_every_n_epoch = trainer.max_epochs
    callbacks = [one for one in trainer.callbacks if not isinstance(one, (Checkpoint, SaveConfigCallback))]  # type: ignore[attr-defined]
    trainer.callbacks = [*callbacks, SameOrder(seed), *watch]  # type: ignore[attr-defined]
    start = time.perf_counter()
    trainer.fit(cli.model, cli.datamodule)
    seconds = time.perf_counter() - start
    if save is not None:
        trainer.save_checkpoint(save, weights_only=False)
    tested = deploy(cli.model) if deploy else cli.model
    return {"seconds": seconds, **test_figures(trainer, tested, cli.datamodule)}


def run(scheme: Scheme, seed: int, epochs: int | None) -> dict[str, Any]:
    """Train one scheme's student and test it."""
    if not scheme.chain:
        figures = fit(["--config", scheme.file, *scheme.options], seed, epochs)
        return {"accuracy": figures[scheme.figure], **figures}
    links = read_chain(Path(find_configs([scheme.file])[0]), Path("runs") / scheme.name / str(seed))
    figures, seconds, accuracies = {}, 0.0, {}
    for number, link in enumerate(links):
        # The last link has the seed of all other schemes; the earlier ones start from other weights.
        own_seed = seed + 100 * (len(links) - 1 - number)
        figures = fit(link.settings(), own_seed, epochs, save=link.checkpoint)
        seconds += figures["seconds"]
        accuracies[link.name] = figures[scheme.figure]
    return {"accuracy": figures[scheme.figure], **figures, "seconds": seconds, "links": accuracies}


def table(results: Rows) -> str:
    """Mean and standard deviation over seeds, and paired differences with their standard errors, in points."""
    rows = []
    for scheme in SCHEMES:
        found = results.of(scheme.name)
        if found:
            accuracies = spread(percent(found, "accuracy"))
            gaps = [difference(results, scheme.name, other) for other in scheme.beside]
            seconds = mean([row["seconds"] for row in found])
            rows.append([scheme.name, str(len(found)), accuracies, *gaps, seconds, scheme.note])
    return markdown(["scheme", "seeds", "student's test accuracy", "to no teacher", "to logits", "seconds", ""], rows)


def difference(results: Rows, name: str, other: str) -> str:
    gaps = [100 * gap for gap in results.paired(name, other, "accuracy")]
    return with_error(gaps) if gaps and name != other else "-"


def prepare(schemes: Sequence[Scheme]) -> None:
    """Fit what the schemes need before, once, as its config says."""
    for name in dict.fromkeys(need for scheme in schemes for need in scheme.needs):
        before = FITTED_BEFORE[name]
        checkpoint = Path(before.checkpoint)
        if not checkpoint.is_file():
            accuracy = fit(before.words, before.seed, None, save=checkpoint)[ACCURACY]
            print(f"{name}, fitted before: {accuracy:.2%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scheme.name for scheme in SCHEMES]
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--epochs", type=int, help="in place of the configs'; their schedules keep their length")
    parser.add_argument("--out", type=Path, default=Path("runs/schemes"), help="folder (default: runs/schemes)")
    options = parser.parse_args()
    quietly()
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)  # where the configs look for the teacher
    start = time.perf_counter()
    results = Rows(Path(f"schemes{f'-{options.epochs}-epochs' if options.epochs else ''}.json").absolute())
    chosen = {scheme.name: scheme for scheme in SCHEMES if scheme.name in options.only}
    prepare(list(chosen.values()))
    failed = over_seeds(
        results, list(chosen), options.seeds, lambda name, seed: run(chosen[name], seed, options.epochs)
    )
    print(f"\n{table(results)}\n\n{time.perf_counter() - start:.0f} s in this call. {in_words(describe_machine())}")
    print(f"All figures: {results.path}")
    if failed:
        raise SystemExit("\n".join(f"{name} failed: {error}" for name, error in failed.items()))


if __name__ == "__main__":
    main()
