"""Modules at the import paths that they had before they moved."""

import importlib
import sys

import pytest

from lit_distill.utils import moved


@pytest.mark.parametrize("old", sorted(moved._MOVED))
def test_an_old_path_gives_the_same_objects_and_says_where_they_are(old: str) -> None:
    new = importlib.import_module(f"lit_distill.{moved._MOVED[old]}")
    sys.modules.pop(f"lit_distill.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"lit_distill\.{old} has moved to {new.__name__}"):
        found = importlib.import_module(f"lit_distill.{old}")
    own = [name for name, value in vars(new).items() if str(getattr(value, "__module__", "")).startswith(new.__name__)]
    assert own
    assert all(getattr(found, name) is getattr(new, name) for name in own)
    assert new.__spec__ is not None
    assert new.__spec__.name == new.__name__


def test_a_path_that_never_was_is_still_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match="lit_distill.nowhere"):
        importlib.import_module("lit_distill.nowhere")
