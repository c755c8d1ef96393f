"""The first minutes at the command line: help that fits a screen, and mistakes answered in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_distill.cli.command import VERBS, main
from lit_distill.models import SmallCNN

ROOT = Path(__file__).parents[2]
GOOD = """
trainer: {max_epochs: 1, logger: false, enable_checkpointing: false, enable_progress_bar: false}
model:
  class_path: CombinedDistillation
  init_args:
    student: {class_path: SmallCNN, init_args: {width: 8}}
    teacher: {class_path: load, init_args: {model: SmallCNN, checkpoint: teacher.ckpt}}
    criteria:
      hard: HardTarget
      soft: {class_path: SoftTarget, init_args: {temperature: 4}}
      hint: {class_path: Hint, init_args: {student_layer: stage3, teacher_layer: stage3}}
    weights: {hard: 0.1, soft: 0.9, hint: 0.5}
    schedules: {hint.weight: {class_path: Linear, init_args: {start: 0, end: 0.5, until: 1}}}
data: {class_path: Digits, init_args: {train_size: 100}}
optimizer: {class_path: AdamW, init_args: {lr: 0.01}}
lr_scheduler: {class_path: CosineAnnealingLR, init_args: {T_max: 1}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    torch.save(SmallCNN().state_dict(), "teacher.ckpt")


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that cannot run says: one line, and nothing before it."""
    with pytest.raises(SystemExit) as done:
        main(words)
    told = capsys.readouterr().err + (done.value.code if isinstance(done.value.code, str) else "")
    assert done.value.code not in (0, None)
    (line,) = told.strip().splitlines()
    assert line.startswith("lit-distill")
    assert len(line) < 400
    return line


def helped(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    code = None
    try:
        main(words)
    except SystemExit as done:
        code = done.code
    assert not code
    told = capsys.readouterr()
    assert told.err == ""
    return told.out.splitlines()


# Help --------------------------------------------------------------------------------------------------


def test_help_lists_every_verb_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = helped(["--help"], capsys)
    for verb, (line, _) in VERBS.items():
        assert f"  {verb:10}{line}" in shown
    assert len(shown) <= 25
    assert max(map(len, shown)) <= 100


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_fits_two_screens(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = helped([verb, "--help"], capsys)
    assert shown[0].startswith(f"usage: lit-distill {verb}")
    assert 5 < len(shown) <= 60
    assert max(map(len, shown)) <= 130


def test_help_shows_the_options_of_the_models_and_data_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    plain = helped(["fit", "--help"], capsys)
    assert any(line.split()[:1] == ["LogitDistillation"] for line in plain)
    assert any(line.endswith("lit-distill fit --help=all") for line in plain)
    for words in (["--config", "good.yaml"], ["--model", "CombinedDistillation", "--data=lit_distill.data.Digits"]):
        shown = helped(["fit", *words, "--help"], capsys)
        assert any(line.startswith("CombinedDistillation, by --model.NAME") for line in shown)
        assert any(line.split()[:1] == ["student_layer"] for line in shown)
        assert any(line.split()[:1] == ["temperature"] and line.endswith("(4.0)") for line in shown)
        assert any(line.split()[:1] == ["train_size"] for line in shown)
        assert len(shown) <= 80


@pytest.mark.slow
def test_all_options_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = helped(["fit", "--help=all"], capsys)
    assert len(shown) > 300
    assert any("--trainer.max_epochs" in line for line in shown)


# Mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("optimizer:", "optimiser:", "no option 'optimiser'. Did you mean 'optimizer'?"),
        ("\ndata:", "\ndta:", "no option 'dta'. Did you mean 'data'?"),
        ("max_epochs", "max_epoch", "no option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?"),
        ("    weights", "    wieghts", "takes no 'wieghts.hard'. Did you mean 'weights'?"),
        (
            "width",
            "widht",
            "model.init_args.student: lit_distill.models.SmallCNN takes no 'widht'. Did you mean 'width'?",
        ),
        ("student_layer", "studnet_layer", "lit_distill.Hint takes no 'studnet_layer'. Did you mean 'student_layer'?"),
        ("until", "untl", "lit_distill.schedules.Linear takes no 'untl'. Did you mean 'until'?"),
        ("train_size", "trainsize", "data: lit_distill.data.Digits takes no 'trainsize'. Did you mean 'train_size'?"),
        ("checkpoint", "chekpoint", "lit_distill.models.load takes no 'chekpoint'. Did you mean 'checkpoint'?"),
        ("class_path: Hint", "class_pth: Hint", "criteria.hint: no option 'class_pth'. Did you mean 'class_path'?"),
        (
            "Combined",
            "Combind",
            "model: there is no class 'CombindDistillation' to use here. Did you mean 'CombinedDis",
        ),
        ("path: SmallCNN", "path: SmalCNN", "there is no class 'SmalCNN' to use here. Did you mean 'SmallCNN'?"),
        (
            "path: load",
            "path: laod",
            "model.init_args.teacher: there is no class 'laod' to use here. Did you mean 'load'?",
        ),
        ("HardTarget", "hardtarget", "there is no class 'hardtarget' to use here. Did you mean 'HardTarget'?"),
        ("HardTarget", "lit_distill.HardTargte", "lit_distill has no 'HardTargte'. Did you mean 'HardTarget'?"),
        ("HardTarget", "lit_distil.HardTarget", "there is no module 'lit_distil' to take"),
        ("HardTarget", "SmallCNN", "lit_distill.models.SmallCNN does not make a Criterion, which is needed here."),
        ("path: SmallCNN", "path: MLP", "'MLP' can be lit_distill.models.MLP or torchvision.ops.MLP"),
        ("Linear", "Linaer", "there is no class 'Linaer' to use here. Did you mean 'Linear'?"),
        ("Digits", "Digit", "data: there is no class 'Digit' to use here. Did you mean 'Digits'?"),
        ("AdamW", "AdmaW", "optimizer: there is no class 'AdmaW' to use here. Did you mean 'AdamW'?"),
        (
            "CosineA",
            "CosinA",
            "lr_scheduler: there is no class 'CosinAnnealingLR' to use here. Did you mean 'CosineAnn",
        ),
        ("lr: 0.01", "lr: fast", "optimizer.init_args.lr: a number is needed, not 'fast'."),
        ("width: 8", "width: wide", "model.init_args.student.init_args.width: a whole number is needed, not 'wide'."),
        ("max_epochs: 1", "max_epochs: many", "trainer.max_epochs: a whole number is needed, not 'many'."),
        ("{hard: 0.1, soft: 0.9, hint: 0.5}", "[1]", "model.init_args.weights: a mapping (name: value) is needed"),
        ("hint: 0.5", "hnit: 0.5", "weight for unknown criterion 'hnit'; the criteria are hard, soft, hint."),
        (
            "student_layer: stage3",
            "student_layer: stge3",
            "no layer 'stge3' in the student SmallCNN; did you mean 'stage3'",
        ),
        ("hint.weight", "hint.wieght", "Did you mean 'hint.weight'?"),
        ("teacher.ckpt", "techer.ckpt", "no checkpoint at techer.ckpt"),
        (
            "logger: false",
            "callbacks: [ModelChekpoint]",
            "there is no class 'ModelChekpoint' to use here. Did you mean",
        ),
        ("logger: false", "callbacks: ../chkpoints.yaml", "trainer.callbacks: there is no file ../chkpoints.yaml"),
    ],
)
@pytest.mark.slow
def test_a_mistake_in_a_config(right: str, wrong: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert right in GOOD
    Path("bad.yaml").write_text(GOOD.replace(right, wrong))
    line = said(["fit", "--config", "bad.yaml"], capsys)
    assert line.startswith("lit-distill: bad.yaml: ")
    assert expected in line


FIT = ["fit", "--config", "good.yaml"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fti"], "no verb 'fti'. Did you mean 'fit'?"),
        (["Doctor"], "no verb 'Doctor'. Did you mean 'doctor'?"),
        (["fit", "--config", "god.yaml"], "there is no file god.yaml"),
        (["fit", "--config", "configs/digits/logits.yaml"], "Did you mean 'configs/digits/logit.yaml'?"),
        (["chain", "--config", "configs/digits/assistent.yaml"], "Did you mean 'configs/digits/assistant.yaml'?"),
        (["doctor", "--config", "god.yaml"], "Did you mean 'good.yaml'?"),
        (["doctor", "--config", "good.yaml", "--step=3"], "there is no option '--step'. Did you mean '--steps'?"),
        (["doctor", "--config", "good.yaml", "--steps", "x"], "argument --steps: invalid int value: 'x'."),
        (["doctor"], "the following arguments are required: -c/--config."),
        (["chain"], "the following arguments are required: -c/--config."),
        (["chain", "--config", "good.yaml", "--dryrun"], "there is no option '--dryrun'. Did you mean '--dry_run'?"),
        (["methods", "--tiem"], "there is no option '--tiem'. Did you mean '--time'?"),
        (["strip"], "the following arguments are required: IN, OUT."),
        (["strip", "a.ckpt", "b.ckpt", "--trsut"], "there is no option '--trsut'. Did you mean '--trust'?"),
        (["strip", "a.ckpt", "b.ckpt"], "there is no file a.ckpt (looked in "),
        (["demo", "--seeds", "x"], "a whole number of at least 1 is needed, not 'x'"),
    ],
)
def test_a_wrong_word_before_anything_is_made(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in said(words, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*FIT, "--trainer.maxepochs", "3"], "no option 'trainer.maxepochs'. Did you mean 'trainer.max_epochs'?"),
        ([*FIT, "--optimiser.lr", "3"], "no option 'optimiser.lr'. Did you mean 'optimizer'?"),
        ([*FIT, "--model.temprature", "3"], "takes no 'temprature'. Did you mean 'temperature'?"),
        ([*FIT, "--model.student.init_args.widht", "3"], "takes no 'widht'. Did you mean 'width'?"),
        ([*FIT, "--model.student", "SmalCNN"], "there is no class 'SmalCNN' to use here. Did you mean 'SmallCNN'?"),
        ([*FIT, "--model", "LogitDistilation"], "Did you mean 'LogitDistillation'?"),
        ([*FIT, "--model.criteria.sofd.init_args.temperature", "3"], "an entry that has no class"),
        ([*FIT, "--ckpt-path", "x"], "no option 'ckpt-path'. Did you mean 'ckpt_path'?"),
        ([*FIT, "--confg", "x"], "no option 'confg'. Did you mean 'config'?"),
        ([*FIT, "--ckpt_path", "techer.ckpt"], "ckpt_path: there is no checkpoint techer.ckpt"),
        ([*FIT, "--trainer.max_epochs"], "argument --trainer.max_epochs: expected one argument."),
        ([*FIT, "good.yaml"], "'good.yaml' stands there alone; a config is given as --config good.yaml."),
        ([*FIT, "--trainer.accelerator", "cpuu"], "invalid accelerator name"),
        ([*FIT, "--optimizer.lr", "x"], "optimizer.init_args.lr: a number is needed, not 'x'."),
        (["fit"], "no model and no data are given; name a config"),
        (["fit", "--model", "LogitDistillation"], "lit_distill.LogitDistillation needs student, teacher"),
        (["record", "--config", "good.yaml"], "the config's teacher must be a lit_distill.RecordedTeacher"),
        (["record", *FIT[1:], "--model.temprature=3"], "Did you mean 'temperature'?"),
        (["doctor", *FIT[1:], "--model.temprature=3"], "Did you mean 'temperature'?"),
        (["chain", "--config", "configs/digits/assistant.yaml", "--model.temprature=3"], "Did you mean 'temperature'?"),
    ],
)
def test_a_wrong_word_of_a_fit(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(words, capsys)


def test_ctrl_c_ends_a_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_distill.compare.main", interrupted)
    with pytest.raises(SystemExit) as done:
        main(["compare", "plan.yaml"])
    assert done.value.code == 130
    assert capsys.readouterr().err.strip() == "lit-distill: stopped by Ctrl-C."


def test_a_fit_by_names_points_to_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(["fit", "--teacher", "timm:resnet18"], capsys)
    assert line.endswith("required: --student, --data. Help: lit-distill fit --teacher NAME --help")


# Quiet -------------------------------------------------------------------------------------------------

OURS = ("Student:", "Teacher:", "Criterion ", "Batch:", "    stage", "lit-distill: ")


@pytest.mark.slow
def test_a_quiet_fit_prints_only_our_own_lines_to_stderr() -> None:
    words = ["fit", "--config", "good.yaml", "--trainer.enable_model_summary=false"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "lit_distill", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith(OURS)] == []
    assert any("the teacher's accuracy is" in line for line in lines)  # a warning of ours is still told
