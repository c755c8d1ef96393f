"""AOTInductor, for servers in C++: a ``.pt2`` with compiled code, for this kind of machine and this version of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_distill.export.exported import Exported, FileSignature
from lit_distill.export.inference import Job
from lit_distill.export.target import Target
from lit_distill.export.tracing import trace
from lit_distill.utils.names import first_line


def compiler() -> str | None:
    """Return the C++ compiler that AOTInductor calls; None if there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return get_cpp_compiler()
    except Exception:  # a class without a public name
        return None


class Aoti(Target):
    """Writes compiled code, which C++ loads without Python."""

    name = "aoti"
    suffix = ".pt2"

    def check(self) -> None:
        if compiler() is None:
            raise ValueError(
                "the target 'aoti' needs a C++ compiler, and none is found: install g++ or clang++ (apt-get install g++), or "
                "name one in the variable CXX."
            )

    def write(self, job: Job, path: Path) -> None:
        program = trace(job)
        try:
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs={"cpp.dynamic_threads": True},  # as many as the caller sets, not as this machine has
            )
        except Exception as error:
            raise ValueError(f"the student cannot be compiled by AOTInductor: {first_line(error)}") from error

    def load(self, path: Path, signature: FileSignature) -> Exported:
        return _Package(path, signature)


class _Package(Exported):
    def __init__(self, path: Path, signature: FileSignature) -> None:
        super().__init__(path, signature)
        self._package: Any = torch._inductor.aoti_load_package(str(path))

    def call(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(self._package(*inputs))
