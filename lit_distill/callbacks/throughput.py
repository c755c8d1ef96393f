"""The throughput of training, measured with a clock.

Lightning's ``ThroughputMonitor`` waits for the GPU at every batch, warns if the FLOPs are unknown, logs nothing until its
window is full, and never reaches the progress bar.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_distill.batch.batch import count_samples
from lit_distill.utils.arguments import check_whole, wrong_type

_PAUSE = 1.0  # seconds between two updates of the progress bar


def is_logging_step(trainer: Trainer) -> bool:
    """Return True if metrics logged in this training step are kept: at Lightning's logging steps and an epoch's last batch."""
    every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
    return trainer.is_last_batch or not (trainer.global_step + 1) % every


class Throughput(Callback):
    """Logs ``train/samples_per_second`` over the last steps, without validation, summed over all processes.

    A step lasts from one batch's start to the next one's, including data loading. The callback never waits for the GPU, whose
    queue is bounded, so a window of steps is still measured right. It logs when the Trainer logs.

    Args:
        window: Number of steps to average, at least 1.
        warm_up: Number of first steps of a fit to leave out, as they compile and fill caches.
        clock: Returns seconds that never decrease.

    Raises:
        TypeError: ``clock`` is not a function.
        ValueError: ``window`` is below 1 or ``warm_up`` below 0.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Throughput(window=20)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, window: int = 50, warm_up: int = 2, clock: Callable[[], float] = time.perf_counter) -> None:
        window = check_whole("window", window, least=1)
        self.warm_up = check_whole("warm_up", warm_up, least=0)
        if isinstance(clock, type) or not callable(clock):
            raise wrong_type("clock", clock, "give a function that returns seconds, such as time.perf_counter.")
        self._clock = clock
        self._steps: deque[tuple[float, int]] = deque(maxlen=window)  # seconds and samples
        self._seen = 0
        self._running: tuple[float, int] | None = None  # start and samples of the present step
        self._paused_at = self._shown_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps.clear()
        self._seen, self._running, self._shown_at = 0, None, self._clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = self._clock()
        if self._running is not None:
            self._seen += 1
            if self._seen > self.warm_up:
                self._steps.append((now - self._running[0], self._running[1]))
        self._running = (now, count_samples(batch) or 0)
        seconds = sum(step[0] for step in self._steps)
        samples = sum(step[1] for step in self._steps)
        if seconds > 0 and samples and (is_logging_step(trainer) or now - self._shown_at > _PAUSE):
            self._shown_at = now
            rate = trainer.world_size * samples / seconds
            pl_module.log("train/samples_per_second", rate, prog_bar=True, batch_size=self._running[1])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused_at = self._clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._running is not None:
            started, samples = self._running
            self._running = (started + self._clock() - self._paused_at, samples)
