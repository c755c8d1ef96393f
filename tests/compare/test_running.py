"""Comparisons that train: the figures, what is not trained again, and what is refused before anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torchmetrics import Accuracy

from lit_distill.compare import CONTROL, Choice, Comparison, Results, read_plan
from lit_distill.compare import training as training_module
from lit_distill.data import Digits
from lit_distill.models import SmallCNN
from tests.compare.plans import network, teacher, write

FAULTY = '''
from pathlib import Path

from lit_distill.data import Digits


class FaultyDigits(Digits):
    """Fails in the second epoch of a run whose folder's name holds what a file says."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        doomed = Path("doomed")
        if doomed.exists() and self.trainer.training and self.trainer.current_epoch == 1:
            if doomed.read_text() in str(self.trainer.default_root_dir):
                raise RuntimeError("a fault in mid-training")
        return batch
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data that can fail."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty_data.py").write_text(FAULTY)
    monkeypatch.setattr("lit_distill.measures.whole._SECONDS", 0.01)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def comparison(path: Path, **options: Any) -> Comparison:
    said: list[str] = options.pop("said", [])
    again = options.pop("again", False)
    return Comparison(read_plan(path, **options), str(path), again=again, say=said.append)


def scores(results: Results) -> dict[tuple[str, str, str, int], float]:
    return {one.run: one.score for one in results}


@pytest.mark.slow
def test_each_run_is_there_once_with_its_figures(folder: Path) -> None:
    outcome = comparison(write(folder, methods=["kd", "at"], seeds=2)).run(jobs=1)
    assert not outcome.failed
    assert {one.run for one in outcome.results} == outcome.planned
    assert len(outcome.results) == 2 * 3
    control, taught = outcome.results.of(method=CONTROL)[0], outcome.results.of(method="kd")[0]
    student = SmallCNN(2)
    assert control.parameters == sum(one.numel() for one in student.parameters())
    assert control.size_bytes == sum(t.numel() * t.element_size() for t in student.state_dict().values())
    assert control.latency_ms == taught.latency_ms > 0
    assert (control.epochs, [epoch for epoch, _ in control.curve]) == (2, [1, 2])
    assert control.teacher_score is None
    assert taught.teacher_score == pytest.approx(_accuracy(folder), abs=1e-6)
    assert taught.figures["accuracy/student"] == taught.score
    assert not list((folder / "out").glob("running/*"))


def _accuracy(folder: Path) -> float:
    """The teacher's, by hand."""
    network = SmallCNN(4)
    network.load_state_dict(torch.load(folder / "teacher-4-0.pt", weights_only=True))
    data = Digits()
    data.setup("test")
    metric = Accuracy("multiclass", num_classes=10)
    for batch in data.test_dataloader():
        metric.update(network.eval()(batch[0]), batch[1])
    return float(metric.compute())


@pytest.mark.slow
def test_multiples_are_of_the_weights_that_the_run_of_the_same_seed_found(folder: Path) -> None:
    outcome = comparison(write(folder, methods=["at"], weights=["auto", 0.5], seeds=2)).run(jobs=1)
    assert not outcome.failed
    for seed in (0, 1):
        found = outcome.results.of(method="at, auto", seed=seed)[0].weights
        fixed = outcome.results.of(method="at, x 0.5", seed=seed)[0].weights
        assert fixed["hard"] == pytest.approx((found["hard"][1],) * 2)
        assert found["attention"][0] > 0
        assert fixed["attention"] == pytest.approx((0.5 * found["attention"][1],) * 2)
    assert outcome.results.of(method=CONTROL)[0].weights == {"hard": (1, 1)}
    alone = comparison(folder / "plan.yaml", folder=folder / "alone")
    result = alone.train(Choice("small", "big", "at, x 0.5"), 1)
    assert result.score == outcome.results.of(method="at, x 0.5", seed=1)[0].score


def test_the_control_is_what_a_fit_by_hand_gives(folder: Path) -> None:
    outcome = comparison(write(folder, seeds=[3])).run(jobs=1)
    seed_everything(3)
    student, data = SmallCNN(2), Digits(train_size=40)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    data.setup("fit")
    data.setup("test")
    for epoch in range(2):
        seed_everything(3000 + epoch)
        for images, labels, *_ in data.train_dataloader():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(student.train()(images), labels).backward()
            optimizer.step()
    metric = Accuracy("multiclass", num_classes=10)
    with torch.no_grad():
        for images, labels, *_ in data.test_dataloader():
            metric.update(student.eval()(images), labels)
    assert outcome.results.of(method=CONTROL)[0].score == pytest.approx(float(metric.compute()), abs=1e-6)


def test_what_was_finished_is_not_trained_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder)
    first = scores(comparison(path).run(jobs=1).results)
    fitted: list[int] = []
    monkeypatch.setattr(training_module, "train", lambda *a, **k: fitted.append(1))
    monkeypatch.setattr("lit_distill.compare.tasks.train", lambda *a, **k: fitted.append(1))
    second = comparison(path).run(jobs=1)
    assert scores(second.results) == first
    assert not fitted


@pytest.mark.slow
def test_more_seeds_and_methods_train_only_what_is_new(folder: Path) -> None:
    comparison(write(folder)).run(jobs=1)
    said: list[str] = []
    outcome = comparison(write(folder, methods=["kd", "dkd"], seeds=2), said=said).run(jobs=1)
    assert len(outcome.results) == 6
    assert "4 runs, 1 at once, with 1 CPU threads each." in said


@pytest.mark.slow
def test_other_settings_are_refused_until_asked_for(folder: Path) -> None:
    comparison(write(folder)).run(jobs=1)
    path = write(folder, optimizer={"class_path": "AdamW", "init_args": {"lr": 0.02}})
    with pytest.raises(ValueError, match=r"small, no teacher was trained in .* with other settings .*--again"):
        comparison(path)
    assert len(comparison(path, again=True).run(jobs=1).results) == 2


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_does_not_stop_the_others(folder: Path) -> None:
    data = {"class_path": "faulty_data.FaultyDigits", "init_args": {"train_size": 40}}
    path = write(folder, data=data, methods=["kd", "dkd"])
    whole = scores(comparison(path, folder=folder / "whole").run(jobs=1).results)
    Path("doomed").write_text("small-big-kd")
    outcome = comparison(path).run(jobs=1)
    assert outcome.failed == {("small", "big", "kd", 0): "a fault in mid-training"}
    assert len(outcome.results) == 2
    assert "RuntimeError: a fault in mid-training" in (folder / "out/logs/failed.txt").read_text()
    Path("doomed").unlink()
    after = comparison(path).run(jobs=1)
    assert not after.failed
    assert scores(after.results) == whole


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_with_the_same_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"class_path": "faulty_data.FaultyDigits", "init_args": {"train_size": 40}}
    path = write(folder, data=data, methods=["at"], epochs=3)
    whole = comparison(path, folder=folder / "whole").run(jobs=1).results
    monkeypatch.setattr(training_module, "_PAUSE", 0.0)
    Path("doomed").write_text("small-big-at")
    assert comparison(path).run(jobs=1).failed
    left = next((folder / "out/running").glob("small-big-at*/last.ckpt"))
    assert torch.load(left, weights_only=True)["epoch"] == 0
    Path("doomed").unlink()
    after = comparison(path).run(jobs=1).results
    for one, other in zip(whole, after, strict=True):
        assert one.figures == other.figures
        assert one.curve == other.curve
    assert not list((folder / "out").glob("running/*"))


@pytest.mark.slow
def test_a_teacher_is_trained_first_and_its_failure_is_that_of_its_students(folder: Path) -> None:
    train = {"network": network(4), "train": "configs/digits/teacher.yaml", "seed": 1}
    good = {**train, "options": {"trainer.max_epochs": 1, "data.train_size": 40}}
    bad = {**train, "options": {**good["options"], "data": "faulty_data.FaultyDigits", "trainer.max_epochs": 2}}
    path = write(folder, teachers={"good": good, "bad": bad})
    Path("doomed").write_text("teacher-bad")
    outcome = comparison(path).run(jobs=1)
    assert list(outcome.failed) == [("small", "bad", "kd", 0)]
    assert outcome.failed["small", "bad", "kd", 0] == "it needs teacher bad, which failed"
    tested = json.loads((folder / "out/teachers/good.json").read_text())
    assert outcome.results.of(teacher="good")[0].teacher_score == tested["figures"]["accuracy/student"]
    assert (folder / "out/teachers/good.ckpt").is_file()


UNBUILDABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a layer that is not there": ({"methods": ["at"], "layers": "configured"}, r"small, big, at: no layer 'layer\*'"),
    "an unknown class": ({"students": {"small": "SmallCMM"}}, "small, no teacher: .*Did you mean 'SmallCNN'"),
    "an option that is not there": (
        {"students": {"small": {"class_path": "SmallCNN", "init_args": {"widht": 2}}}},
        "small, no teacher: .*Did you mean '.*width'",
    ),
    "widths that do not fit": ({"methods": ["fsp"]}, "small, big, fsp: "),
    "networks of its own": ({"methods": ["minilm"]}, "small, big, minilm: its config brings a student of its own"),
    "classes that differ": (
        {"students": {"small": {"class_path": "SmallCNN", "init_args": {"width": 2, "num_classes": 7}}}},
        "small, no teacher: ",
    ),
}


@pytest.mark.parametrize("name", UNBUILDABLE)
def test_what_cannot_be_built_is_refused_before_anything_is_trained(name: str, folder: Path) -> None:
    changes, words = UNBUILDABLE[name]
    with pytest.raises(ValueError, match=words) as caught:
        comparison(write(folder, **changes))
    assert "nothing was trained" in str(caught.value)
    assert not (folder / "out/runs").exists()


@pytest.mark.slow
def test_of_all_methods_those_that_cannot_be_built_are_left_out_in_words(folder: Path) -> None:
    said: list[str] = []
    found = comparison(write(folder, methods="all"), said=said)
    left_out = {choice.method for choice in found.checks.left_out}
    assert left_out == {"fsp", "minilm", "multi_teacher", "queue_kl"}
    assert any("fsp" in line and "left out" in line for line in said)
    assert len(found.checks.choices) + len(left_out) == len(found.plan.choices())


@pytest.mark.slow
def test_a_loss_is_a_score_with_its_sign_turned(folder: Path) -> None:
    outcome = comparison(write(folder, metric="cross_entropy/student", mode="min")).run(jobs=1)
    one = outcome.results.of(method="kd")[0]
    assert one.score == -one.figures["cross_entropy/student"] < 0
    assert one.teacher_score == -one.figures["cross_entropy/teacher"]
    assert all(value < 0 for _, value in one.curve)
    assert one.metric == "cross_entropy"


def test_one_choice_can_be_trained_and_stopped_from_python(folder: Path) -> None:
    found = comparison(write(folder, epochs=3))
    seen: list[tuple[int, float]] = []

    def stop(epoch: int, score: float) -> None:
        seen.append((epoch, score))
        if epoch == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        found.train(Choice("small", "big", "kd"), 0, stop)
    assert [epoch for epoch, _ in seen] == [1, 2]
    result = found.train(Choice("small", "big", "kd"), 0)
    assert result.curve[:2] == tuple(seen)
    assert found.train(Choice("small", "big", "kd"), 0) == result


@pytest.mark.slow
def test_simkd_is_tested_with_the_teachers_classifier(folder: Path) -> None:
    outcome = comparison(write(folder, methods=["sim_kd"])).run(jobs=1)
    control, taught = outcome.results.of(method=CONTROL)[0], outcome.results.of(method="sim_kd")[0]
    assert taught.parameters > control.parameters
    assert taught.latency_ms != control.latency_ms


@pytest.mark.slow
def test_schemes_and_chains_are_run_as_their_configs_say(folder: Path) -> None:
    small = {"data.train_size": 40, "model.student": "{student}"}
    methods = [
        {"name": "own", "scheme": "configs/digits/teacher_free.yaml", "options": {"data.train_size": 40}},
        {"name": "two", "chain": "configs/digits/assistant.yaml", "options": small, "teachers": ["big"]},
    ]
    big = {**teacher(folder, 32), "checkpoint": "runs/digits/teacher/teacher.ckpt"}
    Path("runs/digits/teacher").mkdir(parents=True)
    torch.save(SmallCNN(32).state_dict(), big["checkpoint"])
    path = write(folder, students={"small": network(8)}, teachers={"big": big}, methods=methods, epochs=60)
    outcome = comparison(path, epochs=1).run(jobs=1)
    assert not outcome.failed
    assert {one.method for one in outcome.results} == {CONTROL, "own", "two"}
    two = outcome.results.of(method="two")[0]
    assert (two.teacher, two.epochs) == ("big", 1)


@pytest.mark.slow
def test_several_processes_give_the_same_figures(folder: Path) -> None:
    path = write(folder, methods=["kd", "at"], seeds=2)
    one = comparison(path, folder=folder / "one").run(jobs=1).results
    several = comparison(path, folder=folder / "several").run(jobs=3).results
    assert [result.figures for result in one] == [result.figures for result in several]
    assert [result.curve for result in one] == [result.curve for result in several]
