"""Lightning's callbacks that average weights, by a short name."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging

from tests.versions import skip_before

try:
    from lightning.pytorch.callbacks import EMAWeightAveraging
except ImportError:  # Lightning before 2.6
    EMAWeightAveraging = None  # type: ignore[assignment,misc]

AVERAGES = ["swa", *(["ema"] if EMAWeightAveraging is not None else [])]


def averaging(kind: str) -> list[Callback]:
    if kind == "swa":
        skip_before("torch", "2.7", "a checkpoint of StochasticWeightAveraging does not load with weights_only=True")
        return [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)]
    return [EMAWeightAveraging(decay=0.5)] if kind == "ema" else []
