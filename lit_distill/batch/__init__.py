"""Batches: which entries are inputs, labels, mask and weights, and which positions count.

May import ``outputs``, ``files`` and ``utils``.
"""

from lit_distill.batch.batch import Batch, BatchFormat, Inputs

__all__ = ["Batch", "BatchFormat", "Inputs"]
