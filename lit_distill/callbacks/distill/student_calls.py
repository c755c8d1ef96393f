"""The student's calls in the steps of somebody else's module."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from lit_distill.callbacks.distill import host as hosting
from lit_distill.capture.call import Call
from lit_distill.capture.calls import CallRecorder, WhichCall, choose_calls
from lit_distill.capture.capture import Capture
from lit_distill.capture.parts import check_parts


class StudentCalls:
    """Hears them, and chooses those that count.

    Args:
        student: The student's name.
        which: Which of several calls counts, as for ``Distill``.

    Attributes:
        recorder: Hears the student; None outside a fit.
        parts: What the steps call in the student's place, part by part; empty where they call the student, None as long as
            that is not known.
    """

    def __init__(self, student: str, which: WhichCall) -> None:
        self._student = student
        self._which = which
        self.recorder: CallRecorder | None = None
        self.parts: tuple[str, ...] | None = ()

    def start(self, capture: Capture) -> None:
        """Begin to listen to the student."""
        self.recorder = CallRecorder(capture)
        self.parts = ()

    def stop(self) -> None:
        """Leave the student as it was."""
        if self.recorder is not None:
            self.recorder.remove()
            self.recorder = None

    def active(self) -> CallRecorder:
        """The recorder of this fit."""
        assert self.recorder is not None, "start comes first"
        return self.recorder

    def expect_parts(self) -> None:
        """Let the first step tell whether the student is called, or its parts."""
        self.parts = None
        self.active().record_parts()

    def learn(self, module: LightningModule, calls: list[Call], recorder: CallRecorder) -> Call:
        """Take the call that counts from a rehearsal, and listen to these parts of the student from now on, if to any.

        Args:
            module: The user's module.
            calls: The rehearsal's.
            recorder: What heard them, on a copy of the student.

        Raises:
            ValueError: The student is not called, and its parts not in a way that can be read as one call.
        """
        chosen = choose_calls(calls, self._which, self._student)
        if not chosen:
            raise ValueError(hosting.not_called(module, self._student, recorder.refusal))
        call = chosen[0]
        if call.parts:
            try:
                check_parts(recorder.capture.model, call)
            except ValueError as error:
                raise ValueError(hosting.not_called(module, self._student, str(error))) from error
            self.parts = call.parts
            self.active().record_parts(call.parts)
        return call

    def choose(self, module: LightningModule, calls: list[Call]) -> list[Call]:
        """The calls of a training step that count.

        Args:
            module: The user's module.
            calls: The step's.

        Raises:
            ValueError: Parts of the student are called that were not before, or in another way.
        """
        chosen = choose_calls(calls, self._which, self._student)
        refusal = self.active().refusal
        if self.parts is None and (chosen or refusal is None):
            self.parts = next((call.parts for call in chosen), ())
            self.active().record_parts(self.parts)
        for call in chosen:
            if call.parts and call.parts != self.parts:
                refusal = f"it called {', '.join(self.parts or ())} before, and now {', '.join(call.parts)} alone."
        if refusal is not None:
            raise ValueError(hosting.not_called(module, self._student, refusal))
        return chosen
