"""Optimizers that know labels and teacher apart."""

from lit_distill.optim.dot import DOT
from lit_distill.optim.task_gradient import check_apart, hold_task_gradient, splits_gradients

__all__ = ["DOT", "check_apart", "hold_task_gradient", "splits_gradients"]
