"""What a network costs but time, counted rather than timed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lit_distill.batch.batch import Inputs, call_model
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.tensors import count_parameters, named_tensors


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Their number.
        weight_bytes: Of parameters and buffers in memory.
        file_bytes: Of its state dict as ``torch.save`` writes it.
        macs: Multiplications with additions of a forward pass, in convolutions, matrix products and attention; half its
            FLOPs. None where nothing was counted, as in a quantised network.
        peak_bytes: Parameters, buffers, and the tensors that live at the same time in a forward pass; None if it was not run.
    """

    parameters: int
    weight_bytes: int
    file_bytes: int
    macs: int | None = None
    peak_bytes: int | None = None


def cost_of(network: nn.Module, inputs: Inputs) -> Cost:
    """Count what a network costs, with a forward pass in evaluation.

    Args:
        network: The network; its mode, buffers and random states stay as they are.
        inputs: Of one sample, usually, on its device.

    Example:
        >>> cost = cost_of(nn.Linear(100, 10), torch.zeros(1, 100))
        >>> cost.parameters, cost.weight_bytes, cost.macs
        (1010, 4040, 1000)
    """
    weights = size_of(network)
    with torch.no_grad(), as_in_evaluation(network):
        with _as_plain_operations(), FlopCounterMode(display=False) as counter:
            call_model(network, inputs)
        with _PeakOfTensors() as tensors:
            call_model(network, inputs)
    macs = counter.get_total_flops() // 2 or None
    return Cost(count_parameters(network), weights, file_size(network), macs, weights + tensors.peak)


def size_of(network: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in named_tensors(network))


def file_size(network: nn.Module) -> int:
    """Return the bytes of a network's state dict as ``torch.save`` writes it; nothing is written."""
    counter: Any = _Counter()
    torch.save(network.state_dict(), counter)
    return int(counter.count)


class _Counter:
    """A file that counts what is written to it."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, content: bytes) -> int:
        self.count += len(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing: a file has it."""


@contextmanager
def _as_plain_operations() -> Iterator[None]:
    """Run recurrent layers and attention as the operations that they consist of: PyTorch counts none in the fused ones."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration")  # the flags set that as well
            with (
                torch.backends.mkldnn.flags(enabled=False),
                torch.backends.cudnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
            ):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _PeakOfTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the most bytes of tensors that live at the same time in the block; views of one memory count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.layout == torch.strided:
                self._add(value.untyped_storage())
        return out

    def _add(self, memory: torch.UntypedStorage) -> None:
        mark = id(memory)
        if mark in self._known:
            return
        self._known.add(mark)
        self._held += memory.nbytes()
        self.peak = max(self.peak, self._held)
        weakref.finalize(memory, self._drop, mark, memory.nbytes())

    def _drop(self, mark: int, count: int) -> None:
        self._known.discard(mark)
        self._held -= count
