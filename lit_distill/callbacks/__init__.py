"""Callbacks that every distillation brings along."""

from lit_distill.callbacks.throughput import Throughput, is_logging_step

__all__ = ["Throughput", "is_logging_step"]
