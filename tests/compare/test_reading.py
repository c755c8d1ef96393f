"""Plans that are read, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_distill.cli.methods import method_configs
from lit_distill.compare.plan import Choice
from lit_distill.compare.reading import read_plan
from lit_distill.compare.results import CONTROL
from tests.compare.plans import network, teacher, write


def test_every_student_gets_a_control_and_every_pair_every_method(tmp_path: Path) -> None:
    teachers = {"big": teacher(tmp_path), "bigger": teacher(tmp_path, 6)}
    path = write(
        tmp_path, students={"a": network(2), "b": network(3)}, teachers=teachers, methods=["kd", "dkd"], seeds=[3, 5]
    )
    plan = read_plan(path)
    choices = plan.choices()
    assert choices[:2] == [Choice("a", "", CONTROL), Choice("b", "", CONTROL)]
    assert len(choices) == 2 + 2 * 2 * 2
    assert Choice("b", "bigger", "dkd") in choices
    assert plan.seeds == (3, 5)


def test_all_methods_are_those_that_come_with_the_package(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, methods="all"))
    assert list(plan.methods) == [path.stem for path in method_configs()]
    assert all(method.optional and method.weights == "auto" for method in plan.methods.values())


def test_a_method_can_be_for_some_students_and_teachers_only(tmp_path: Path) -> None:
    teachers = {"big": teacher(tmp_path), "bigger": teacher(tmp_path, 6)}
    method = {"name": "kd", "students": ["b"], "teachers": ["big"], "weights": "configured"}
    plan = read_plan(write(tmp_path, students={"a": network(2), "b": network(3)}, teachers=teachers, methods=[method]))
    assert plan.choices()[2:] == [Choice("b", "big", "kd")]
    assert plan.methods["kd"].weights == "configured"


def test_several_weights_are_a_method_each_and_multiples_name_what_finds_them(tmp_path: Path) -> None:
    path = write(tmp_path, methods=[{"name": "at", "weights": [3, "auto", 0.3]}, "kd"])
    plan = read_plan(path)
    assert [(one.name, one.weights, one.scale, one.found_by) for one in plan.methods.values()] == [
        ("at, auto", "auto", None, ""),
        ("at, x 3", "auto", 3, "at, auto"),
        ("at, x 0.3", "auto", 0.3, "at, auto"),
        ("kd", "auto", None, ""),
    ]
    assert list(read_plan(path, only=["at"]).methods) == ["at, auto", "at, x 3", "at, x 0.3"]
    assert list(read_plan(path, only=["at, x 3"]).methods) == ["at, auto", "at, x 3"]  # with what it multiplies


def test_the_base_config_gives_data_and_epochs_but_no_model(tmp_path: Path) -> None:
    path = write(tmp_path, config="configs/digits/baseline.yaml", data=None, optimizer=None, epochs=None)
    plan = read_plan(path)
    assert plan.epochs == 60
    assert all("model" not in section for section in plan.base)
    callbacks = Path(plan.base[0]["trainer"]["callbacks"])
    assert callbacks.is_absolute()
    assert callbacks.is_file()


def test_words_of_the_command_win(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, methods=["kd", "dkd"]), tmp_path / "other", epochs=1, seeds=4, only=["dkd"])
    assert (plan.folder, plan.epochs, plan.share, len(plan.seeds)) == (tmp_path / "other", 1, 0.5, 4)
    assert list(plan.methods) == ["dkd"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown entry": ({"student": {}}, r"no entry 'student'. Did you mean 'students'\?"),
    "no data": ({"data": None}, "there is no data"),
    "no students": ({"students": {}}, "there are no students"),
    "no methods": ({"methods": []}, "there are no methods"),
    "an unknown method": ({"methods": ["dkdd"]}, "no method 'dkdd'. Did you mean 'dkd'"),
    "no control": ({"control": False}, "needs its control"),
    "a control that is null": ({"control": "none"}, "needs its control"),
    "no seed": ({"seeds": 0}, "seeds must be a whole number of at least 1; it is 0"),
    "seeds twice": ({"seeds": [1, 1]}, "different numbers"),
    "no epochs": ({"epochs": None}, "epochs is missing"),
    "two methods of a name": ({"methods": ["kd", "kd"]}, "two methods are named 'kd'"),
    "a method without a config": ({"methods": [{"name": "mine", "config": "none.yaml"}]}, "no config none.yaml"),
    "an entry of a method": (
        {"methods": [{"name": "kd", "wieghts": "auto"}]},
        "no entry 'wieghts'. Did you mean 'weights'",
    ),
    "weights in other words": ({"weights": "found"}, "weights must be auto or configured"),
    "multiples of nothing": ({"weights": [0.3, "configured"]}, r"0.3 multiplies .* write \[auto, 0.3\]"),
    "weights twice": ({"weights": ["auto", "auto"]}, "each once"),
    "weights below 0": ({"weights": ["auto", -1]}, "multiples above 0"),
    "no weights": ({"weights": []}, "weights must be auto"),
    "a method of an unknown student": ({"methods": [{"name": "kd", "students": ["smal"]}]}, "Did you mean 'small'"),
    "a teacher without weights": ({"teachers": {"big": "SmallCNN"}}, "'big' is a network without weights"),
    "a checkpoint that is not there": (
        {"teachers": {"big": {"network": "SmallCNN", "checkpoint": "none.pt"}}},
        "no checkpoint none.pt",
    ),
    "a network that is none": ({"students": {"small": 3}}, "student 'small' must be a network"),
    "a method without teachers": ({"teachers": None}, "method 'kd' needs a teacher"),
    "a name with a slash": ({"students": {"a/b": "SmallCNN"}}, "cannot name a student"),
    "a list for a mapping": ({"model": [1]}, "model must be a mapping"),
    "layers in other words": ({"layers": "some"}, "layers must be auto or configured"),
    "a scheme and a config": (
        {"methods": [{"name": "x", "config": "configs/digits/ema.yaml", "scheme": "configs/digits/ema.yaml"}]},
        "has config and scheme",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_plan_is_refused_in_words(name: str, tmp_path: Path) -> None:
    changes, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        read_plan(write(tmp_path, **changes))
    assert str(caught.value).startswith(f"{tmp_path / 'plan.yaml'}: ")


def test_an_unknown_word_after_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no method 'kdd'. Did you mean 'kd'"):
        read_plan(write(tmp_path), only=["kdd"])
