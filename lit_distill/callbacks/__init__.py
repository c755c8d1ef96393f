"""Callbacks that every distillation brings along, and those that a user adds."""

from lit_distill.callbacks.distill.callback import Distill
from lit_distill.callbacks.distill.strip import strip, strip_file
from lit_distill.callbacks.throughput import Throughput, is_logging_step
from lit_distill.callbacks.unfreeze import Unfreeze

__all__ = ["Distill", "Throughput", "Unfreeze", "is_logging_step", "strip", "strip_file"]
