"""``Distill`` for the command line of ``pytorch_lightning``, whose configs take only its own package's callbacks.

In Python, ``lit_distill.Distill`` does in either package's Trainer; in a config of ``pytorch_lightning.cli.LightningCLI``,
the ``class_path`` is ``lit_distill.pytorch_lightning.Distill``.
"""

from __future__ import annotations

from pytorch_lightning import Callback

from lit_distill.callbacks import Distill as _Distill


class Distill(_Distill, Callback):  # type: ignore[misc]
    """``lit_distill.Distill``, as a callback of ``pytorch_lightning``."""
