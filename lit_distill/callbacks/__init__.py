"""Callbacks that every distillation brings along."""

from lit_distill.callbacks.throughput import Throughput

__all__ = ["Throughput"]
