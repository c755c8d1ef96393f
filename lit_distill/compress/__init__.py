"""Makes the student smaller still, with its teacher: pruning, clustering, quantisation-aware training, sensitivity.

Each is a function that makes the next student, or tells what it would cost. May import ``export`` and everything below it.
"""

from lit_distill.compress.clustering import cluster
from lit_distill.compress.pruning import prune
from lit_distill.compress.quantising import quantise
from lit_distill.compress.sensitivity import sensitivity
from lit_distill.compress.sensitivity_result import LayerSensitivity, Sensitivity
from lit_distill.models.pruned import MissingPruningError, pruning_history

__all__ = [
    "LayerSensitivity",
    "MissingPruningError",
    "Sensitivity",
    "cluster",
    "prune",
    "pruning_history",
    "quantise",
    "sensitivity",
]
