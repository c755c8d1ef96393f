"""Comparisons: which teacher, which student, which method.

May import all of the package.
"""

from lit_distill.compare.command import compare, main
from lit_distill.compare.plan import Choice, ComparisonPlan
from lit_distill.compare.reading import read_plan
from lit_distill.compare.report import write_report
from lit_distill.compare.results import CONTROL, Result, Results
from lit_distill.compare.running import Comparison

__all__ = [
    "CONTROL",
    "Choice",
    "Comparison",
    "ComparisonPlan",
    "Result",
    "Results",
    "compare",
    "main",
    "read_plan",
    "write_report",
]
