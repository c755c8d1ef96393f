"""The student's calls in the module's training steps."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from lit_distill.callbacks.distill import host as hosting
from lit_distill.capture.call import Call
from lit_distill.capture.calls import CallRecorder, WhichCall, choose_calls
from lit_distill.capture.capture import Capture
from lit_distill.capture.parts import check_parts


class StudentCalls:
    """Records the student's calls, and chooses those to distil."""

    def __init__(self, student: str, which: WhichCall) -> None:
        self.student = student
        self._which = which
        self.recorder: CallRecorder | None = None
        self.parts: tuple[str, ...] | None = ()  # that the steps call instead of the student; None if not known yet

    def start(self, capture: Capture) -> None:
        """Start to record the student's calls."""
        self.recorder = CallRecorder(capture)
        self.parts = ()

    def stop(self) -> None:
        """Remove all hooks from the student."""
        if self.recorder is not None:
            self.recorder.remove()
            self.recorder = None

    def active(self) -> CallRecorder:
        """Return the recorder of this fit."""
        assert self.recorder is not None, "start comes first"
        return self.recorder

    def expect_parts(self) -> None:
        """Find in the first step whether the student is called, or its parts."""
        self.parts = None
        self.active().record_parts()

    def learn(self, module: LightningModule, calls: list[Call], recorder: CallRecorder) -> Call:
        """Choose the call to distil from the dry run's, which ``recorder`` recorded, and record its parts from then on."""
        chosen = choose_calls(calls, self._which, self.student)
        if not chosen:
            raise ValueError(hosting.not_called(module, self.student, recorder.refusal))
        call = chosen[0]
        if call.parts:
            try:
                check_parts(recorder.capture.model, call)
            except ValueError as error:
                raise ValueError(hosting.not_called(module, self.student, str(error))) from error
            self.parts = call.parts
            self.active().record_parts(call.parts)
        return call

    def choose(self, module: LightningModule, calls: list[Call]) -> list[Call]:
        """Return the calls of a training step to distil; refuse other parts than those of the dry run, or in another order."""
        chosen = choose_calls(calls, self._which, self.student)
        refusal = self.active().refusal
        if self.parts is None and (chosen or refusal is None):
            self.parts = next((call.parts for call in chosen), ())
            self.active().record_parts(self.parts)
        for call in chosen:
            if call.parts and call.parts != self.parts:
                refusal = f"it called {', '.join(self.parts or ())} before, and now only {', '.join(call.parts)}."
        if refusal is not None:
            raise ValueError(hosting.not_called(module, self.student, refusal))
        return chosen
