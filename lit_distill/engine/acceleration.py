"""The ``fast`` switch: faster training on the present device, with evaluation unchanged."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lit_distill.capture.capture import is_compiled
from lit_distill.capture.formats import format_of
from lit_distill.teachers import FrozenTeacher, Teacher, TeacherRuntime
from lit_distill.utils.compiling import SteadySize, compile_in_place, eagerly, why_not_compile
from lit_distill.utils.notices import warn
from lit_distill.utils.tensors import usual_layout

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h


class Acceleration:
    """Speeds up the student's training passes and the frozen teacher's if ``on``.

    The student is compiled in place, in the channels-last layout, and under bfloat16 autocast if the hardware multiplies in
    it and the Trainer's precision is 32-true. A frozen teacher without a runtime gets the fastest one of the device.
    Evaluation and prediction run eagerly.

    On or off, glibc keeps the memory of large tensors during a fit on the CPU.
    """

    def __init__(self, on: bool = False) -> None:
        self.on = on
        self._compiled: SteadySize | None = None
        self._twice = False
        self._autocast: torch.device | None = None
        self._bfloat16 = "off"
        self._rearranged: list[torch.Tensor] = []
        self._chosen: Teacher | None = None

    def start(
        self, student: nn.Module, teacher: Teacher | None, device: torch.device, precision: str, compiled: bool = True
    ) -> None:
        """Prepare both networks, on their device and before the first batch.

        A teacher that trains, or has a runtime, does not change. ``compiled`` is False if each step is differentiated twice
        (``utils.measuring``): the student then stays uncompiled.
        """
        if device.type == "cpu":
            tune_malloc()
        if not self.on:
            return
        self._twice = not compiled
        reason = why_not_compile(device)
        if reason is not None:
            warn(f"fast: nothing is compiled, as torch.compile does not work here: {reason}")
        elif not is_compiled(student):
            self._rearrange(student)
            if compiled:
                compile_in_place(student)
                self._compiled = SteadySize()
        self._bfloat16 = _bfloat16_or_why_not(device, precision)
        self._autocast = device if self._bfloat16 == "on" else None
        formed = teacher is not None and format_of(teacher.model) is not None  # it already has a graph
        if isinstance(teacher, FrozenTeacher) and not formed and (teacher.runtime is None or teacher is self._chosen):
            self._chosen = teacher
            teacher.prefer(runtimes_for(device, precision, compiled=reason is None))

    def stop(self, student: nn.Module) -> None:
        """Restore the student: not compiled, its weights in their own layout."""
        for tensor in self._rearranged:
            tensor.data = usual_layout(tensor.data)
            if tensor.grad is not None:
                tensor.grad = usual_layout(tensor.grad)
        self._rearranged = []
        give_memory_back()
        if self._compiled is not None:
            vars(student).pop("_compiled_call_impl", None)
            self._compiled = None

    def _rearrange(self, student: nn.Module) -> None:
        """Bring weights of convolutions to the channels-last layout, and record which were in the usual one."""
        images = [tensor for tensor in (*student.parameters(), *student.buffers()) if tensor.dim() == 4]
        if images:
            self._rearranged = [tensor for tensor in images if usual_layout(tensor) is tensor]
            student.to(memory_format=torch.channels_last)

    def report(self, teacher: Teacher | None) -> None:
        """Print what was chosen and why, once the teacher is prepared."""
        if self.on:
            runtime = teacher.runtime if isinstance(teacher, FrozenTeacher) else None
            asked = "" if teacher is not None and teacher is self._chosen else " as given"
            words = [f"teacher{asked} in {runtime.describe()}"] if runtime is not None else []
            twice = " (DOT differentiates each step twice)" if self._twice else ""
            words.append("student compiled" if self._compiled is not None else f"student not compiled{twice}")
            words.append(f"bf16 autocast {self._bfloat16}")
            rank_zero_info(f"fast: {'; '.join(words)}.")

    @contextmanager
    def training(self, size: int) -> Iterator[None]:
        """Return the context of the student's forward pass in training, for a batch of ``size`` samples."""
        with ExitStack() as stack:
            if self._compiled is not None:
                stack.enter_context(self._compiled.context(size))
            if self._autocast is not None:
                stack.enter_context(torch.autocast(self._autocast.type, torch.bfloat16))
            yield

    def evaluation(self) -> AbstractContextManager[None]:
        """Return the context of the student's forward pass outside training: eager, so that nothing is compiled."""
        return eagerly() if self._compiled is not None else nullcontext()


def runtimes_for(device: torch.device, precision: str = "32-true", compiled: bool = True) -> list[TeacherRuntime]:
    """Return a frozen teacher's runtimes for a device, the fastest first; the last works for every network.

    With the Trainer's precision 64-true no type is narrowed; ``compiled`` says that ``torch.compile`` works on the device.
    """
    if precision == "64-true":
        return _folded_first(TeacherRuntime(channels_last=True, fold_batch_norm=True, compile=compiled))
    if device.type == "cuda":
        half = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return [TeacherRuntime(half, channels_last=True, compile=compiled)]  # type: ignore[arg-type]
    if device.type != "cpu":
        return [TeacherRuntime(channels_last=True)]
    floating = TeacherRuntime("bf16" if _multiplies_bfloat16(device) else "32", True, True, compiled)
    int8 = [TeacherRuntime("int8")] if _cpu_has("_is_vnni_supported") else []
    return int8 + _folded_first(floating)


def _folded_first(runtime: TeacherRuntime) -> list[TeacherRuntime]:
    """Return a runtime that folds BatchNorm, and the same without it for networks that cannot be traced."""
    return [runtime, TeacherRuntime(runtime.precision, runtime.channels_last, compile=runtime.compile)]


def _bfloat16_or_why_not(device: torch.device, precision: str) -> str:
    """Return ``on``, or ``off`` and the reason."""
    if precision != "32-true":
        return f"off: the Trainer's precision is {precision}"
    if _multiplies_bfloat16(device):
        return "on"
    return f"off: no {'AMX' if device.type == 'cpu' else 'bfloat16 hardware'}"


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Return True if bfloat16 is faster than float32: on GPUs that have it, and on CPUs with AMX.

    CPUs that have only AVX-512 bf16 are slower in it than in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and _cpu_has("_is_amx_tile_supported")


def _cpu_has(test: str) -> bool:
    """Ask PyTorch about the CPU; these functions are private, and an older PyTorch lacks some."""
    ask = getattr(torch.cpu, test, None)
    return bool(ask()) if ask is not None else False


def tune_malloc() -> bool:
    """Let glibc keep the memory of large tensors instead of returning it at every step; return True if that was set.

    By default each tensor above 128 KiB to 32 MiB may be mapped again and filled with zeros by the kernel. The setting
    applies to the process; without glibc nothing happens.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, 32 * 1024**2) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_memory_back() -> None:
    """Return the memory that glibc has kept to the system."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(function: str) -> Callable[..., int] | None:
    """Return a function of the C library, or None if it lacks it."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
