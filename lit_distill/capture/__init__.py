"""Hooks that read named layers of any network during its forward passes.

May import ``batch`` and what lies below it.
"""

from lit_distill.capture.capture import Capture

__all__ = ["Capture"]
