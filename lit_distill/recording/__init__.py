"""Recordings of a teacher's outputs for numbered, replayable views of the training data.

May import ``criteria``, ``batch``, ``capture`` and everything below them.
"""

from lit_distill.recording.encoding import Encoding, FeatureFormat, Formats, LogitFormat
from lit_distill.recording.manifest import DamagedRecording
from lit_distill.recording.plan import Plan
from lit_distill.recording.store import FolderStore, MemoryStore, StaleRecording

__all__ = [
    "DamagedRecording",
    "Encoding",
    "FeatureFormat",
    "FolderStore",
    "Formats",
    "LogitFormat",
    "MemoryStore",
    "Plan",
    "StaleRecording",
]
