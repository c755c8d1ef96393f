"""What does finding the weights cost? The same fit with numbers and with found weights, in turn, in CPU time.

    python benchmarks/auto_cost.py
    python benchmarks/auto_cost.py --rounds 15 --pair cifar10

Two fits of the same student, teacher and criteria take turns, step by step: one with numbers, one with found weights in a
step that does not measure, and in one that does. Each step is timed by ``time.process_time``, so that other work on the
machine counts as little as it can. Seven steps of a fit measure: together they cost as much as so many further steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from measure.machine import describe_machine, in_words
from torch import Tensor, nn

from lit_distill.criteria import AttentionTransfer, Criterion, HardTarget, SoftTarget
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.models import SmallCNN, resnet20, resnet56
from lit_distill.modules.base import DistillationModule
from lit_distill.utils import measuring


class Fit:
    """Training steps of a module, as Lightning takes them."""

    def __init__(self, pair: str, found: bool) -> None:
        torch.manual_seed(0)
        digits = pair == "digits"
        student, teacher = (SmallCNN(width=8), SmallCNN(width=32)) if digits else (resnet20(), resnet56())
        self.inputs = torch.randn(32, 1, 8, 8) if digits else torch.randn(64, 3, 32, 32)
        self.labels = torch.arange(len(self.inputs)) % 10
        layers = [f"{'stage' if digits else 'layer'}{n}" for n in (1, 2, 3)]
        criteria: dict[str, Criterion] = {"hard": HardTarget(), "soft": SoftTarget(4.0)}
        criteria["attention"] = AttentionTransfer(layers, layers)
        weights = {} if found else {"hard": 1.0, "soft": 1.0, "attention": 1.0}
        self.module = DistillationModule(student, teacher, criteria, weights)
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
        self.criteria: WeightedCriteria = self.module.criteria

    def step(self) -> None:
        """Train on the batch, as between Lightning's hooks."""
        module, distiller = self.module, self.module.distiller
        balance = self.criteria.balance
        due = balance is not None and balance.measures(list(self.criteria.weights))
        distiller.eager_steps.begin(due, False)
        data = module._reader.read((self.inputs, self.labels))
        sides = distiller.run(data)
        with distiller.repeated_backward():
            losses = self.criteria(sides.student, sides.teacher, sides.target, sides.parameters)
        distiller.eager_steps.end()
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()

    def timed(self, measuring: bool = False) -> float:
        """Return the CPU seconds of a step that measures, or of one that does not."""
        balance = self.criteria.balance
        if balance is not None:
            balance.seen.fill_(0 if measuring else 64)  # type: ignore[operator]
        start = time.process_time()
        self.step()
        return time.process_time() - start


def passes(fit: Fit, steps: int) -> int:
    """Count the backward passes in addition to one a step."""
    counted = 0
    whole = measuring.gradients_of

    def counting(value: Tensor, parameters: Any, who: str) -> Any:
        nonlocal counted
        counted += 1
        return whole(value, parameters, who)

    measuring.gradients_of = counting
    for _ in range(steps):
        fit.step()
    measuring.gradients_of = whole
    return counted


def measure(pair: str, rounds: int) -> str:
    """Return a row of the table."""
    numbers, found = Fit(pair, found=False), Fit(pair, found=True)
    assert isinstance(found.criteria.balance, nn.Module)
    further = passes(found, 1)
    spent = [(numbers.timed(), found.timed(), found.timed(measuring=True)) for _ in range(rounds + 2)][2:]
    plain, other, measured = (statistics.median(times) for times in zip(*spent, strict=True))
    longer = measured / other
    return f"| {pair} | {rounds} | {further} | {longer:.2f} | {7 * (longer - 1):.1f} | {100 * (other / plain - 1):+.1f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="+", choices=["digits", "cifar10"], default=["digits", "cifar10"])
    parser.add_argument("--rounds", type=int, default=30, help="how often they take turns (default: 30)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(in_words(describe_machine()))
    print(
        "| pair | rounds | further backward passes | step that measures, to another | all seven, in steps | later, to numbers |"
    )
    print("|---|---|---|---|---|---|")
    for pair in options.pair:
        print(measure(pair, options.rounds), flush=True)


if __name__ == "__main__":
    main()
