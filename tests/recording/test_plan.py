"""Rows, units and shards: nothing lost, nothing twice."""

from __future__ import annotations

import numpy as np
import pytest

from lit_distill.recording import Plan
from lit_distill.recording.plan import Layout


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("samples", "views", "size"), [(10, 3, 4), (8, 2, 4), (3, 1, 8), (1, 5, 1)])
def test_units_hold_every_view_once_in_the_order_of_their_rows(
    samples: int, views: int, size: int, fixed: bool
) -> None:
    plan = Plan(samples, views, size, fixed)
    seen = []
    for unit in range(plan.units):
        keys = plan.keys(unit)
        rows = plan.rows_of(keys)
        assert rows.tolist() == list(range(plan.first_row(unit), plan.first_row(unit) + len(keys)))
        seen += keys
    assert sorted(seen) == [(view, index) for view in range(views) for index in range(samples)]
    assert plan.first_row(plan.units) == plan.rows == samples * views


def test_the_members_of_fixed_units_are_drawn_anew_for_each_view_and_seed() -> None:
    plans = [Plan(50, 2, 10, fixed=True, seed=seed) for seed in (0, 0, 1)]
    members = [[index for _, index in plan.keys(unit)] for plan in plans for unit in (0, plan.units_per_view)]
    assert members[0] == members[2]
    assert members[1] == members[3]
    assert len({tuple(found) for found in members}) == 4


def test_rows_can_be_asked_for_in_any_order() -> None:
    plan = Plan(20, 3, 6, fixed=True)
    keys = [plan.keys(unit)[0] for unit in (4, 5, 6)]
    assert plan.rows_of(keys[::-1]).tolist() == plan.rows_of(keys).tolist()[::-1]


@pytest.mark.parametrize(("samples", "views", "size"), [(45000, 1, 128), (45000, 30, 128), (10, 2, 4), (9000, 1, 5000)])
def test_shards_cover_all_rows_and_stay_few(samples: int, views: int, size: int) -> None:
    layout = Layout(Plan(samples, views, size))
    units = [unit for shard in range(layout.shards) for unit in layout.units(shard)]
    assert units == list(range(layout.plan.units))
    assert sum(layout.size(shard) for shard in range(layout.shards)) == samples * views
    assert layout.shards <= 256


def test_rows_are_found_in_their_shards() -> None:
    layout = Layout(Plan(10000, 1, 100))
    rows = np.array([9999, 0, 5000, 4096, 0])
    found = np.full(len(rows), -1)
    for shard, places, inside in layout.split(rows):
        found[places] = layout.first_rows[shard] + inside
        assert (inside < layout.size(shard)).all()
    assert found.tolist() == rows.tolist()
