"""A distillation by two names and a folder of images: ``lit-distill fit --teacher … --student … --data …``.

May import all of the package except ``doctor``.
"""

from lit_distill.by_name.command import main
from lit_distill.by_name.fitting import fit
from lit_distill.by_name.outcome import FitResult, NetworkRow

__all__ = ["FitResult", "NetworkRow", "fit", "main"]
