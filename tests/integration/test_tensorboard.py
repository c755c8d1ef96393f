"""What TensorBoard finds in the event file."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lit_distill import CombinedDistillation
from lit_distill.data import Digits
from lit_distill.models import SmallCNN


def test_the_event_file_holds_every_curve_the_comparison_page_and_the_final_metric(tmp_path: Path) -> None:
    module = CombinedDistillation(SmallCNN(4), SmallCNN(8), "stage3", "stage3")
    logger = TensorBoardLogger(tmp_path)
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    fit = Trainer(max_epochs=2, log_every_n_steps=1, logger=logger, **options)  # type: ignore[arg-type]
    fit.fit(module, Digits(train_size=64))
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for name in ("hard", "soft", "hint"):
        assert {f"train/criteria/{name}", f"train/weighted/{name}", f"train/weight/{name}"} <= tags
    assert {"train/loss", "train/temperature/soft", "train/learning_rate"} <= tags
    for figure in ("accuracy", "calibration_error", "cross_entropy"):
        steps = [[e.step for e in events.Scalars(f"val/{figure}/{who}")] for who in ("student", "teacher")]
        assert steps[0] == steps[1]
        assert len(steps[0]) == 2
    assert {"val/agreement", "val/kl_divergence"} <= tags

    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["accuracy"] == ["(distill/)?val/(.*/)?accuracy/.*"]

    final = events.Scalars("hp_metric")[-1].value
    assert final == events.Scalars("val/accuracy/student")[-1].value
    assert (Path(logger.log_dir) / "hparams.yaml").read_text().count("temperature: 4.0") == 2
