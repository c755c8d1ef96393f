"""Checks of arguments: each says whose argument it is, what was given, and what would be right.

A value of the wrong type raises a ``TypeError``, one out of range a ``ValueError``. They run in constructors only, never in a
training step. NumPy's numbers and tensors of one number become plain, as settings and checkpoints hold plain types only.
"""

from lit_distill.utils.arguments.described import described, wrong_type
from lit_distill.utils.arguments.numbers import (
    as_float,
    check_flag,
    check_number,
    check_numbers,
    check_share,
    check_shares,
    check_size,
    check_temperature,
    check_temperatures,
    check_whole,
)
from lit_distill.utils.arguments.objects import as_object, check_network, check_object, check_sizes
from lit_distill.utils.arguments.texts import (
    check_choice,
    check_entry,
    check_folder,
    check_named,
    check_text,
    layer_tuple,
)

__all__ = [
    "as_float",
    "as_object",
    "check_choice",
    "check_entry",
    "check_flag",
    "check_folder",
    "check_named",
    "check_network",
    "check_number",
    "check_numbers",
    "check_object",
    "check_share",
    "check_shares",
    "check_size",
    "check_sizes",
    "check_temperature",
    "check_temperatures",
    "check_text",
    "check_whole",
    "described",
    "layer_tuple",
    "wrong_type",
]
