"""What an export has written, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_distill.export.exported import Exported
from lit_distill.export.verifying import Verification
from lit_distill.utils.names import count


@dataclass(frozen=True)
class ExportResult:
    """An exported file and how it compares with its student; ``str`` of it is a table.

    Attributes:
        exported: The file, loaded.
        target: Its target.
        precision: Its precision.
        verification: What was compared.
        bytes: Its size.
        student_bytes: Of the student's weights and buffers in float32.
        about: What the JSON file beside it says: inputs, preprocessing, class names.
        post_training: How plain post-training int8 of the student given as ``compare_with`` does.
    """

    exported: Exported
    target: str
    precision: str
    verification: Verification
    bytes: int
    student_bytes: int
    about: Mapping[str, Any] = field(repr=False)
    post_training: Verification | None = None

    def __str__(self) -> str:
        found = self.verification
        on = count(found.samples, "validation sample") if found.samples else "the example"
        what = self.about.get("compared", "file")
        rows = [("", "student", "file"), ("bytes", f"{self.student_bytes:,}", f"{self.bytes:,}")]
        rows += [("", "student", "graph")] if what != "file" else []
        if found.milliseconds is not None:
            before, after = found.milliseconds
            rows.append(("median ms, 1 sample, 1 thread", f"{before:.3f}", f"{after:.3f}"))
        if found.accuracy is not None:
            rows.append(("accuracy", f"{found.accuracy[0]:.2%}", f"{found.accuracy[1]:.2%}"))
        rows.append(("agreement", "", f"{found.agreement:.2%}"))
        if found.kl_divergence is not None:
            rows.append(("KL divergence", "", f"{found.kl_divergence:.2g}"))
        rows.append(("largest difference of logits", "", f"{found.difference:.2g}"))
        width = max(len(row[0]) for row in rows)
        lines = [f"  {name.ljust(width)}  {one.rjust(12)}  {two.rjust(12)}" for name, one, two in rows]
        compared = "compared" if what == "file" else f"its {what} compared"
        head = f"{self.exported.path}: {self.target}, {self.precision}, read back and {compared} on {on}"
        return "\n".join([head, *lines, *self._notes()])

    def _notes(self) -> list[str]:
        lines = []
        if "operators" in self.about:
            lines.append(_operators(self.about))
        if self.post_training is not None:
            lines.append(f"  Post-training int8 of the student before: {_in_words(self.post_training)}.")
        if self.about.get("preprocessing") is None:
            lines.append(
                "  Preprocessing is unknown: the file takes what your batches hold. Give mean and std to have it noted."
            )
        return lines


def _operators(about: Mapping[str, Any]) -> str:
    """Say how many operators of a file for a microcontroller have a kernel there, and which have none."""
    total, others = sum(about["operators"].values()), about["others"]
    slow = sum(about["operators"][name] for name in others)
    named = f"; the others: {', '.join(others)}" if others else ""
    return (
        f"  {total - slow} of {count(total, 'operator')} are CMSIS-NN's{named}. Working memory: {about['working_memory']:,} "
        f"bytes on a {about['cpu']}. Nothing here runs the file: its own logits were not compared."
    )


def _in_words(found: Verification) -> str:
    """Return how a file does, in one line."""
    words = [f"agreement with it in float32 {found.agreement:.2%}"]
    if found.accuracy is not None:
        words.insert(0, f"accuracy {found.accuracy[1]:.2%} (in float32 {found.accuracy[0]:.2%})")
    if found.kl_divergence is not None:
        words.append(f"KL divergence {found.kl_divergence:.2g}")
    if found.milliseconds is not None:
        words.append(f"{found.milliseconds[1]:.3f} ms")
    return ", ".join(words)
