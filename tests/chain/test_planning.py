"""Which links are skipped, resumed, started or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lit_distill.chain import Link, PlannedLink, Record, plan, settings_of

SETTINGS: dict[str, dict[str, object]] = {"a": {"width": 16}, "b": {"width": 8}, "c": {"width": 4}}


@pytest.fixture
def links(tmp_path: Path) -> list[Link]:
    return [
        Link("a", tmp_path / "a", (), {}, ()),
        Link("b", tmp_path / "b", (), {}, ("a",)),
        Link("c", tmp_path / "c", (), {}, ("b",)),
    ]


def make(step: PlannedLink, finished: bool = True, checkpoint: bool = True) -> None:
    """Leave what a run of the step would leave."""
    replace(step.record, finished=finished).write(step.link.folder)
    if checkpoint:
        step.link.checkpoint.touch()


def actions(steps: list[PlannedLink]) -> list[str]:
    return [step.action for step in steps]


def test_nothing_made_everything_starts(links: list[Link]) -> None:
    steps = plan(links, SETTINGS)
    assert actions(steps) == ["start", "start", "start"]
    assert [step.link for step in steps] == links
    assert steps[1].record.teachers == {"a": steps[0].record.run}
    assert len({step.record.run for step in steps}) == 3


def test_finished_links_are_skipped_and_an_interrupted_one_goes_on(links: list[Link]) -> None:
    first = plan(links, SETTINGS)
    make(first[0])
    make(first[1], finished=False)
    steps = plan(links, SETTINGS)
    assert actions(steps) == ["skip", "resume", "start"]
    assert steps[1].record == first[1].record, "a resumed link stays the same making"
    assert "--ckpt_path" in steps[1].command()[-1]
    assert not any("--ckpt_path" in word for step in (steps[0], steps[2]) for word in step.command())


def test_a_link_interrupted_before_its_first_checkpoint_starts(links: list[Link]) -> None:
    make(plan(links, SETTINGS)[0], finished=False, checkpoint=False)
    assert actions(plan(links, SETTINGS)) == ["start", "start", "start"]


@pytest.mark.parametrize("finished", [True, False])
def test_changed_settings_are_refused_or_made_again_with_what_they_taught(links: list[Link], finished: bool) -> None:
    for step in plan(links, SETTINGS):
        make(step, finished)
    changed = SETTINGS | {"b": {"width": 12}}
    with pytest.raises(ValueError) as caught:
        plan(links, changed)
    message = str(caught.value)
    assert "b: width: 8, now 12" in message
    assert "c: its teacher 'b' has been made again since" in message
    assert "--again" in message
    assert "  a:" not in message
    again = plan(links, changed, again=True)
    assert actions(again) == ["skip" if finished else "resume", "start", "start"]
    assert again[2].record.teachers == {"b": again[1].record.run}


def test_again_leaves_alone_what_has_not_changed(links: list[Link]) -> None:
    for step in plan(links, SETTINGS):
        make(step)
    assert actions(plan(links, SETTINGS, again=True)) == ["skip", "skip", "skip"]


def test_a_teacher_whose_folder_was_deleted_is_not_silently_swapped(links: list[Link]) -> None:
    for step in plan(links, SETTINGS):
        make(step)
    links[0].checkpoint.unlink()
    with pytest.raises(ValueError, match="b: its teacher 'a' has been made again"):
        plan(links, SETTINGS)


def test_a_record_of_another_chain_does_not_count(links: list[Link]) -> None:
    Record("other", True, SETTINGS["b"], {"a": "an earlier making"}).write(links[1].folder)
    links[1].checkpoint.touch()
    with pytest.raises(ValueError, match="its teacher 'a' has been made again"):
        plan(links, SETTINGS)


# What a link would use ------------------------------------------------------------------------------


def link_with(**options: object) -> Link:
    return Link("one", Path("runs/one"), ("configs/digits/baseline.yaml",), dict(options), ())


def test_settings_are_the_whole_config_defaults_included(capsys: pytest.CaptureFixture[str]) -> None:
    link = link_with(**{"model.model.init_args.width": 12})
    settings = settings_of(link, ["--optimizer.lr", "0.5", "--trainer.enable_progress_bar=false"])
    assert settings["model.init_args.model.init_args.width"] == 12
    assert settings["optimizer.init_args.lr"] == 0.5
    assert settings["data.init_args.split_seed"] == 0
    assert settings["trainer.callbacks.2.class_path"] == "lit_distill.chain.LinkCheckpoint"
    assert settings == settings_of(link, ["--optimizer.lr=0.5"]), "the progress bar makes no other link"
    assert capsys.readouterr().out == ""


def test_an_option_that_fit_would_refuse_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"link 'one' cannot run, and nothing was run: .*'trainer\.epochs'"):
        settings_of(link_with(**{"trainer.epochs": 12}))
    assert capsys.readouterr().err == ""


def test_the_old_name_of_a_planned_link_still_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="chain.Step is now lit_distill.chain.PlannedLink"):
        from lit_distill.chain import Step
    assert Step is PlannedLink
