"""The runtime of a frozen teacher on training batches: precision, layout, int8, folded BatchNorm.

May import ``capture``, ``batch`` and what lies below them.
"""

from lit_distill.teachers.runtime.options import TeacherRuntime

__all__ = ["TeacherRuntime"]
