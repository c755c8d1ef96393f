"""Every criterion that reads labels understands every form of them, to the same value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.criteria import (
    CRD,
    DKD,
    NKD,
    OFA,
    RLD,
    SDD,
    Criterion,
    EnsembleTarget,
    HardTarget,
    OwnTeacher,
    TeacherFree,
)
from lit_distill.criteria.crd import negatives_of
from lit_distill.outputs import Outputs

CLASSES = 4
READERS: dict[str, Callable[[], Criterion]] = {
    "HardTarget": HardTarget,
    "DKD": DKD,
    "NKD": NKD,
    "RLD": RLD,
    "TeacherFree": TeacherFree,
    "confidence": lambda: EnsembleTarget("0", weighting="confidence"),
    "learned": lambda: EnsembleTarget("0", weighting="learned"),
    "OwnTeacher": lambda: OwnTeacher("f"),
    "OFA": lambda: OFA("f"),
    "CRD": lambda: CRD("f", "f", queue=8),
    "SDD": lambda: SDD("r", "r"),
}
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "int32": Tensor.int,
    "int16": Tensor.short,
    "uint8": Tensor.byte,
    "column": lambda y: y.unsqueeze(1),
    "one-hot": lambda y: F.one_hot(y, CLASSES),
    "one-hot of bools": lambda y: F.one_hot(y, CLASSES).bool(),
    "one-hot of floats": lambda y: F.one_hot(y, CLASSES).float(),
}
SPATIAL = ("HardTarget", "DKD", "NKD", "RLD", "TeacherFree", "confidence", "learned")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(seed: int) -> Outputs:
    logits = draw(8, CLASSES, seed=seed)
    return Outputs(
        logits, {"0": draw(8, CLASSES, seed=5), "f": draw(8, 6, seed=6), "r": draw(8, 3, CLASSES, seed=seed)}
    )


def value(make: Callable[[], Criterion], target: Tensor) -> float:
    torch.manual_seed(0)
    criterion = make().double()
    student, teacher = outputs(1), outputs(2)
    criterion.build(student, teacher)
    return criterion.double().eval()(student, teacher, target).item()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("make", READERS.values(), ids=READERS)
def test_each_form_has_the_value_of_class_indices(
    make: Callable[[], Criterion], form: Callable[[Tensor], Tensor]
) -> None:
    target = torch.tensor([0, 1, 2, 3, 3, 2, 0, 0])
    assert value(make, form(target)) == pytest.approx(value(make, target), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("CRD", "SDD", "confidence", "learned")])
@pytest.mark.parametrize("form", [lambda y: y, lambda y: y.int(), lambda y: y.unsqueeze(1)])
def test_ignored_labels_are_left_out(name: str, form: Callable[[Tensor], Tensor]) -> None:
    target = torch.tensor([0, 1, -100, 3, 3, -100, 0, 0])
    known = target >= 0

    def of(outputs: Outputs) -> Outputs:
        return Outputs(outputs.logits[known], {key: z[known] for key, z in outputs.features.items()})

    found, want = [], []
    for chosen, labels, pair in (
        (found, form(target), (outputs(1), outputs(2))),
        (want, target[known], (of(outputs(1)), of(outputs(2)))),
    ):
        torch.manual_seed(0)
        criterion = READERS[name]() if name != "OwnTeacher" else OwnTeacher("f", alpha=0.0)
        criterion.build(*pair)
        chosen.append(criterion.double().eval()(*pair, labels).item())
    assert found == pytest.approx(want, rel=1e-6)


def test_samples_of_unknown_class_are_negatives_of_each_other() -> None:
    target = torch.tensor([0, 1, -100, -100, 3, 2, 0, 0])
    criterion = CRD("f", "f", queue=0)
    labels = criterion._labels(target, 8, torch.device("cpu"))
    allowed = negatives_of(labels, labels)
    assert allowed[2, 3]
    assert not allowed[6, 7]


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("spots", [(2, 2), (1, 2, 2)])
def test_maps_and_volumes_have_the_value_of_their_rows(name: str, spots: tuple[int, ...]) -> None:
    student, teacher, member = (draw(2, *spots, CLASSES, seed=seed) for seed in (1, 2, 5))
    target = torch.randint(0, CLASSES, (2, *spots))

    def lay(z: Tensor) -> Tensor:
        return z.movedim(-1, 1)

    def run(lay_out: Callable[[Tensor], Tensor], labels: Tensor) -> float:
        s, t, m = (lay_out(z) for z in (student, teacher, member))
        criterion = READERS[name]().double()
        criterion.build(Outputs(s), Outputs(t, {"0": m}))
        return criterion.double()(Outputs(s), Outputs(t, {"0": m}), labels).item()

    want = run(lambda z: z.flatten(0, -2), target.flatten())
    one_hot = F.one_hot(target, CLASSES).movedim(-1, 1)
    for labels in (target, target.byte(), target.unsqueeze(1), one_hot, one_hot.float()):
        assert run(lay, labels) == pytest.approx(want, rel=1e-6)
