"""Teachers: frozen, trained together with the student, a moving average of it, recorded once, or any function.

May import ``recording``, ``criteria``, ``capture``, ``batch`` and what lies below them.
"""

from torch import nn

from lit_distill.teachers.base import Teacher
from lit_distill.teachers.ema import EMATeacher
from lit_distill.teachers.frozen import FrozenTeacher
from lit_distill.teachers.function import FunctionNetwork, FunctionTeacher
from lit_distill.teachers.joint import JointTeacher
from lit_distill.teachers.onnx_file import OnnxNetwork
from lit_distill.teachers.recorded import RecordedTeacher
from lit_distill.teachers.runtime.options import TeacherRuntime

__all__ = [
    "EMATeacher",
    "FrozenTeacher",
    "FunctionNetwork",
    "FunctionTeacher",
    "JointTeacher",
    "OnnxNetwork",
    "RecordedTeacher",
    "Teacher",
    "TeacherRuntime",
    "as_teacher",
]


def as_teacher(teacher: nn.Module | Teacher) -> Teacher:
    """Return a ``Teacher`` unchanged, and a plain module as a ``FrozenTeacher``."""
    return teacher if isinstance(teacher, Teacher) else FrozenTeacher(teacher)
