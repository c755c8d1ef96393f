"""Everything that ``Distill`` promises, in modules and Trainers of ``pytorch_lightning``, which many projects import."""

from __future__ import annotations

from tests.other_name import load, renamed_tests

_LOADED = ("tests.callbacks.guests", "tests.averages")
for _name in _LOADED:
    load(_name)
_GUESTS = {name: f"{name}_of_pytorch_lightning" for name in _LOADED}
for _name in ("distill", "distill_checkpoints", "distill_refusals", "evaluation", "objects", "steps", "tuner"):
    globals().update(renamed_tests(f"tests.callbacks.test_{_name}", **_GUESTS))
