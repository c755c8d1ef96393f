"""Observes a few training steps: what runs, in which mode, and what moves."""

from __future__ import annotations

import copy
import math
import time
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.batch.batch import move, tensors_of
from lit_distill.batch.labels import class_dim, class_indices
from lit_distill.capture.capture import is_compiled
from lit_distill.doctor.modes import in_eval_mode
from lit_distill.doctor.observations import Observations, Watched
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.setup import Setup
from lit_distill.engine.step import Losses
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.teachers.digest import tensor_digests
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.measuring import through_compiled
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.tensors import first_parameter, parameters_in

_LONG = 5.0  # seconds, after which no further step is begun
_FEW = 3


class Observer(Callback):
    """A callback that notes in ``seen`` what happens in a fit; it changes nothing, but ends the fit once it takes long."""

    def __init__(self, setup: Setup) -> None:
        self.seen = Observations()
        self._setup = setup
        self._handles: list[Any] = [setup.criteria.register_forward_pre_hook(self._note_outputs)]
        self._values: dict[str, Tensor] = {}
        self._batch: Any = None
        self._teacher_call: Any = None
        self._trained = False
        self._started = 0.0

    # Before the first step -----------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen, teacher, criteria = self.seen, self._setup.teacher, self._setup.criteria
        held = parameters_in(trainer.optimizers)
        trainable = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        seen.unheld = [name for name, parameter in trainable.items() if id(parameter) not in held]
        seen.parameters = {name: Watched(p.detach().clone(), p) for name, p in trainable.items()}
        # Copied before they have hooks, which would be copied too.
        seen.built = {name: copy.deepcopy(one) for name, one in criteria.criteria().items()}
        if teacher is not None and teacher.frozen:
            seen.held_teacher = sum(id(parameter) in held for parameter in teacher.model.parameters())
            self._handles.append(teacher.model.register_forward_pre_hook(self._note_teacher, with_kwargs=True))
        for name, network in self._setup.frozen_networks().items():
            seen.before[name] = tensor_digests(network)
            self._handles.append(network.register_forward_pre_hook(partial(_note_modes, seen, name)))
        for name, criterion in criteria.criteria().items():
            self._handles.append(criterion.register_forward_hook(partial(_keep_value, self._values, name)))
        student = self._setup.student
        self._handles.append(student.register_forward_pre_hook(self._note_student, with_kwargs=True))
        if not is_compiled(student):
            self._handles.append(criteria.register_forward_hook(partial(self._measure_pulls, student)))
        self._started = time.perf_counter()

    def _note_teacher(self, model: nn.Module, inputs: Any, named: Any) -> None:
        self._teacher_call = self._teacher_call or (inputs, named)

    def _note_student(self, model: nn.Module, inputs: Any, named: Any) -> None:
        if model.training and self.seen.student_call is None:
            self.seen.student_call = (inputs, named)

    def _note_outputs(self, criteria: WeightedCriteria, inputs: tuple[Any, ...]) -> None:
        self._values.clear()
        seen, sample = self.seen, Sample(inputs[0].detach(), inputs[1].detach(), inputs[2])
        if not seen.built:
            seen.built = {name: copy.deepcopy(one) for name, one in criteria.criteria().items()}
        if not (criteria.training and torch.is_grad_enabled()):
            seen.sample = seen.sample or sample
            return
        if not self._trained:
            seen.sample, self._trained = sample, True
            seen.student_in_eval = in_eval_mode(self._setup.student)
        self._count_right(sample.teacher, sample.target)

    def _count_right(self, teacher: Outputs, target: Any) -> None:
        logits = teacher.logits
        if getattr(self._setup.holder, "task", "multiclass") != "multiclass":
            return
        if not isinstance(target, Tensor) or logits.dim() < 2 or logits.shape[class_dim(logits)] < 2:
            return
        try:
            target = class_indices(target, logits, check=True)
        except ValueError:  # labels of no class
            return
        self.seen.classes = logits.shape[class_dim(logits)]
        known = (target >= 0) & (target < self.seen.classes)
        if teacher.mask is not None and teacher.mask.shape == known.shape:
            known = known & teacher.mask
        self.seen.right += int((logits.argmax(class_dim(logits)) == target)[known].sum())
        self.seen.labels += int(known.sum())

    def _measure_pulls(self, student: nn.Module, criteria: WeightedCriteria, inputs: Any, losses: Losses) -> None:
        """Measure each criterion's weighted gradient over the student, once."""
        if self.seen.pulls or not criteria.training or not torch.is_grad_enabled():
            return
        mine = set(map(id, criteria.parameters()))  # they are inside the student if it is the whole module
        parameters = [p for p in student.parameters() if p.requires_grad and id(p) not in mine]
        for name, value in self._values.items():
            if value.requires_grad and losses.weights[name] > 0 and parameters and not through_compiled(value):
                found = torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True)
                squares = [_dense(gradient).float().pow(2).sum() for gradient in found if gradient is not None]
                norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
                self.seen.pulls[name] = losses.weights[name] * norm
        self._values.clear()

    # A step --------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.seen.steps > 1:
            return
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        known = parameters_in(trainer.optimizers) | {id(tensor) for tensor in tensors_of(self._batch)}
        behind = [getattr(node, "variable", None) for node in nodes_behind([loss])]
        missing = {id(leaf): leaf for leaf in behind if isinstance(leaf, Tensor) and id(leaf) not in known}
        replaced = [names[key] for key in missing if key in names]
        self.seen.unheld += [name for name in replaced if name not in self.seen.unheld]
        loose = {key: leaf for key, leaf in missing.items() if key not in names}
        # A step may make a tensor to differentiate for it (an adversarial input); what comes again was kept.
        kept = [leaf for leaf in self.seen.loose if id(leaf) in loose]
        self.seen.loose = kept if self.seen.steps else list(loose.values())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.seen.updates += 1
        named = dict(pl_module.named_parameters())
        for name, watched in self.seen.parameters.items():
            watched.now = named.get(name, watched.now)
            gradient = watched.now.grad
            if gradient is None:
                continue
            values = _dense(gradient)
            largest = float(values.abs().max()) if values.numel() else 0.0  # a sparse one may have none
            watched.reached = True
            watched.pulled |= largest != 0
            watched.pull = max(watched.pull, largest) if math.isfinite(largest) else watched.pull
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rate = max(self.seen.learning_rates.get(id(parameter), 0.0), float(group["lr"]))
                self.seen.learning_rates[id(parameter)] = rate

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.steps += 1
        self._batch = None
        if time.perf_counter() - self._started > _LONG and self.seen.steps >= _FEW:
            trainer.should_stop = True

    # After the last one --------------------------------------------------------------------------

    def finish(self) -> None:
        """Remove the hooks, and read the teacher again; the fit may have ended with an error."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._values, self._batch = [], {}, None
        if self.seen.before:
            self.seen.after = {name: tensor_digests(network) for name, network in self._setup.frozen_networks().items()}
        teacher = self._setup.teacher
        if teacher is not None and self._teacher_call is not None and self.seen.steps:
            self.seen.answers = _answers(teacher.model, *self._teacher_call)


def _note_modes(seen: Observations, name: str, network: nn.Module, inputs: Any) -> None:
    if not seen.modes.get(name):
        seen.modes[name] = [path or "itself" for path, part in network.named_modules() if part.training]


def _keep_value(values: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    values[name] = output  # with its graph, until all are there


@torch.no_grad()
def _answers(model: nn.Module, inputs: Any, named: Any) -> list[Tensor]:
    """Return, twice, every number that a network puts out for the same inputs in evaluation mode."""
    place = first_parameter(model).device  # no longer that of training
    with as_in_evaluation(model):
        twice = (tensors_of(model(*move(inputs, place), **move(named, place))) for _ in range(2))
        return [torch.cat([one.flatten().double().cpu() for one in each if one.is_floating_point()]) for each in twice]


def _dense(gradient: Tensor) -> Tensor:
    """Return a gradient's values; for a sparse one, those that are stored."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient
