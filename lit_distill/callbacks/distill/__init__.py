"""``Distill``: adds distillation to a LightningModule of your own.

May import ``preflight``, ``engine`` and what lies below them.
"""

from lit_distill.callbacks.distill.callback import Distill

__all__ = ["Distill"]
