"""What a choice is in the words of a fit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_distill.compare.plan import Choice
from lit_distill.compare.reading import read_plan
from lit_distill.compare.results import CONTROL
from lit_distill.compare.settings import chain_links, teacher_network, teacher_words, words_of
from tests.compare.plans import network, write

SCHEDULER = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": 60}}


def sections(words: list[str]) -> list[dict[str, Any]]:
    """Return the configs among words."""
    return [yaml.safe_load(value) for option, value in itertools.pairwise(words) if option == "--config"]


def model(path: Path, method: str, **read: Any) -> dict[str, Any]:
    plan = read_plan(path, **read)
    choice = Choice("small", "" if method == CONTROL else "big", method)
    return next(section["model"] for section in sections(words_of(plan, choice)) if "model" in section)


def test_the_control_is_the_student_on_its_labels(tmp_path: Path) -> None:
    found = model(write(tmp_path, model={"task": "binary"}), CONTROL)
    assert found == {"class_path": "SupervisedModule", "init_args": {"model": network(2), "task": "binary"}}


def test_a_method_is_laid_over_the_pair_with_its_layers_renamed(tmp_path: Path) -> None:
    found = model(write(tmp_path, methods=["at"], weights="configured"), "at")["init_args"]
    assert found["student"] == network(2)
    assert found["teacher"]["class_path"] == "load"
    assert found["criteria"]["attention"]["init_args"] == {"student_layer": "stage*", "teacher_layer": "stage*"}
    assert found["weights"] == {"hard": 1, "attention": 1000}


def test_weights_that_are_found_in_training_are_left_out(tmp_path: Path) -> None:
    found = model(write(tmp_path, methods=["dkd", "at"]), "dkd")["init_args"]
    assert (found["weights"], found["schedules"]) == ({}, {})
    assert model(write(tmp_path, methods=["at"]), "at")["init_args"]["weights"] == {}


def test_multiples_are_of_all_weights_but_that_of_the_labels(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, methods=["vkd"], weights=["auto", 0.3]))
    choice = Choice("small", "big", "vkd, x 0.3")

    def weights(found: dict[str, float] | None) -> dict[str, float]:
        module = next(one["model"] for one in sections(words_of(plan, choice, found)) if "model" in one)
        assert module["init_args"]["schedules"] == {}
        given: dict[str, float] = module["init_args"]["weights"]
        return given

    assert weights({"hard": 0.5, "soft": 2.0, "vkd": 10.0}) == {"hard": 0.5, "soft": 0.6, "vkd": 3.0}
    assert weights(None) == {"hard": 1.0, "soft": 0.3, "vkd": 0.3}
    with pytest.raises(ValueError, match="no weight of 'vkd' was found"):
        weights({"hard": 1.0, "soft": 2.0})


def test_layers_of_shipped_methods_are_found_where_the_plan_names_none(tmp_path: Path) -> None:
    mine = {"name": "mine", "model": {"criteria": {"at": {"class_path": "AT", "init_args": {"student_layer": "x"}}}}}
    path = write(tmp_path, methods=["review_kd", mine], layers=None)
    found = model(path, "review_kd")["init_args"]["criteria"]["review_kd"]["init_args"]
    assert found == {"student_layer": "auto", "teacher_layer": "auto"}
    assert model(path, "mine")["init_args"]["criteria"]["at"]["init_args"] == {"student_layer": "x"}


def test_layers_take_each_networks_own_names(tmp_path: Path) -> None:
    students = {"small": {"network": network(2), "layers": {"linear": "head"}}}
    found = model(write(tmp_path, methods=["rkd", "review_kd"], students=students), "review_kd")["init_args"]
    assert found["criteria"]["review_kd"]["init_args"] == {
        "student_layer": ["layer1", "layer2", "layer3", "head:input"],
        "teacher_layer": ["stage1", "stage2", "stage3", "classifier:input"],
    }


def test_networks_that_a_methods_config_wraps_are_those_of_the_pair(tmp_path: Path) -> None:
    found = model(write(tmp_path, methods=["sdd"]), "sdd")["init_args"]
    assert found["student"]["init_args"] == {"model": network(2), "layer": "stage3", "classifier": "classifier"}
    assert found["teacher"]["init_args"]["model"]["init_args"]["model"] == network(4)


def test_schedules_keep_their_share_of_the_epochs(tmp_path: Path) -> None:
    path = write(tmp_path, methods=["ab", "dkd"], weights="configured", epochs=60, lr_scheduler=SCHEDULER)
    assert model(path, "ab")["init_args"]["schedules"]["ab.weight"]["init_args"]["changes"] == {6: 0}
    assert model(path, "dkd")["init_args"]["schedules"]["dkd.weight"]["init_args"]["until"] == 5.0


def test_other_epochs_shorten_the_learning_rates_schedule_too(tmp_path: Path) -> None:
    path = write(tmp_path, config="configs/digits/baseline.yaml", data=None, optimizer=None, epochs=None)
    words = words_of(read_plan(path, epochs=30), Choice("small", "big", "kd"))
    assert sections(words)[0]["lr_scheduler"]["init_args"]["T_max"] == 30
    assert words[-1] == "--trainer.max_epochs=30"


def test_a_scheme_is_run_as_it_is_but_for_its_options(tmp_path: Path) -> None:
    ema = {"name": "ema", "scheme": "configs/digits/ema.yaml", "options": {"model.student": "{student}"}}
    plan = read_plan(write(tmp_path, methods=[ema]))
    assert plan.choices()[1:] == [Choice("small", "", "ema")]
    words = words_of(plan, plan.choices()[1])
    assert sections(words)[0]["trainer"]["max_epochs"] == 60
    assert '--model.student={"class_path": "SmallCNN", "init_args": {"width": 2}}' in words
    assert words_of(read_plan(tmp_path / "plan.yaml", epochs=1), plan.choices()[1])[-1] == "--trainer.max_epochs=30"


def test_the_links_of_a_chain_take_the_plans_options(tmp_path: Path) -> None:
    chain = {"name": "two", "chain": "configs/digits/assistant.yaml", "options": {"data.train_size": 30}}
    plan = read_plan(write(tmp_path, methods=[chain]))
    links = chain_links(plan, plan.choices()[1], tmp_path / "links")
    assert [link.options["data.train_size"] for link in links] == [30, 30]
    assert links[1].options["model.teacher.init_args.checkpoint"] == str(links[0].checkpoint)


def test_a_teacher_is_trained_by_its_config_with_its_own_network(tmp_path: Path) -> None:
    teachers = {
        "big": {"network": network(6), "train": "configs/digits/teacher.yaml", "options": {"data.train_size": 50}}
    }
    plan = read_plan(write(tmp_path, teachers=teachers))
    words = teacher_words(plan, plan.teachers["big"])
    assert sections(words)[-1]["model"]["init_args"]["model"] == network(6)
    assert "--data.train_size=50" in words
    checkpoint = str(tmp_path / "out/teachers/big.ckpt")
    assert teacher_network(plan, "big")["init_args"] == {"model": network(6), "checkpoint": checkpoint}


def test_the_network_of_a_teacher_can_be_that_of_its_config(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, teachers={"big": {"train": "configs/digits/teacher.yaml"}}))
    assert teacher_network(plan, "big")["init_args"]["model"] == "SmallCNN"
