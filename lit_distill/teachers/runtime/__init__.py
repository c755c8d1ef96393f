"""How a frozen teacher is run on training batches: precision, layout, int8, folded BatchNorm."""

from lit_distill.teachers.runtime.options import TeacherRuntime

__all__ = ["TeacherRuntime"]
