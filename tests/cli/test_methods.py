"""The table of methods: a line for each config, with what it reads and costs."""

from __future__ import annotations

from typing import Any

import pytest

from lit_distill.cli.command import main
from lit_distill.cli.methods import as_markdown, instantiate, method_configs, needs, rows, weight_of
from lit_distill.criteria import DKD, SP, HardTarget, SoftTarget


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return {row.config: row for row in rows()}


@pytest.mark.slow
def test_every_config_has_a_line(table: dict[str, Any]) -> None:
    assert set(table) == {path.stem for path in method_configs()}
    assert all(2010 < row.year < 2030 for row in table.values())
    assert all(row.weight > 0 for row in table.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "reads", "parameters"),
    [
        ("dkd", "logits, labels", 0),
        ("dist", "logits", 0),
        ("sp", "features", 0),
        ("fitnets", "features", 32 * 32 + 2 * 32),  # a 1x1 convolution of stage 2 and its BatchNorm
    ],
)
def test_what_it_reads_and_trains(table: dict[str, Any], config: str, reads: str, parameters: int) -> None:
    assert table[config].needs == reads
    assert table[config].parameters == parameters


def test_needs() -> None:
    assert needs(SoftTarget()) == "logits"
    assert needs(HardTarget()) == "labels"
    assert needs(DKD()) == "logits, labels"
    assert needs(SP("a", "b")) == "features"


def test_a_scheduled_weight_is_its_largest() -> None:
    ramp = {"class_path": "lit_distill.schedules.Linear", "init_args": {"start": 0, "end": 2.5, "until": 5}}
    settings = {"weights": {"hard": 1.0}, "schedules": {"dkd.weight": ramp}}
    assert weight_of(settings, "dkd") == 2.5
    assert weight_of(settings, "hard") == 1.0


def test_a_model_to_load_is_made_without_its_file() -> None:
    model = {"class_path": "lit_distill.models.MLP", "init_args": {"in_features": 3, "hidden": [4]}}
    loaded = {"class_path": "lit_distill.models.load", "init_args": {"model": model, "checkpoint": "nowhere.ckpt"}}
    assert instantiate([loaded])[0].classifier.in_features == 4


@pytest.mark.slow
def test_the_command_prints_it(table: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["methods"])
    printed = capsys.readouterr().out
    assert printed.strip() == as_markdown(list(table.values())).strip() or all(f"`{name}`" in printed for name in table)
    assert printed.count("\n") >= len(table) + 2
