"""Watches a few training steps: what runs, in which mode, what moves, and what it takes."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_distill.batch.batch import move, tensors_of
from lit_distill.batch.labels import class_dim, class_indices
from lit_distill.capture.capture import is_compiled
from lit_distill.doctor.checks.student import in_eval_mode
from lit_distill.doctor.record import Record, Watched
from lit_distill.doctor.sample import Sample
from lit_distill.doctor.setup import Setup
from lit_distill.engine.weighted import Losses, WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.measuring import through_compiled

_LONG = 5.0  # seconds, after which no further step is begun
_FEW = 3


class Observer(Callback):
    """Fills a record of a fit; it changes nothing of it, but ends it once it takes long.

    Args:
        setup: What is fitted.
    """

    def __init__(self, setup: Setup) -> None:
        self.record = Record()
        self._setup = setup
        self._handles: list[Any] = []
        self._values: dict[str, Tensor] = {}
        self._batch: Any = None
        self._asked: Any = None
        self._trained = False
        self._started = 0.0

    # Before the first step -----------------------------------------------------------------------

    def watch(self) -> None:
        """Begin with what is compared before the fit, in case that it never starts."""
        self._handles.append(self._setup.criteria.register_forward_pre_hook(self._note_outputs))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        record, teacher, criteria = self.record, self._setup.teacher, self._setup.criteria
        held = _held(trainer.optimizers)
        trainable = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        record.unheld = [name for name, parameter in trainable.items() if id(parameter) not in held]
        record.parameters = {name: Watched(p.detach().clone(), p) for name, p in trainable.items()}
        # Copied before they have hooks, which would be copied too.
        record.built = {name: copy.deepcopy(one) for name, one in criteria.criteria().items()}
        if teacher is not None and teacher.frozen:
            record.held_teacher = sum(id(parameter) in held for parameter in teacher.model.parameters())
            self._handles.append(teacher.model.register_forward_pre_hook(self._note_call, with_kwargs=True))
        for name, network in self._setup.frozen_networks().items():
            record.before[name] = digest(network)
            self._handles.append(network.register_forward_pre_hook(_Modes(record, name)))
        for name, criterion in criteria.criteria().items():
            self._handles.append(criterion.register_forward_hook(_Keep(self._values, name)))
        student = self._setup.student
        self._handles.append(student.register_forward_pre_hook(self._note_student, with_kwargs=True))
        if not is_compiled(student):
            self._handles.append(criteria.register_forward_hook(_Pulls(self, student)))
        self._started = time.perf_counter()

    def _note_call(self, model: nn.Module, inputs: Any, named: Any) -> None:
        self._asked = self._asked or (inputs, named)

    def _note_student(self, model: nn.Module, inputs: Any, named: Any) -> None:
        if model.training and self.record.student_call is None:
            self.record.student_call = (inputs, named)

    def _note_outputs(self, criteria: WeightedCriteria, inputs: tuple[Any, ...]) -> None:
        self._values.clear()
        record, sample = self.record, Sample(inputs[0].detach(), inputs[1].detach(), inputs[2])
        if not record.built:
            record.built = {name: copy.deepcopy(one) for name, one in criteria.criteria().items()}
        if not (criteria.training and torch.is_grad_enabled()):
            record.sample = record.sample or sample
            return
        if not self._trained:
            record.sample, self._trained = sample, True
            record.student_in_eval = in_eval_mode(self._setup.student)
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
        known = (target >= 0) & (target < logits.shape[class_dim(logits)])
        known = known if teacher.mask is None or teacher.mask.shape != known.shape else known & teacher.mask
        self.record.right += int((logits.argmax(class_dim(logits)) == target)[known].sum())
        self.record.asked += int(known.sum())
        self.record.classes = logits.shape[class_dim(logits)]

    # A step --------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.record.steps > 1:
            return
        held, names = _held(trainer.optimizers), {id(p): name for name, p in pl_module.named_parameters()}
        given = {id(tensor) for tensor in tensors_of(self._batch)}
        missing = [leaf for leaf in leaves_of(loss) if id(leaf) not in held | given]
        replaced = [names[id(leaf)] for leaf in missing if id(leaf) in names]
        self.record.unheld += [name for name in replaced if name not in self.record.unheld]
        loose = {id(leaf): leaf for leaf in missing if id(leaf) not in names}
        # A step may make a tensor to differentiate for it (an adversarial input); what comes again was kept.
        kept = [leaf for leaf in self.record.loose if id(leaf) in loose]
        self.record.loose = kept if self.record.steps else list(loose.values())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.record.updates += 1
        named = dict(pl_module.named_parameters())
        for name, watched in self.record.parameters.items():
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
                rate = max(self.record.learning_rates.get(id(parameter), 0.0), float(group["lr"]))
                self.record.learning_rates[id(parameter)] = rate

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.record.steps += 1
        self._batch = None
        if time.perf_counter() - self._started > _LONG and self.record.steps >= _FEW:
            trainer.should_stop = True

    # After the last one --------------------------------------------------------------------------

    def finish(self) -> None:
        """Take the hooks off, and look at the teacher again; the fit may have ended by an error."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._values, self._batch = [], {}, None
        if self.record.before:
            self.record.after = {name: digest(network) for name, network in self._setup.frozen_networks().items()}
        teacher = self._setup.teacher
        if teacher is not None and self._asked is not None and self.record.steps:
            self.record.answers = [_answer(teacher.model, *self._asked) for _ in range(2)]


class _Modes:
    """A forward pre-hook that notes which modules of a network run in training mode."""

    def __init__(self, record: Record, name: str) -> None:
        self.record, self.name = record, name

    def __call__(self, network: nn.Module, inputs: Any) -> None:
        if not self.record.modes.get(self.name):
            self.record.modes[self.name] = [name or "itself" for name, part in network.named_modules() if part.training]


class _Keep:
    """A forward hook that keeps a criterion's value, with its graph, until all are there."""

    def __init__(self, values: dict[str, Tensor], name: str) -> None:
        self.values, self.name = values, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.values[self.name] = output


class _Pulls:
    """A forward hook that measures, once, how hard each criterion pulls at the student."""

    def __init__(self, observer: Observer, student: nn.Module) -> None:
        self.observer, self.student = observer, student

    def __call__(self, criteria: WeightedCriteria, inputs: Any, losses: Losses) -> None:
        observer, values = self.observer, self.observer._values
        if observer.record.pulls or not criteria.training or not torch.is_grad_enabled():
            return
        mine = set(map(id, criteria.parameters()))  # inside the student where that is the whole module
        parameters = [p for p in self.student.parameters() if p.requires_grad and id(p) not in mine]
        for name, value in values.items():
            if value.requires_grad and losses.weights[name] > 0 and parameters and not through_compiled(value):
                found = torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True)
                squares = [_dense(gradient).float().pow(2).sum() for gradient in found if gradient is not None]
                norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
                observer.record.pulls[name] = losses.weights[name] * norm
        values.clear()


@torch.no_grad()
def _answer(model: nn.Module, inputs: Any, named: Any) -> Tensor:
    """Every number that a network puts out for the same inputs, in evaluation mode."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    place = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))  # not that of training any more
    found = tensors_of(model(*move(inputs, place), **move(named, place)))
    for part, mode in modes:
        part.training = mode
    return torch.cat([tensor.flatten().double().cpu() for tensor in found if tensor.is_floating_point()])


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The tensors that a loss is differentiated for."""
    found: dict[int, Tensor] = {}
    for node in nodes_behind([loss]):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            found[id(leaf)] = leaf
    return list(found.values())


def digest(model: nn.Module) -> dict[str, bytes]:
    """A hash of every parameter and buffer, by name."""
    return {name: _hash(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def _dense(gradient: Tensor) -> Tensor:
    """A gradient's values; of a sparse one, those that are there."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _hash(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.blake2b(plain.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


def _held(optimizers: Iterable[Optimizer]) -> set[int]:
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
