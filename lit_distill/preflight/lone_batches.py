"""Batches of one sample, which BatchNorm cannot train on: known from the data's size before the first batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader

from lit_distill.batch.batch import tensors_of
from lit_distill.capture.formats import map_tensors, runs_in_a_graph
from lit_distill.utils.restoring import unchanged

_Given = TypeVar("_Given")


def lone_batch(trainer: Any) -> str | None:
    """Return why a training batch of this fit, its loader ready, will hold one sample; None if none will, or if unknown."""
    loaders = getattr(trainer.fit_loop._combined_loader, "flattened", None) or []
    if len(loaders) != 1:  # the batches of several loaders are joined
        return None
    loader = loaders[0]
    sampler: Any = loader.batch_sampler if isinstance(loader, DataLoader) else None
    if type(sampler) is not BatchSampler:  # others make batches of their own sizes
        return None
    try:
        samples: int = len(sampler.sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    size = sampler.batch_size
    batches = min(math.ceil(samples / size), trainer.num_training_batches, _until_the_end(trainer))
    if size == 1 and batches:
        return "batches of one sample (batch_size=1)"
    full, rest = divmod(samples, size)
    if rest == 1 and not sampler.drop_last and batches > full:
        where = f" on each of {trainer.world_size} processes" if trainer.world_size > 1 else ""
        return f"{samples} samples in batches of {size}{where}, which leave one in the last"
    return None


def refuse_lone_batch(why: str, owner: str, network: nn.Module, inputs: _Given, run: Callable[[_Given], Any]) -> None:
    """Refuse batches of one sample if a BatchNorm of the network fails on one, which is tried."""
    if network.training and runs_in_a_graph(network):
        _refuse_in_a_graph(why, owner, network, inputs, run)
    norms = {name: one for name, one in network.named_modules() if isinstance(one, _BatchNorm) and one.training}
    if not norms or any(isinstance(one, nn.SyncBatchNorm) for one in norms.values()):
        return
    entered: list[str] = []
    with unchanged(network), torch.no_grad(), _noting(norms, entered):
        try:
            run(first_sample(inputs))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error) or not entered:
                return
            kind = type(norms[entered[-1]]).__name__
            raise ValueError(
                f"training has {why}, and {kind} {entered[-1]!r} of {owner} needs two: set drop_last=True in the "
                "DataLoader (batch_size above 1), choose another batch_size, or put it in eval mode."
            ) from error
        except Exception:  # the network may need a whole batch
            return


def _refuse_in_a_graph(why: str, owner: str, network: nn.Module, inputs: _Given, run: Callable[[_Given], Any]) -> None:
    """Refuse batches of one sample if a network in quantisation-aware training fails on one."""
    with unchanged(network), torch.no_grad():
        try:
            run(first_sample(inputs))
        except ValueError as error:
            raise ValueError(f"training has {why}, and {owner} fails on one: {error}") from error


def first_sample(inputs: _Given) -> _Given:
    """Return the inputs of the first sample: of every tensor that has as many rows as the first one."""
    size = next((len(tensor) if tensor.dim() else 0 for tensor in tensors_of(inputs)), 0)
    found: _Given = map_tensors(lambda one: one[:1] if one.dim() and len(one) == size else one, inputs)
    return found


def _until_the_end(trainer: Any) -> float:
    steps: int = trainer.max_steps
    return math.inf if steps is None or steps < 0 else (steps - trainer.global_step) * trainer.accumulate_grad_batches


@contextmanager
def _noting(norms: Mapping[str, nn.Module], entered: list[str]) -> Iterator[None]:
    handles = [
        norm.register_forward_pre_hook(lambda module, args, name=name: entered.append(name))
        for name, norm in norms.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
