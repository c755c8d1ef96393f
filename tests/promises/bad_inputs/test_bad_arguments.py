"""Every wrong argument is refused where it is given, in words; and nothing that is right is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.promises.bad_inputs.arguments import BAD, RIGHT
from tests.promises.conftest import Tally


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_argument_is_refused(make: Callable[[], Any], words: tuple[str, ...], tally: Tally) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    tally("a bad argument is refused with what, whose, where and the remedy")


@pytest.mark.parametrize("make", [row[1] for row in RIGHT], ids=[row[0] for row in RIGHT])
def test_a_right_argument_is_not_refused(make: Callable[[], Any], tally: Tally) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        assert make() is not None
    tally("a valid argument is not refused")
