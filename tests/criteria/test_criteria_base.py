import math

import pytest
import torch
from torch import Tensor, nn

from lit_distill.criteria import Criterion, FeatureCriterion, Hint, OnHead
from lit_distill.criteria.base import at_least_float32
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_choice, check_temperature


class Pairs(FeatureCriterion):
    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return torch.stack([(s - t).sum() for s, t in self.pair_features(student, teacher)]).sum()


def outputs(*names: str, shape: tuple[int, ...] = (2, 3)) -> Outputs:
    return Outputs(torch.zeros(1), {name: torch.full(shape, float(i)) for i, name in enumerate(names)})


def test_a_criterion_must_have_a_forward() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Criterion()  # type: ignore[abstract]


def test_one_layer_a_list_and_a_tuple_are_accepted() -> None:
    assert Pairs("a", ["b"]).student_layers == ("a",)
    assert Pairs(["a", "b"], ["c", "d"]).teacher_layers == ("c", "d")


@pytest.mark.parametrize(("student", "teacher", "side"), [([], "a", "student_layer"), ("a", [], "teacher_layer")])
def test_no_layers_are_refused(student: str | list[str], teacher: str | list[str], side: str) -> None:
    with pytest.raises(ValueError, match=f"{side} names no layer"):
        Pairs(student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ("layer1", "block3", [("layer1", "block3")]),
        (["layer2", "layer1"], ["block1", "block3"], [("layer2", "block1"), ("layer1", "block3")]),
        ("layer*", ["block1", "block2"], [("layer1", "block1"), ("layer2", "block2")]),
        ("layer?", "block[13]", [("layer1", "block1"), ("layer2", "block3")]),
        (["layer*", "head"], "block*", [("layer1", "block1"), ("layer2", "block2"), ("head", "block3")]),
        ("layer1:input", "block1#0", [("layer1:input", "block1#0")]),
        ("layer*:input", "block1", [("layer1:input", "block1")]),
    ],
)
def test_layers_pair_in_order_and_globs_expand(
    student: str | list[str], teacher: str | list[str], expected: list[tuple[str, str]]
) -> None:
    criterion = Pairs(student, teacher)
    criterion.build(
        outputs("layer1", "layer1:input", "layer2", "head"), outputs("block1", "block1#0", "block2", "block3")
    )
    assert criterion.pairs == expected


def test_paired_values_are_those_of_the_named_layers() -> None:
    found = Pairs(["c", "a"], ["y", "x"]).pair_features(outputs("a", "b", "c"), outputs("x", "y"))
    assert [(s.mean().item(), t.mean().item()) for s, t in found] == [(2.0, 1.0), (0.0, 0.0)]


def test_unequal_numbers_of_layers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"2 student layers \(a, b\) cannot pair with 1 teacher layers \(c\)"):
        Pairs(["a", "b"], "c").build(outputs("a", "b"), outputs("c"))


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no layer 'layer9' in the student's outputs; did you mean 'layer1'"):
        Pairs("layer9", "a").build(outputs("layer1"), outputs("a"))


def test_a_pair_that_cannot_meet_is_named() -> None:
    with pytest.raises(ValueError, match=r"head -> map: a student vector \[2, 3\] cannot fill a teacher map"):
        Hint("head", "map").build(outputs("head"), outputs("map", shape=(2, 3, 4, 4)))


def test_building_twice_keeps_the_projectors() -> None:
    criterion = Hint("a", "a")
    student, teacher = outputs("a"), outputs("a", shape=(2, 5))
    criterion.build(student, teacher)
    before = criterion.projectors[0].linear.weight
    criterion.build(student, teacher)
    criterion(student, teacher, None)
    assert criterion.projectors[0].linear.weight is before


def test_projectors_are_sized_from_shapes_alone() -> None:
    shapes = [outputs("a", shape=(2, 3, 8, 8)).shapes(), outputs("a", shape=(2, 5, 4, 4)).shapes()]
    criterion, other = Hint("a", "a"), Hint("a", "a")
    criterion.build(*(Outputs.from_shapes(s) for s in shapes))
    other.build(outputs("a", shape=(2, 3, 8, 8)), outputs("a", shape=(2, 5, 4, 4)))
    other.load_state_dict(criterion.state_dict(), strict=True)
    assert {k: v.shape for k, v in criterion.state_dict().items()} == {
        "projectors.0.linear.weight": (5, 3, 1, 1),
        "projectors.0.linear.bias": (5,),
    }


def test_features_are_widened_and_not_projected_without_projectors() -> None:
    criterion = Pairs("a", "a")
    student = Outputs(torch.zeros(1), {"a": torch.ones(2, 3, dtype=torch.bfloat16)})
    teacher = Outputs(torch.zeros(1), {"a": torch.ones(2, 5, dtype=torch.float64)})
    ((s, t),) = criterion.pair_features(student, teacher)
    assert (s.dtype, t.dtype, s.shape, t.shape) == (torch.float32, torch.float64, (2, 3), (2, 5))
    assert isinstance(criterion.projectors, nn.ModuleList)
    assert not list(criterion.parameters())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert at_least_float32(torch.zeros(2, dtype=dtype)).dtype == expected


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, -math.inf])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be above 0 and finite, not {temperature}"):
        check_temperature(temperature)


def test_a_whole_temperature_becomes_a_float() -> None:
    assert isinstance(check_temperature(4), float)


def test_check_choice_lists_the_choices() -> None:
    check_choice("colour", "red", ("red", "blue"))
    with pytest.raises(ValueError, match="colour must be one of 'red', 'blue', not 'green'"):
        check_choice("colour", "green", ("red", "blue"))


class Plain(Criterion):
    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return student.logits.sum()


def test_the_contract_has_defaults() -> None:
    plain = Plain()
    assert plain.citation is None
    assert (plain.task, plain.temperature, plain.wrapped) == (None, None, None)
    assert not plain.needs_target
    assert not plain.takes_tasks
    assert plain.needs_teacher
    assert not plain.compares_logits
    assert plain.minimum_at_teacher
    assert (plain.student_layers, plain.teacher_layers) == ((), ())


def test_a_temperature_may_be_a_number_of_the_class_or_of_the_instance_or_a_parameter() -> None:
    class OfClass(Plain):
        temperature = 3.0

    class OfInstance(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = 5.0

    class Learned(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))  # type: ignore[assignment]

    assert OfClass().temperature == 3.0
    assert OfInstance().temperature == 5.0
    assert [name for name, _ in Learned().named_parameters()] == ["temperature"]


def test_a_wrapped_criterion_is_found_under_its_usual_name() -> None:
    class Twice(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = Plain()

    twice = Twice()
    assert twice.wrapped is twice.criterion
    assert OnHead(Plain(), "head").wrapped is not None
