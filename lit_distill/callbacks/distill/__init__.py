"""``Distill``: distillation added to a LightningModule that knows nothing of it."""

from lit_distill.callbacks.distill.callback import Distill

__all__ = ["Distill"]
