"""Comparisons: which teacher, which student, which method.

May import all of the package.
"""

from lit_distill.compare.results import CONTROL, Result, Results

__all__ = ["CONTROL", "Result", "Results"]
