"""Names that the examples in docstrings assume."""

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _names_of_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
