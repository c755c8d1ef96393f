"""Everything that ``Distill`` promises, in modules and Trainers of ``pytorch_lightning``, which many projects import."""

from __future__ import annotations

from tests.other_name import load, renamed_tests

load("tests.callbacks.guests")
_GUESTS = {"tests.callbacks.guests": "tests.callbacks.guests_of_pytorch_lightning"}
for _name in ("distill", "distill_checkpoints", "distill_refusals", "evaluation", "objects", "steps", "tuner"):
    globals().update(renamed_tests(f"tests.callbacks.test_{_name}", **_GUESTS))
