"""Reports: what a student saves, what that costs, and whether its teacher helped.

May import all of the package.
"""

from lit_distill.reporting.command import main
from lit_distill.reporting.outcome import NetworkFigures, Speedup, StudentReport
from lit_distill.reporting.reporting import report

__all__ = ["NetworkFigures", "Speedup", "StudentReport", "main", "report"]
