"""Looks for mistakes in a set-up before it is trained: ``lit-distill doctor``, or ``examine`` from Python.

May import all of the package except ``chain``.
"""

from lit_distill.doctor.checks import CHECKS
from lit_distill.doctor.command import main
from lit_distill.doctor.examining import examine, report
from lit_distill.doctor.findings import Finding
from lit_distill.doctor.reporting import Report

__all__ = ["CHECKS", "Finding", "Report", "examine", "main", "report"]
