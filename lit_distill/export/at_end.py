"""Exports the student at the end of a fit."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_distill.criteria.sim_kd import SimKD
from lit_distill.export.exporting import Precision, export
from lit_distill.export.students import heads_of
from lit_distill.export.targets import target_named
from lit_distill.models import Peers
from lit_distill.modules import DistillationModule
from lit_distill.utils.arguments import check_choice, check_flag, check_number, check_text, check_whole
from lit_distill.utils.copying import copied


class ExportAtEnd(Callback):
    """Writes the student as a file for a target once a fit is finished, with the fit's own data, as ``lit-distill export``.

    A fit that ended with an error or was interrupted writes nothing; going on with it does. A file that disagrees with the
    student is an error, and a link of a chain is not finished then.

    Args:
        target: ``onnx``, ``aoti``, ``torch_export`` and so on.
        output: The file; if None, ``student`` with the target's ending, in the Trainer's ``default_root_dir``.
        precision: ``float32`` or ``int8``, which is calibrated on the training data.
        agreement: The least share of validation samples on which file and student decide alike, in (0, 1].
        samples: Compare on so many validation samples.
        normalise_inside: Compute the normalisation in the file, which then takes images in [0, 1].

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: There is no such target or precision; in ``fit``: the module has no plain student.
        ImportError: In ``fit``, before the first batch: a package of the target is missing.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> callback = ExportAtEnd("torch_export", "student.pt2")
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        target: str,
        output: str | None = None,
        precision: Precision = "float32",
        agreement: float = 0.95,
        samples: int = 2000,
        normalise_inside: bool = False,
    ) -> None:
        self.target = target_named(target)
        check_choice("precision", precision, self.target.precisions)
        self.precision: Precision = precision
        self.output = None if output is None else check_text("output", output, "the path of a file")
        self.agreement = check_number("agreement", agreement, above=0, most=1)
        self.samples = check_whole("samples", samples, least=1)
        self.normalise_inside = check_flag("normalise_inside", normalise_inside)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.target.check()
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(
                f"ExportAtEnd exports the student of a module of this library, and the {type(pl_module).__name__} is none: "
                "call lit_distill.export(network, target) after the fit."
            )
        reused = any(isinstance(one, SimKD) for one in pl_module.criteria.criteria().values())
        if reused or isinstance(pl_module.student, Peers):
            what = "SimKD uses the teacher's classifier" if reused else "several networks are trained"
            raise ValueError(
                f"ExportAtEnd cannot tell what to export, as {what}: run `lit-distill export` after the fit."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, DistillationModule)
        pl_module.leave_plain()
        data = getattr(trainer, "datamodule", None)
        task, heads = heads_of(pl_module)
        export(
            copied(pl_module.student).cpu().eval(),
            self.target.name,
            self.output or Path(trainer.default_root_dir) / f"student{self.target.suffix}",
            precision=self.precision,
            data=data,
            calibration=None if data is not None else trainer.train_dataloader,
            validation=None if data is not None else trainer.val_dataloaders,
            agreement=self.agreement,
            samples=self.samples,
            task=task,
            heads=heads,
            batch_format=pl_module.distiller.format,
            normalise_inside=self.normalise_inside,
        )
