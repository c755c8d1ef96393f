"""Trains one network as a config says, with the data order that all runs of a seed share, and tests it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from torch import nn

from lit_distill.cli.config_files import find_configs
from lit_distill.cli.fit import DistillationCLI
from lit_distill.compare.weights import Logged, WeightWatch
from lit_distill.criteria.sim_kd import SimKD, reuse_classifier
from lit_distill.files.saving import save_whole
from lit_distill.modules import SupervisedModule

OnEpoch = Callable[[int, float], None]
_QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
_PAUSE = 60.0  # seconds between checkpoints: what a kill costs at most, next to an epoch
_CHECKPOINT = "last.ckpt"
_POINTS = 10  # of the validation curve, at least, where the epochs allow


class Build(DistillationCLI):
    """Makes what a run needs, and leaves nothing behind."""

    saves_config = False


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        seconds: Of the fit, without validation.
        curve: The figure on the validation data after an epoch, from 1 on.
        epochs: That it trained.
        weights: Each criterion's first and last weight above 0.
        figures: Of the test, by name without ``test/``; empty if it was not tested.
    """

    seconds: float
    curve: tuple[tuple[int, float], ...]
    epochs: int
    weights: Logged
    figures: Mapping[str, float]


class RunWatch(Callback):
    """Gives all runs of a seed the same batches, keeps time and validation scores, and saves what a kill would lose.

    Args:
        seed: Of the run. The generators are seeded before every epoch, so that what a method draws changes no later batch.
        folder: Where the checkpoint goes, a minute after the last one at the soonest; None for none.
        figure: The validation figure to keep.
        on_epoch: Is called with an epoch, from 1 on, and its score.
        clock: Returns seconds that never decrease.
        until: The epoch, from 1 on, after which to save and stop; None for the last.
    """

    def __init__(
        self,
        seed: int,
        folder: Path | None,
        figure: str,
        on_epoch: OnEpoch | None = None,
        clock: Callable[[], float] = time.perf_counter,
        until: int | None = None,
    ) -> None:
        self.until = until
        self.seed, self.folder, self.figure, self.on_epoch, self.clock = seed, folder, figure, on_epoch, clock
        self.curve: list[tuple[int, float]] = []
        self.seconds = 0.0
        self._since = self._saved = clock()
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.folder is not None:
            save_whole(trainer)

    def start(self) -> None:
        """Start the clock."""
        self._since = self._saved = self.clock()

    def stop(self) -> None:
        """Add the time since the start."""
        now = self.clock()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed(trainer)  # the first epoch's iterator is made before that epoch starts, and draws its workers' seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.until is not None and trainer.current_epoch >= self.until:
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed(trainer)
        if self._resumed:  # the iterator was made already; without a break it is made after the generators are seeded
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
            self._resumed = False

    def _seed(self, trainer: Trainer) -> None:
        seed_everything(1000 * self.seed + trainer.current_epoch, verbose=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = self.clock()
        value = trainer.callback_metrics.get(f"val/{self.figure}")
        if value is None or trainer.sanity_checking:
            return
        self.curve.append((trainer.current_epoch + 1, float(value)))
        if self.on_epoch is not None:
            self.on_epoch(*self.curve[-1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = trainer.current_epoch + 1 == self.until
        trainer.should_stop = trainer.should_stop or last
        if self.folder is None or not (last or self.clock() - self._saved >= _PAUSE):
            return
        self.stop()
        trainer.save_checkpoint(self.folder / _CHECKPOINT, weights_only=False)
        self._since = self._saved = self.clock()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "curve": [list(point) for point in self.curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = True
        self.seconds = state_dict["seconds"]
        self.curve = [(int(epoch), float(value)) for epoch, value in state_dict["curve"]]


def build_fit(words: Sequence[str], seed: int, folder: Path) -> Build:
    """Make the module, data and Trainer that words say.

    Raises:
        ValueError: They are refused; the message says why.
    """
    said = io.StringIO()
    place = [f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}"]
    try:
        with contextlib.redirect_stderr(said):
            return Build(find_configs([*words, *_QUIET, *place]), run=False)
    except SystemExit as ended:
        reason = said.getvalue().strip().splitlines()[-1:] or [f"it ended with {ended.code}"]
        raise ValueError(reason[0].removeprefix("lit-distill: ")) from ended


def train(
    words: Sequence[str],
    seed: int,
    folder: Path,
    figure: str = "accuracy/student",
    save: Path | None = None,
    on_epoch: OnEpoch | None = None,
    test: bool = True,
    until: int | None = None,
) -> Trained:
    """Fit what words say, and test it.

    Args:
        words: After ``lit-distill fit``.
        seed: Of the run.
        folder: For what it writes on the way; a training that was killed goes on from there.
        figure: The validation figure to keep.
        save: Where to leave a checkpoint at the end.
        on_epoch: Is called with an epoch, from 1 on, and its score on the validation data. What it raises ends the fit, but
            for ``StopIteration``, which is Lightning's own.
        test: Whether to test the network at the end.
        until: The epoch, from 1 on, to stop after; a later call goes on from there. None trains to the end.

    Raises:
        ValueError: The words are refused.
    """
    made = build_fit(words, seed, folder)
    trainer: Any = made.trainer
    watch, weights = RunWatch(seed, folder, figure, on_epoch, until=until), WeightWatch()
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, (Checkpoint, SaveConfigCallback))]
    trainer.callbacks += [weights, watch]
    if made.config.trainer.check_val_every_n_epoch == 1:
        trainer.check_val_every_n_epoch = validation_interval(trainer.max_epochs)
    left = folder / _CHECKPOINT
    watch.start()
    trainer.fit(made.model, made.datamodule, ckpt_path=str(left) if left.is_file() else None)
    watch.stop()
    if save is not None:
        trainer.save_checkpoint(save, weights_only=False)
    tested = test_figures(trainer, deployed(made.model), made.datamodule) if test else {}
    return Trained(watch.seconds, tuple(watch.curve), trainer.current_epoch, weights.seen, tested)


def validation_interval(epochs: int | None) -> int:
    """Return after how many epochs to validate: a divisor of all, so that the last one is."""
    if epochs is None or epochs < 1:
        return 1
    return max(step for step in range(1, max(1, epochs // _POINTS) + 1) if epochs % step == 0)


def test_figures(trainer: Trainer, module: Any, data: Any) -> dict[str, float]:
    """Test a module, and return the figures by name without ``test/``."""
    found = trainer.test(module, data, verbose=False)[0]
    return {name.removeprefix("test/"): float(value) for name, value in found.items() if name.startswith("test/")}


def deployed(module: Any) -> Any:
    """Return the module of the network that is used in the end: for SimKD, the student with the teacher's classifier."""
    criteria = module.criteria.criteria().values() if hasattr(module, "criteria") else ()
    found = [criterion for criterion in criteria if isinstance(criterion, SimKD)]
    if not found:
        return module
    linear = [layer for layer in module.teacher.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("SimKD reuses the teacher's classifier, and this teacher has no nn.Linear.")
    return SupervisedModule(reuse_classifier(module.student, found[0], linear[-1]))


@contextlib.contextmanager
def said_to(file: Path) -> Iterator[None]:
    """Write to a file what is printed and logged."""
    import logging

    file.parent.mkdir(parents=True, exist_ok=True)
    streams = [
        handler
        for name in ("lightning.pytorch", "lightning.fabric", "lightning")
        for handler in logging.getLogger(name).handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    before = [handler.stream for handler in streams]
    with file.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        for handler in streams:
            handler.setStream(log)
        try:
            yield
        finally:
            for handler, stream in zip(streams, before, strict=True):
                handler.setStream(stream)
