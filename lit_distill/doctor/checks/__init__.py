"""The doctor's checks: of a trial fit (``TrialFit``) and of one criterion (``Subject``), each a function with ``@check``.

A function added to one of these files is run, reported and expected in docs/doctor.md. May import the doctor's cases.
"""

from types import ModuleType
from typing import Any

from lit_distill.doctor.checks import batch, classes, formula, numerics, parameters, set_up, teacher, weights
from lit_distill.doctor.findings import Check


def _checks_in(*modules: ModuleType) -> dict[str, Check[Any]]:
    """Return the checks that are defined in modules, in that order."""
    found = [(module, value) for module in modules for value in vars(module).values() if isinstance(value, Check)]
    return {check.name: check for module, check in found if check.find.__module__ == module.__name__}


# In the order of the report. The checks of a criterion run in this order, the slow ones last.
TRAINING_CHECKS = _checks_in(set_up, teacher, parameters, weights)
CRITERION_CHECKS = _checks_in(formula, batch, classes, numerics)
CHECKS = {name: check.holds for name, check in {**TRAINING_CHECKS, **CRITERION_CHECKS}.items()}
