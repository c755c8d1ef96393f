"""Callbacks that every distillation brings along, and those that a user adds."""

from lit_distill.callbacks.distill import Distill
from lit_distill.callbacks.finetuning import Unfreeze
from lit_distill.callbacks.stripping import strip, strip_file
from lit_distill.callbacks.throughput import Throughput, is_logging_step

__all__ = ["Distill", "Throughput", "Unfreeze", "is_logging_step", "strip", "strip_file"]
