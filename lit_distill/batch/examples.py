"""A look at the data and the networks before the first batch: sizes projectors, finds mistakes.

The data are read as the fit reads them, by the trainer's own loader, sampler, workers, collate function and transfer hooks. No
loader is made twice, no stream loses a batch, and random states stay as they were.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.data import _auto_add_worker_init_fn
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.data_connector import _request_dataloader
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader, IterableDataset

from lit_distill.batch.batch import move
from lit_distill.batch.loaders import collating, refuse_no_loader
from lit_distill.utils.bits import value_digest
from lit_distill.utils.graph import nodes_behind
from lit_distill.utils.rng import own_generators_kept

_SAMPLES = 2

# PyTorch's functions of steps: their gradient is always 0. A user's own of such a name, which passes gradients straight
# through, has no number at its end.
_STEPS = re.compile(r"(Round|Floor|Ceil|Trunc|Sign|Sgn|Heaviside)Backward\d+")


@dataclass
class TrainingData:
    """The training loaders of a fit that is about to begin.

    Attributes:
        loaders: One, a list or a dict of them, or a ``CombinedLoader``; None for no data.
        resumed: The fit goes on from a checkpoint.
        rank: Of the process.
    """

    loaders: Any
    resumed: bool = False
    rank: int = 0

    @property
    def several(self) -> bool:
        """Whether each training batch is a list or a dict of batches, one of each loader."""
        return isinstance(self._structure(), (list, tuple, dict))

    def example(self, whole: bool = False) -> Any:
        """A training batch of two samples, or as much as the loop will get.

        Args:
            whole: Read a whole batch.

        Returns:
            The batch, in the loaders' structure where there are several; None where a stream cannot be read beforehand, as it
            goes on from a checkpoint.

        Raises:
            ValueError: There is no training data, or it is empty.
        """
        if self.loaders is None:
            raise ValueError("no training data: give Trainer.fit a datamodule or a train DataLoader.")
        flat, structure = tree_flatten(self._structure())
        if self.resumed and not all(has_numbered_samples(loader) or isinstance(loader, Ahead) for loader in flat):
            return None
        with isolate_rng():
            for loader in flat or [self._structure()]:
                refuse_no_loader(loader)
            read = [self._read(loader, whole) for loader in flat]
        if any(batch is None for _, batch in read):
            raise ValueError("the training DataLoader yields None in place of a batch; look at its collate function.")
        self._replace([loader for loader, _ in read], structure)
        return tree_unflatten([batch for _, batch in read], structure)

    def _structure(self) -> Any:
        return self.loaders.iterables if _is_combined(self.loaders) else self.loaders

    def _replace(self, flat: list[Any], structure: Any) -> None:
        if _is_combined(self.loaders):
            self.loaders.flattened = flat
        else:
            self.loaders = tree_unflatten(flat, structure)

    def _read(self, loader: Any, whole: bool) -> tuple[Any, Any]:
        """The loader to train from, and a batch of it."""
        if has_numbered_samples(loader):
            return loader, numbered_samples(loader, whole)
        if not isinstance(loader, Ahead):
            _auto_add_worker_init_fn(loader, self.rank)
            loader = Ahead(loader)
        return loader, loader.example


class Ahead:
    """An iterable whose first batch was read already: its first pass begins with that one, and goes on.

    Args:
        loader: The iterable.

    Raises:
        ValueError: It is empty.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._iterator: Iterator[Any] | None = iter(loader)
        with collating(getattr(loader, "dataset", loader)):
            self.example: Any = _next(self._iterator)

    def __iter__(self) -> Iterator[Any]:
        # A generator, as Lightning also asks for iterators that it never advances. No `yield from`: it would close theirs.
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            yield self.example
        for batch in self.loader if iterator is None else iterator:  # noqa: UP028
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


def training_data(trainer: Trainer) -> TrainingData:
    """The training loaders, made once: the loop gets these, and what was read of a stream."""
    # No public call covers a datamodule, a module's own loader and a loader passed to fit() at once.
    source = trainer.fit_loop._data_source
    vars(source).pop("dataloader", None)  # of a fit that ended before its loop asked
    resumed = trainer.ckpt_path is not None
    loaders = _request_dataloader(source) if source.is_defined() and source.instance is not None else None
    data = TrainingData(loaders, resumed, trainer.global_rank)
    instance = source.instance

    def dataloader() -> Any:
        vars(source).pop("dataloader", None)
        return data.loaders if source.instance is instance else source.dataloader()

    vars(source)["dataloader"] = dataloader
    return data


def let_go(trainer: Trainer) -> None:
    """Forget training loaders that no loop has asked for, as the fit ended by an error."""
    vars(trainer.fit_loop._data_source).pop("dataloader", None)


def training_step_context(trainer: Trainer) -> AbstractContextManager[None]:
    """What the trainer runs training steps in: its autocast, where its precision is a mixed one."""
    if str(trainer.precision).endswith("mixed"):
        return trainer.precision_plugin.train_step_context()
    return nullcontext()


def in_weights_type(trainer: Trainer, data: Any, weights: Tensor) -> Any:
    """The data in the weights' present type, where the trainer is to convert both; else as they are.

    With 64-true, bf16-true and 16-true the weights are converted after the look.
    """
    if str(trainer.precision) in ("64-true", "bf16-true", "16-true"):
        return move(data, weights.device, weights.dtype)
    return data


def _is_combined(loaders: Any) -> bool:
    """Whether loaders are a ``CombinedLoader`` of Lightning's, by either of its names."""
    return hasattr(loaders, "iterables") and hasattr(loaders, "flattened")


def has_numbered_samples(loader: Any) -> bool:
    """Whether samples can be read without drawing from the loader's own iterator."""
    kind = type(loader)
    return (
        isinstance(loader, DataLoader)
        and kind.__iter__ is DataLoader.__iter__
        and kind._get_iterator is DataLoader._get_iterator
        and loader.batch_sampler is not None
        and not isinstance(loader.dataset, IterableDataset)
        and hasattr(loader.dataset, "__getitem__")
    )


def numbered_samples(loader: DataLoader[Any], whole: bool) -> Any:
    """The first samples that the loader's sampler names, collated; by a worker where it has workers."""
    if isinstance(loader.dataset, Sized) and len(loader.dataset) == 0:
        raise ValueError(f"the training data set ({type(loader.dataset).__name__}) is empty.")
    keys = _first_keys(loader)
    return read_samples(loader, keys if whole else (keys * _SAMPLES)[:_SAMPLES])


def read_samples(loader: DataLoader[Any], keys: list[Any]) -> Any:
    """Samples of a loader's data set, collated by it; read by a worker where the loader has workers.

    Args:
        loader: The loader, which stays as it is.
        keys: What its sampler would call the samples.
    """
    reader = DataLoader(
        loader.dataset,
        batch_sampler=[keys],
        num_workers=min(1, loader.num_workers),
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if loader.num_workers else None,
        timeout=loader.timeout if loader.num_workers else 0,
    )
    data = loader.dataset
    with own_generators_kept(data, getattr(data, "dataset", None), getattr(data, "transform", None)), collating(data):
        return _next(iter(reader))


def _first_keys(loader: DataLoader[Any]) -> list[Any]:
    """The first batch of the sampler, which stays as it was."""
    given = loader.batch_sampler
    sampler = getattr(given, "sampler", None)
    data = (loader.dataset, getattr(sampler, "data_source", None))
    try:  # a copy, as samplers may count and draw; the data are shared
        batches = copy.deepcopy(given, {id(one): one for one in data})
    except Exception:  # of a generator, a lock
        batches = given
    with own_generators_kept(loader, given, sampler):
        return list(_next(iter(batches)))  # type: ignore[arg-type]


def _next(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator)
    except StopIteration:
        raise ValueError("the training DataLoader is empty.") from None


def on_device(trainer: Trainer, module: Any, batch: Any, device: torch.device) -> Any:
    """Take a loader's batch the way that Lightning takes it to the training step: precision, then transfer hooks.

    Args:
        trainer: The running trainer.
        module: The LightningModule, whose hooks or whose DataModule's are called.
        batch: As the loader gave it.
        device: Where to.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)


def networks_of(trainer: Any, module: nn.Module) -> list[nn.Module]:
    """The module, and networks of its DataModule: transfer hooks may run them."""
    holders = vars(trainer.datamodule).values() if getattr(trainer, "datamodule", None) is not None else ()
    return [module, *(one for one in holders if isinstance(one, nn.Module) and one is not module)]


def first_loader(loaders: Any) -> Any:
    """The first DataLoader of what may be one, a list, a dict or a ``CombinedLoader`` of them."""
    flattened = getattr(loaders, "flattened", None)
    if flattened is not None:
        return flattened[0]
    if isinstance(loaders, dict):
        return next(iter(loaders.values()), None)
    if isinstance(loaders, (list, tuple)) and loaders and isinstance(loaders[0], DataLoader):
        return loaders[0]
    return loaders


@contextmanager
def as_in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode, eagerly, leaving modes, buffers and random states as they were."""
    with unchanged(*modules):
        for module in modules:
            module.eval()
        yield


@contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Run modules eagerly, leaving modes, buffers (statistics, observers) and random states as they were."""
    children = [child for module in modules for child in module.modules()]
    modes = [(child, child.training) for child in children]
    buffers = [
        (child, name, buffer, buffer.detach().clone())
        for child in children
        for name, buffer in child._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for child, training in modes:
            child.training = training
        for child, name, buffer, value in buffers:
            child._buffers[name] = buffer
            if buffer.shape != value.shape:  # observers resize theirs
                buffer.data = value
            elif buffer.device.type != "meta" and not _hold_the_same(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


def _hold_the_same(one: Tensor, other: Tensor) -> bool:
    if one.layout == other.layout == torch.strided:
        return torch.equal(one, other)
    return value_digest(one) == value_digest(other)  # sparse ones cannot be compared


def unreached_parameters(loss: Tensor, module: nn.Module) -> list[str]:
    """Names of the trainable parameters that a loss sends no gradient to."""
    found = reached_by(loss)
    if found is None:
        return []
    return [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in found]


def reached_by(value: Tensor, through_steps: bool = True) -> set[int] | None:
    """The ids of the leaves that a value's gradient gets to, be it 0 or not, found in its graph; no gradient is computed.

    Args:
        value: A scalar with its graph.
        through_steps: Whether to count what is reached through rounding or a sign alone, where the gradient is always 0.

    Returns:
        None where that cannot be told: a re-entrant gradient checkpoint hides the parameters inside.
    """
    if not value.requires_grad:
        return set()
    if value.grad_fn is None:
        return {id(value)}
    found: set[int] = set()
    for node in nodes_behind([value], lambda node: through_steps or not _STEPS.fullmatch(node.name())):
        if "Checkpoint" in node.name():
            return None
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(id(variable))
    return found


def count_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
