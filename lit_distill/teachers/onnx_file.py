"""ONNX files as teachers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lit_distill.teachers.function import FunctionNetwork, Gives


class OnnxNetwork(FunctionNetwork):
    """Runs an ONNX file on the CPU, by ONNX Runtime (``pip install 'lit-distill[onnx]'``).

    Args:
        path: The file.
        output: The output to read; the only one if None.
        gives: What the output holds; see ``FunctionNetwork``.
        least: See ``FunctionNetwork``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no such output, or several and none is named.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """

    def __init__(
        self, path: str | Path, output: str | None = None, gives: Gives = "logits", least: float = 1e-6
    ) -> None:
        super().__init__(_Session(Path(path), output), gives, least=least)


class _Session:
    """A file that is open in ONNX Runtime; copies and pickles open it again."""

    def __init__(self, path: Path, output: str | None) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no ONNX file {path}.")
        self.path, self.output = path, output
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self._open()

    def _open(self) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("an ONNX file needs ONNX Runtime: pip install 'lit-distill[onnx]'.") from error
        self._session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        names = [one.name for one in self._session.get_outputs()]
        if self.output is None and len(names) > 1:
            raise ValueError(f"{self.path} has the outputs {', '.join(names)}; name one: output={names[0]!r}.")
        if self.output is not None and self.output not in names:
            raise ValueError(f"{self.path} has no output {self.output!r}, but {', '.join(names)}.")
        self._output = self.output or names[0]
        self._inputs = [one.name for one in self._session.get_inputs()]

    def __call__(self, *inputs: Any) -> Any:
        if len(inputs) != len(self._inputs):
            raise ValueError(f"{self.path} takes {', '.join(self._inputs)}, and got {len(inputs)} inputs.")
        return self._session.run([self._output], dict(zip(self._inputs, inputs, strict=True)))[0]

    def __repr__(self) -> str:
        return f"{self.path.name} ({self.digest}), {self._output}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "output": self.output, "digest": self.digest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
