"""What the processes of a distributed training share is what one process has with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_distill.criteria import QueueKL
from lit_distill.criteria.ops.statistics import Statistics
from lit_distill.outputs import Outputs
from lit_distill.utils.distributed import gather_rows, sum_over_processes

_SCRIPT = """
import sys

import torch
import torch.distributed
from lit_distill.criteria import QueueKL
from lit_distill.utils.distributed import gather_rows, sum_over_processes
from lit_distill.criteria.ops.statistics import Statistics
from lit_distill.outputs import Outputs

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)
rows = torch.load(f"{folder}/rows.pt")
mine = rows[:3] if rank == 0 else rows[3:]  # 3 and 5
statistics = Statistics(4, True)
statistics.update(mine)
torch.manual_seed(0)
criterion = QueueKL("a", "a", 20)
sides = Outputs(torch.zeros(1), {"a": mine[:, :2]}), Outputs(torch.zeros(1), {"a": mine})
criterion.build(*sides)
values = [criterion(*sides, None).detach() for _ in range(2)]
found = {
    "gathered": gather_rows(mine),
    "sum": sum_over_processes(mine.sum(0)),
    "statistics": statistics.state_dict(),
    "criterion": criterion.state_dict(),
    "total": torch.stack(values) * len(mine),
}
torch.save(found, f"{folder}/found-{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_what_one_has(tmp_path: Path) -> None:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    torch.save(rows, tmp_path / "rows.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SCRIPT]
    started = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    first, second = (torch.load(tmp_path / f"found-{rank}.pt", weights_only=True) for rank in range(2))

    statistics = Statistics(4, True)
    statistics.update(rows)
    torch.manual_seed(0)
    criterion = QueueKL("a", "a", 20)
    sides = Outputs(torch.zeros(1), {"a": rows[:, :2]}), Outputs(torch.zeros(1), {"a": rows})
    criterion.build(*sides)
    values = torch.stack([criterion(*sides, None).detach() for _ in range(2)])

    for found in (first, second):
        assert torch.equal(found["gathered"], rows)
        torch.testing.assert_close(found["sum"], rows.sum(0))
        for ours, alone in (
            (found["statistics"], statistics.state_dict()),
            (found["criterion"], criterion.state_dict()),
        ):
            assert list(ours) == list(alone)
            for name, value in alone.items():
                torch.testing.assert_close(ours[name], value, msg=name)
    torch.testing.assert_close((first["total"] + second["total"]) / 8, values)


def test_one_process_has_its_own() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert torch.equal(gather_rows(rows), rows)
    assert torch.equal(sum_over_processes(rows), rows)
    assert not gather_rows(rows).requires_grad
    assert not sum_over_processes(rows).requires_grad
