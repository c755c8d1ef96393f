"""Networks that cannot train or teach, whatever the data are: without weights, with inference tensors or NaN."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lit_distill.criteria import Criterion
from lit_distill.outputs import Outputs
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.lightning_names import keeps_parameters_whole
from lit_distill.utils.names import listed
from lit_distill.utils.tensors import count_where, named_tensors


def check_networks(student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse networks that cannot train or teach."""
    can_learn(student)
    is_a_number(student, "student")
    if teacher is not None:
        has_weights(teacher, "teacher")
        is_a_number(teacher, "teacher")


def refuse_empty(trainer: Any, student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse networks without weights; a strategy that shards a student may make its weights later."""
    try:
        if teacher is not None:
            has_weights(teacher, "teacher")
        if keeps_parameters_whole(trainer.strategy):
            has_weights(student, "student")
    except ValueError:
        # Otherwise Lightning moves the module to the CPU as the fit ends, and that error hides this one.
        trainer.strategy._lightning_module = None
        raise


def check_logits(owner: str, outputs: Outputs, criteria: Iterable[Criterion]) -> None:
    """Refuse logits of a kind that our criteria do not compare (if any does): complex numbers, booleans, sparse tensors."""
    read = any(criterion.compares_logits or criterion.needs_target for criterion in criteria)
    if not read or not outputs.has_logits:
        return
    logits = outputs.logits
    odd = "sparse" if logits.layout != torch.strided else "of truth values" if logits.dtype == torch.bool else ""
    odd = "complex numbers" if logits.is_complex() else odd
    if odd:
        key = f"{'teacher_' * (owner == 'teacher')}output_key"
        raise ValueError(
            f"the {owner}'s logits {list(logits.shape)} are {odd}, and real numbers are compared; convert them by "
            f"BatchFormat({key}=…), a function of its output."
        )


def have_values(student: Outputs, teacher: Outputs) -> None:
    """Refuse logits on the device ``meta`` if the other network's hold values."""
    both = {"student": student, "teacher": teacher}
    places = {owner: outputs.logits.device.type for owner, outputs in both.items() if outputs.has_logits}
    empty = [owner for owner, place in places.items() if place == "meta"]
    if len(places) == 2 and len(empty) == 1:
        raise ValueError(
            f"the {empty[0]}'s logits have no values: they are on the device 'meta', which its forward moves or makes them on."
        )


def has_weights(network: nn.Module, owner: str) -> None:
    """Refuse a network on the device ``meta``, which has only shapes."""
    empty = [name for name, tensor in named_tensors(network) if tensor.device.type == "meta"]
    if empty:
        raise ValueError(
            f"the {owner} {_kind(network)} has no weights: {listed(empty)} on the device 'meta'. Build it on a real device, "
            f"or after {owner}.to_empty(device='cpu') load its weights."
        )


def can_learn(student: nn.Module) -> None:
    """Refuse a student whose weights were made in inference mode: no gradient can be computed with them."""
    made = [name for name, tensor in named_tensors(student) if tensor.is_inference()]
    if made:
        raise ValueError(
            f"the student {_kind(student)} cannot be trained: {listed(made)} made in torch.inference_mode(). Build the network "
            "and load its weights outside of it."
        )


def is_a_number(network: nn.Module, owner: str) -> None:
    """Refuse a network with NaN in its weights, or in the statistics of its normalisation.

    Other buffers may hold NaN or infinity for what is not known yet; they are blamed once an output shows it.
    """
    kept: list[tuple[str, str, Tensor]] = [("weights", name, one) for name, one in network.named_parameters()]
    for path, module in network.named_modules():
        if isinstance(module, _NormBase) and not isinstance(module, torch.jit.ScriptModule):
            kept += [("statistics", name, one) for name, one in module.named_buffers(path, recurse=False)]
    for what, name, tensor in kept:
        count = count_where(tensor, torch.isnan)
        if count:
            raise ValueError(
                f"the {owner} {_kind(network)} has {what} that are no numbers: {name} holds NaN ({count} of {tensor.numel()} "
                f"values). Its training diverged, or its file is damaged; load weights from before."
            )


def _kind(network: nn.Module) -> str:
    return type(uncompiled(network)).__name__
