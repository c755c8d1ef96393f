"""The targets by name."""

from __future__ import annotations

from lit_distill.export.aoti import Aoti
from lit_distill.export.cortex_m import CortexM
from lit_distill.export.executorch import ExecuTorch
from lit_distill.export.onnx import Onnx
from lit_distill.export.target import Target
from lit_distill.export.torch_export import TorchExport
from lit_distill.utils.names import nearest

TARGETS: dict[str, Target] = {one.name: one for one in (Onnx(), ExecuTorch(), CortexM(), Aoti(), TorchExport())}


def target_named(name: str) -> Target:
    """Return a target by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in TARGETS:
        raise ValueError(f"there is no target {name!r}.{nearest(str(name), TARGETS)} Targets: {', '.join(TARGETS)}.")
    return TARGETS[name]
