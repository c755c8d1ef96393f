"""The options of a frozen teacher's runtime: precision, layout, batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lit_distill.utils.arguments import check_choice, check_flag, check_whole

Precision = Literal["32", "bf16", "fp16", "int8", "int8_dynamic"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class TeacherRuntime:
    """The runtime of a frozen teacher on training batches: a copy prepared for speed.

    Evaluation, checks and checkpoints use the network itself, which does not change. Layers have the same names in every
    precision. Which option is faster depends on the machine; all can be combined except those named under Raises.

    Attributes:
        precision: ``32`` is the module's own type, and follows the Trainer's precision. The others do not: ``bf16`` and
            ``fp16`` cast the copy; ``int8`` quantises convolutions, linear layers and what they read, calibrated on a few
            training batches (CPU only; the network must be traceable); ``int8_dynamic`` quantises the weights of linear and
            recurrent layers (CPU only; any network). Logits come back in float32.
        channels_last: Keep images and convolutions in the NHWC layout.
        fold_batch_norm: Fold each BatchNorm into the convolution or linear layer before it; the values are equal up to
            rounding. Pairs that a criterion or another hook reads are not folded.
        compile: Run the copy through ``torch.compile``. A batch smaller than usual runs eagerly, to avoid a compilation.
        batch_size: Most samples at a time; a larger training batch runs in parts. If None, it runs whole.
        own_stream: On CUDA, run the copy at the same time as the student, on its own stream; elsewhere it has no effect.

    Raises:
        ValueError: An option is out of range, or would have no effect next to another: ``int8`` with ``fold_batch_norm``
            (which it contains), either int8 with ``compile`` or ``own_stream``.

    Examples:
        >>> TeacherRuntime("bf16", channels_last=True).describe()
        'bf16, channels last'
    """

    precision: Precision = "32"
    channels_last: bool = False
    fold_batch_norm: bool = False
    compile: bool = False
    batch_size: int | None = None
    own_stream: bool = False

    def __post_init__(self) -> None:
        check_choice("the teacher's precision", self.precision, PRECISIONS)
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", check_whole("the teacher's batch_size", self.batch_size, least=1))
        for name in ("channels_last", "fold_batch_norm", "compile", "own_stream"):
            check_flag(name, getattr(self, name))
        if self.precision == "int8" and self.fold_batch_norm:
            raise ValueError("precision 'int8' folds every BatchNorm by itself; leave fold_batch_norm False.")
        for option, asked in {"compile": self.compile, "own_stream": self.own_stream}.items():
            if self.quantised and asked:
                raise ValueError(
                    f"{option} does nothing for a teacher in {self.precision!r}: PyTorch's quantised layers are compiled "
                    f"already and run only on the CPU; leave {option} False, or use precision 'bf16'."
                )

    @property
    def quantised(self) -> bool:
        """True if the weights are int8."""
        return self.precision in ("int8", "int8_dynamic")

    @property
    def calibrated(self) -> bool:
        """True if the copy needs training batches to calibrate on."""
        return self.precision == "int8"

    def describe(self) -> str:
        """Return the options that are on, in a few words."""
        named = {
            "channels last": self.channels_last,
            "BatchNorm folded": self.fold_batch_norm,
            "compiled": self.compile,
            f"{self.batch_size} samples at a time": self.batch_size is not None,
            "own stream": self.own_stream,
        }
        return ", ".join([self.precision, *(name for name, chosen in named.items() if chosen)])
