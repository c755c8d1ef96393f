"""Runs a module on two training samples before its fit, and reads its training batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lit_distill.batch.as_trained import in_weights_type, networks_of, on_device, training_step_context
from lit_distill.batch.batch import Batch
from lit_distill.batch.examples import training_data
from lit_distill.batch.reading import BatchReader
from lit_distill.batch.reporting import describe, join
from lit_distill.batch.snapshots import comparing_values
from lit_distill.engine.distiller import Distiller
from lit_distill.preflight.auto_layers import find_layers
from lit_distill.preflight.dry_run import DryRun
from lit_distill.preflight.input_types import explain_input_type
from lit_distill.preflight.lone_batches import lone_batch
from lit_distill.preflight.networks import check_networks, refuse_empty
from lit_distill.preflight.unfreezing import unfreezes_later
from lit_distill.utils.restoring import unchanged
from lit_distill.utils.tensors import first_parameter


class ModuleDryRun:
    """Runs the networks and criteria of a module on training samples, once per fit."""

    def __init__(self, distiller: Distiller, reader: BatchReader) -> None:
        self._distiller, self._reader = distiller, reader
        self.several_loaders = False  # a training batch consists of batches of several loaders
        self._lone_batch: str | None = None  # why some batches hold one sample; None until it is known
        self.done = False  # in this fit

    def restart(self) -> None:
        """Prepare for the next fit."""
        self.done, self._lone_batch = False, None

    def read(self, batch: Any) -> Batch:
        """Read a training batch, of one loader or of several."""
        return join(batch, self._reader) if self.several_loaders else self._reader.read(batch)

    def run_on_data(self, module: LightningModule) -> None:
        """Run two training samples through the module; a whole batch if two samples fail."""
        self.done = True
        refuse_empty(module.trainer, *self._networks())
        check_networks(*self._networks())
        data = training_data(module.trainer)
        self.several_loaders = data.several
        try:
            self._run_on_batch(module, data.example())
        except Exception:  # a network or a collate function that needs a whole batch
            self._run_on_batch(module, data.example(whole=True))

    def _networks(self) -> tuple[nn.Module, nn.Module | None]:
        networks = self._distiller.networks()
        return networks["student"], networks.get("teacher")

    def _run_on_batch(self, module: LightningModule, batch: Any) -> None:
        if batch is None:  # a stream that continues from a checkpoint, which has the shapes
            return
        weights = first_parameter(self._distiller.student)
        with unchanged(*networks_of(module.trainer, module)):
            moved = in_weights_type(module.trainer, on_device(module.trainer, module, batch, weights.device), weights)
        read = describe(moved, self._reader, self.several_loaders)
        data = self.read(moved)
        try:
            with training_step_context(module.trainer):
                self.run(data, module, read)
        except (RuntimeError, ValueError) as error:
            why = explain_input_type(error.__cause__ or error, data.inputs, weights)
            if why is not None:
                raise ValueError(why) from error
            raise

    def run(self, data: Batch, module: LightningModule, read: Sequence[str] = ()) -> None:
        """Run an example through both networks and the criteria, and print ``read``; nothing is trained."""
        distiller, trainer = self._distiller, module._trainer
        find_layers(distiller, data, trainer)
        with unchanged(*distiller.networks().values()), torch.enable_grad():
            distiller.student.train()
            with comparing_values(), distiller.guarded_student(data):
                outputs = distiller.capture.dry_run(data.inputs)
            trained = module if trainer is not None else None
            DryRun(distiller).run(outputs, data, trained, read, later=unfreezes_later(trainer, module))

    def check_lone_batches(self, trainer: Trainer, batch: Any) -> None:
        """Refuse batches of one sample that BatchNorm cannot train on, before the first batch of a fit."""
        if self._lone_batch is None:
            self._lone_batch = lone_batch(trainer) or ""
            if self._lone_batch:
                DryRun(self._distiller).refuse_lone_batch(self._lone_batch, self.read(batch))
