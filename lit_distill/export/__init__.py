"""Ships the student: a file for a target, read back and compared with the student.

May import ``cli`` and everything below it.
"""

from lit_distill.export.at_end import ExportAtEnd
from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.exporting import export, load_exported
from lit_distill.export.result import ExportResult
from lit_distill.export.target import MissingPackageError, Target
from lit_distill.export.targets import TARGETS
from lit_distill.export.verifying import DisagreementError, Verification

__all__ = [
    "TARGETS",
    "DisagreementError",
    "ExportAtEnd",
    "ExportResult",
    "Exported",
    "FileSignature",
    "MissingPackageError",
    "Target",
    "Verification",
    "export",
    "load_exported",
]
