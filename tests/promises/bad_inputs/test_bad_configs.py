"""A wrong config ends the command with one paragraph that names the file, the place and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_distill.cli.command import main
from tests.promises.bad_inputs.configs import BASE, CHANGES, FILES, RIGHT, TWICE, changed
from tests.promises.conftest import Tally

REFUSED = "a bad config is refused with the file, the place and the remedy"
TAKEN = "a valid config is not refused"
VERBS = ["fit", "validate", "test", "predict", "record", "doctor"]


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says as it ends: one line, and no dump."""
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-distill: ")]
    assert len(said) == 1
    assert "init_args': {" not in said[0]
    assert "Namespace(" not in said[0]
    return said[0]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "words"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_a_wrong_value_is_refused(
    changes: dict[str, object], words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    Path("c.yaml").write_text(changed(changes))
    said = refusal(["fit", "--config", "c.yaml"], capsys)
    for word in ("c.yaml", *words):
        assert word in said
    tally(REFUSED)


@pytest.mark.parametrize(("content", "words"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_wrong_file_is_refused(
    content: bytes | None, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    if content is not None:
        Path("c.yaml").write_bytes(content)
    said = refusal(["fit", "--config", "c.yaml"], capsys)
    for word in words:
        assert word in said
    tally(REFUSED)


@pytest.mark.parametrize(
    ("verb", "form"),
    [(verb, form) for verb in VERBS for form in ("apart", "together", "short") if (verb, form) != ("doctor", "short")],
)  # doctor has no short option
def test_every_verb_refuses_a_key_given_twice(
    verb: str, form: str, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    Path("c.yaml").write_text(TWICE)
    words = {"apart": ["--config", "c.yaml"], "together": ["--config=c.yaml"], "short": ["-c", "c.yaml"]}[form]
    assert "'model.init_args.weights' is there twice (lines 8 and 9)" in refusal([verb, *words], capsys)
    tally(REFUSED)


def test_files_that_a_config_names_are_looked_at_too(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    Path("parts").mkdir()
    Path("parts/data.yaml").write_text("class_path: lit_distill.data.Digits\nclass_path: lit_distill.data.CIFAR10\n")
    Path("c.yaml").write_text(changed({"data": "parts/data.yaml"}))
    assert "parts/data.yaml: 'class_path' is there twice" in refusal(["fit", "--config", "c.yaml"], capsys)
    Path("c.yaml").write_text(BASE)
    words = ["fit", "--config", "c.yaml", "--data", "parts/data.yaml"]
    assert "parts/data.yaml: 'class_path' is there twice" in refusal(words, capsys)
    assert "'a' is there twice" in refusal(["fit", "--config", "{a: 1, a: 2}"], capsys)
    tally(REFUSED, 3)


def test_what_is_no_config_at_all_is_named(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    Path("last.ckpt").write_bytes(b"PK\x03\x04")
    assert "last.ckpt is a checkpoint and no config" in refusal(["fit", "--config", "last.ckpt"], capsys)
    Path("configs").mkdir()
    assert "configs is a folder" in refusal(["fit", "--config", "configs"], capsys)
    Path("logit.yaml").write_text(BASE)
    assert "Did you mean 'logit.yaml'" in refusal(["fit", "--config", "logits.yaml"], capsys)
    tally(REFUSED, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.temprature=3"], ("LogitDistillation", "'temprature'", "Did you mean 'temperature'")),
        (["--trainer.maxepochs=3"], ("'trainer.maxepochs'", "Did you mean 'trainer.max_epochs'")),
        (["--model.temperature=warm"], ("model.init_args.temperature", "a number", "'warm'")),
        (["--model.temperature=-1"], ("temperature must be above 0", "-1.0")),
        (["--model.student=lit_distill.models.SmalCNN"], ("model.init_args.student", "Did you mean 'SmallCNN'")),
    ],
    ids=["option", "trainer", "text", "range", "class"],
)
def test_a_wrong_word_is_refused(
    words: list[str], expected: tuple[str, ...], capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    Path("c.yaml").write_text(BASE)
    said = refusal(["fit", "--config", "c.yaml", *words], capsys)
    for word in expected:
        assert word in said
    tally(REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("text", [row[1] for row in RIGHT], ids=[row[0] for row in RIGHT])
def test_a_right_config_is_not_refused(text: str, capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    Path("c.yaml").write_text(text)
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", "c.yaml", "--print_config"])
    assert not done.value.code
    assert "class_path: lit_distill.LogitDistillation" in capsys.readouterr().out
    tally(TAKEN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer.init_args": {"lr": -1}}, "Invalid learning rate: -1.0"),
        ({"trainer.strategy": "dpp"}, "invalid strategy name"),
        ({"trainer.accelerator": "warp"}, "invalid accelerator name"),
        (
            {
                "arg.teacher.class_path": "torch.nn.Linear",
                "arg.teacher.init_args": {"in_features": -4, "out_features": 3},
            },
            "-4",
        ),
    ],
    ids=["optimizer", "strategy", "accelerator", "network"],
)
def test_what_a_library_refuses_is_said_in_one_line(
    changes: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    Path("c.yaml").write_text(changed(changes))
    assert expected in refusal(["fit", "--config", "c.yaml"], capsys)
    tally(REFUSED)


@pytest.mark.slow
def test_an_error_in_the_users_own_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    Path("own_trouble.py").write_text(
        "from torch import nn\n\n\nclass Own(nn.Module):\n    def __init__(self, size: int = 3):\n"
        "        raise ValueError('mine')\n"
    )
    monkeypatch.syspath_prepend(".")
    Path("c.yaml").write_text(changed({"arg.student": {"class_path": "own_trouble.Own"}}))
    with pytest.raises(ValueError, match=r"^mine$") as caught:
        main(["fit", "--config", "c.yaml"])
    assert caught.traceback[-1].path.name == "own_trouble.py"
    tally(TAKEN)
