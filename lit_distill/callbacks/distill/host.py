"""Changes of the user's LightningModule (the host module) by ``Distill``, and checks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lit_distill.callbacks.distill.strip import strip
from lit_distill.engine.checkpoint import ENTRY_KEY
from lit_distill.engine.distiller import Distiller
from lit_distill.engine.settings_record import warn_of_changes
from lit_distill.files.resuming import naming_file
from lit_distill.models.pruned import adopt_histories, write_histories
from lit_distill.outputs import Outputs
from lit_distill.teachers import Teacher
from lit_distill.utils.lightning_names import has_forward, keeps_parameters_whole
from lit_distill.utils.names import nearest
from lit_distill.utils.patches import Patches
from lit_distill.utils.plain import make_scalars_plain
from lit_distill.utils.tensors import count_parameters

Wrapper = Callable[..., Any]


class _Wrapped:
    """A wrapped method of one instance; Lightning reads the original's signature."""

    def __init__(self, original: Callable[..., Any], wrapper: Wrapper) -> None:
        self.__wrapped__ = original
        self._wrapper = wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(self.__wrapped__, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Wrapped:
        return self  # weight averaging copies the module, and calls no step of the copy


class Additions(nn.ModuleDict):
    """The networks that are registered on the module: the criteria, and the teacher if it changes in training."""


class Host:
    """Records the changes of a module, to undo them."""

    def __init__(self) -> None:
        self._patches = Patches()

    def wrap(self, module: LightningModule, name: str, wrapper: Wrapper) -> None:
        """Wrap a method of an instance."""
        self._patches.set(module, name, _Wrapped(getattr(module, name), wrapper))

    def unwrap(self) -> None:
        """Restore every method."""
        self._patches.restore()


def without_additions(module: LightningModule) -> Wrapper:
    """Return a wrapper of ``on_load_checkpoint`` that leaves the additions of a fit out, for evaluation."""

    def load(original: Callable[..., Any], checkpoint: dict[str, Any]) -> None:
        checkpoint.update(strip(checkpoint))
        adopt_histories(module, checkpoint)
        original(checkpoint)

    return load


def complete_checkpoint(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add how the module's networks were pruned to its checkpoint, and make its numbers plain."""
    write_histories(module, checkpoint)
    make_scalars_plain(checkpoint)


def with_additions(module: LightningModule, distiller: Distiller) -> Wrapper:
    """Return a wrapper of ``on_load_checkpoint`` that also reads the entry of ``Distill``, to continue a fit."""

    def load(original: Callable[..., Any], checkpoint: dict[str, Any]) -> None:
        adopt_histories(module, checkpoint)
        saved = any(key.startswith(f"{ENTRY_KEY}.") for key in checkpoint.get("state_dict", {}))
        if ENTRY_KEY in checkpoint:
            entry = distiller.checkpoint_entry
            with naming_file(module.trainer.ckpt_path):
                distiller.read_checkpoint(checkpoint)
                entry.restore_rng(module.trainer, last=False)
            warn_of_changes(entry.changes(checkpoint))
        elif not saved:
            check_no_state(getattr(module, ENTRY_KEY))
        original(checkpoint)

    return load


def find(module: LightningModule, name: str) -> nn.Module | None:
    """Return the student: the submodule of that name, the module itself for ``.``, or None if there is none (yet)."""
    if name == ".":
        return module
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None


def submodules(module: LightningModule) -> str:
    """List the submodules, for messages."""
    names = ", ".join(name for name, _ in module.named_children()) or "none"
    return f"Its submodules: {names}; '.' is the module itself."


def not_found(module: LightningModule, name: str) -> str:
    """Return the message for a student that does not exist."""
    hint = nearest(name, [known for known, _ in module.named_modules() if known])
    return f"{type(module).__name__} has no submodule {name!r} to distil into.{hint} {submodules(module)}"


def not_called(module: LightningModule, name: str, refusal: str | None) -> str:
    """Return the message for a training step that does not call the student, with the parts that it calls, if any."""
    kind = type(module).__name__
    if refusal is not None:
        whole = "self" if name == "." else f"self.{name}"
        parts = _parts(module, name)
        named = f"Name the part to distil into, student={' or '.join(map(repr, parts))}, or call" if parts else "Call"
        return f"{kind}.training_step: {refusal} {named} the student whole: {whole}(x)."
    return (
        f"{kind}.training_step does not call {name!r} with gradients on, so there is nothing to distil into. "
        f"{submodules(module)}"
    )


def _parts(module: LightningModule, name: str) -> list[str]:
    """Return the names of the two largest parts of the student that can be distilled into."""
    student = find(module, name)
    if student is None:
        return []
    own = [(part, child) for part, child in student.named_children() if has_forward(child)]
    sized = [(count_parameters(child), part) for part, child in own if part != ENTRY_KEY]
    largest = sorted((size, part) for size, part in sized if size)[::-1][:2]
    return [part if name == "." else f"{name}.{part}" for _, part in largest]


def loss_of(returned: Any, module: LightningModule) -> Tensor:
    """Return the loss in a training step's return value; refuse one without a scalar."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    name = type(module).__name__
    if not isinstance(loss, Tensor):
        found = f"a dict of {sorted(map(str, returned))}" if isinstance(returned, Mapping) else type(loss).__name__
        raise ValueError(f"{name}.training_step returned {found}; a tensor, or a dict with 'loss', was expected.")
    if loss.numel() != 1:
        raise ValueError(f"{name}.training_step returned a loss of shape {list(loss.shape)}; a scalar was expected.")
    return loss


def check_trains(loss: Tensor, module: LightningModule, student: nn.Module, outputs: Outputs) -> None:
    """Refuse a training step whose loss carries no gradient, unless it is 0 (no loss of its own)."""
    if loss.requires_grad or not bool(loss.detach() != 0) or not any(p.requires_grad for p in student.parameters()):
        return
    kind = type(module).__name__
    if not any(tensor.requires_grad for tensor in outputs.tensors()):
        raise ValueError(
            f"no gradient reaches the student {type(student).__name__} in {kind}.training_step: its forward detaches its "
            "output, or computes it without gradients (torch.no_grad, argmax, .item(), NumPy). Take that out."
        )
    raise ValueError(
        f"{kind}.training_step returned a loss without a gradient (detached, of .item(), or under no_grad): it would train "
        "nothing. Return it with its graph, or leave it out: weights={'task': 0.0, …}."
    )


def needs_optimizer(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a module without an optimizer: nothing would be distilled."""
    if all(type(optimizer).__name__ == "_MockOptimizer" for optimizer in trainer.optimizers):  # Lightning's, for none
        raise ValueError(
            f"there is no optimizer: {type(module).__name__}.configure_optimizers returned none, so nothing would be "
            "distilled. Return one of the student's parameters."
        )


def check_host(trainer: Trainer, module: LightningModule, distill: Callback) -> None:
    """Refuse modules and Trainers that ``Distill`` does not work with, before anything is changed."""
    _check_callbacks(trainer.callbacks, distill)  # type: ignore[attr-defined]
    _check_step(module)
    kind = type(module).__name__
    if isinstance(getattr(module, "distiller", None), Distiller):
        raise ValueError(f"{kind} is a distillation itself; give it the criteria and leave Distill out.")
    if isinstance(getattr(module, ENTRY_KEY, None), Additions):
        delattr(module, ENTRY_KEY)  # an error ended a fit with another Distill
    if hasattr(module, ENTRY_KEY):
        raise ValueError(f"{kind} has an attribute {ENTRY_KEY!r}, the name under which Distill adds to it; rename it.")


def _check_callbacks(callbacks: Iterable[Callback], distill: Callback) -> None:
    if sum(callback is distill for callback in callbacks) > 1:
        raise ValueError("the Trainer has one Distill callback twice; give it once.")
    if any(isinstance(callback, type(distill)) and callback is not distill for callback in callbacks):
        raise ValueError(
            "the Trainer has two Distill callbacks; one takes several criteria, and an ensemble of teachers."
        )
    for callback in callbacks:
        if callback is distill:
            break
        kinds = {kind.__name__ for kind in type(callback).mro()}
        if kinds & {"StochasticWeightAveraging", "WeightAveraging"}:
            raise ValueError(
                f"{type(callback).__name__} copies the module before Distill has added to it; put Distill before it in the "
                "Trainer's callbacks."
            )


def _check_step(module: LightningModule) -> None:
    kind = type(module).__name__
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise ValueError(
            f"{kind}.training_step takes the iterator dataloader_iter and reads its batches itself, so Distill cannot read "
            "them; take a batch, training_step(self, batch, batch_idx)."
        )
    if not module.automatic_optimization:
        raise ValueError(
            f"{kind} optimizes manually: it calls backward itself, and what is added to the loss that it returns would "
            "train nothing. Use automatic optimization, or compute the criteria in its training_step."
        )


def check_teacher(module: LightningModule, student: nn.Module, teacher: nn.Module | Teacher) -> None:
    """Refuse a teacher that the module also holds."""
    network = teacher.model if isinstance(teacher, Teacher) else teacher
    mine = {id(parameter) for parameter in network.parameters()}
    inside = {id(parameter) for parameter in student.parameters()}
    held = [
        name for name, p in module.named_parameters() if id(p) in mine and (id(p) not in inside or student is module)
    ]
    if held:
        raise ValueError(
            f"{type(module).__name__} already holds the teacher ({held[0]}, …): it would be in the optimizer and in every "
            "checkpoint. Take it out of the module; Distill keeps it."
        )


def check_strategy(trainer: Trainer, additions: nn.Module) -> None:
    """Refuse strategies that shard parameters if the criteria have parameters."""
    if keeps_parameters_whole(trainer.strategy):
        return
    if any(parameter.requires_grad for parameter in additions.parameters()):
        raise ValueError(
            f"criteria with layers of their own do not work under {type(trainer.strategy).__name__}; use one device or DDP, or "
            "criteria without layers."
        )


def check_no_state(additions: Additions) -> None:
    """Refuse a checkpoint without the additions if these have a state."""
    if additions.state_dict():
        raise ValueError(
            "the checkpoint was made without Distill, or after its fit, and the criteria or the teacher have a state of their "
            "own, which it lacks (ModelCheckpoint saves it in a fit). Load the module's weights first (load_from_checkpoint), "
            "and start a new fit without ckpt_path."
        )
