"""Where a network's name is looked up: timm, torchvision, Hugging Face, or an import path.

May import ``criteria`` and everything below it.
"""

from lit_distill.models.sources.base import Described, Source
from lit_distill.models.sources.from_hugging_face import HuggingFace
from lit_distill.models.sources.from_import_path import ImportPath
from lit_distill.models.sources.from_timm import Timm
from lit_distill.models.sources.from_torchvision import Torchvision

__all__ = ["Described", "HuggingFace", "ImportPath", "Source", "Timm", "Torchvision"]
