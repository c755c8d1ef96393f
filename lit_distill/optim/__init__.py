"""Optimizers that separate the gradients of labels and teacher."""

from lit_distill.optim.dot import DOT

__all__ = ["DOT"]
