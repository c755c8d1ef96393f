"""Optimizers that know labels and teacher apart."""

from lit_distill.optim.dot import DOT

__all__ = ["DOT"]
