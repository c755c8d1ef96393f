"""Looks for mistakes in a set-up before it is trained: ``lit-distill doctor``, or ``examine`` from Python."""

from lit_distill.doctor.command import main
from lit_distill.doctor.examining import examine, report
from lit_distill.doctor.findings import CHECKS, Finding, Report

__all__ = ["CHECKS", "Finding", "Report", "examine", "main", "report"]
