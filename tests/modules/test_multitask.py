"""Students with several heads, through the Trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lit_distill import BatchFormat, DistillationModule, HardTarget, Hint, JointTeacher, SoftTarget
from lit_distill.criteria import OnHead
from lit_distill.models import MLP, Ensemble
from lit_distill.modules import MultiTaskDistillation

QuickTrainer = Callable[..., Trainer]
HEADS = {"colour": "heads.colour", "shape": "heads.shape"}


class TwoHeads(nn.Module):
    """Three colours and four shapes."""

    def __init__(self, width: int = 6, form: str = "mapping") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, width), nn.ReLU())
        self.heads = nn.ModuleDict({"colour": nn.Linear(width, 3), "shape": nn.Linear(width, 4)})
        self.form = form

    def forward(self, x: Tensor) -> Any:
        body = self.body(x)
        found = {task: head(body) for task, head in self.heads.items()}
        return found if self.form == "mapping" else tuple(found.values())


class Samples(Dataset[Any]):
    """Inputs with the labels of both tasks; every third sample lacks its shape where asked."""

    def __init__(self, count: int = 24, missing: int | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(count, 5, generator=generator)
        self.colour = torch.randint(0, 3, (count,), generator=generator)
        self.shape = torch.randint(0, 4, (count,), generator=generator)
        if missing is not None:
            self.shape[::3] = missing

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], {"colour": self.colour[index], "shape": self.shape[index]}


def loader(data: Samples | None = None, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(data or Samples(), batch_size=8, shuffle=shuffle)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def softened(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    told = (teacher.detach() / temperature).softmax(-1)
    return temperature**2 * F.kl_div((student / temperature).log_softmax(-1), told, reduction="batchmean")


@pytest.mark.parametrize("form", ["mapping", "tuple"])
def test_the_tasks_losses_are_summed(quick_trainer: QuickTrainer, form: str) -> None:
    student, teacher = TwoHeads(form=form), TwoHeads(9, form)
    alone = copy.deepcopy(student)
    quick_trainer().fit(MultiTaskDistillation(student, HEADS, teacher, optimizer=sgd), loader())
    optimizer = sgd(alone.parameters())
    for x, y in loader():
        optimizer.zero_grad()
        loss = torch.zeros(())
        for task in HEADS:
            z, told = alone.heads[task](alone.body(x)), teacher.heads[task](teacher.body(x))
            loss = loss + 0.1 * F.cross_entropy(z, y[task]) + 0.9 * softened(z, told)
        loss.backward()
        optimizer.step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value)


def test_one_task_trains_nothing_of_the_others_head(quick_trainer: QuickTrainer) -> None:
    student = TwoHeads()
    before = copied(student)
    weights = {"hard_shape": 0.0, "soft_shape": 0.0}
    quick_trainer().fit(MultiTaskDistillation(student, HEADS, TwoHeads(9), weights=weights, optimizer=sgd), loader())
    changed = {name for name, value in copied(student).items() if not torch.equal(before[name], value)}
    assert changed == {name for name in before if "shape" not in name}


def test_each_task_is_measured_and_so_is_their_mean(quick_trainer: QuickTrainer) -> None:
    data = Samples(missing=-1)
    student, teacher = TwoHeads(), TwoHeads(9)
    fit = quick_trainer(num_sanity_val_steps=0)
    layout = BatchFormat(missing_label=-1)
    fit.fit(MultiTaskDistillation(student, HEADS, teacher, batch_format=layout), loader(data), loader(data))
    found = {name: value.item() for name, value in fit.callback_metrics.items()}
    student.eval()
    for who, network in (("student", student), ("teacher", teacher)):
        accuracies = []
        for task in HEADS:
            labels = getattr(data, task)
            known = labels >= 0
            right = network(data.x)[task].argmax(-1) == labels
            accuracies.append(right[known].float().mean().item())
            assert found[f"val/{task}/accuracy/{who}"] == pytest.approx(accuracies[-1])
        assert found[f"val/accuracy/{who}"] == pytest.approx(sum(accuracies) / 2)
    for task in HEADS:
        agreement = student(data.x)[task].argmax(-1) == teacher(data.x)[task].argmax(-1)
        assert found[f"val/{task}/agreement"] == pytest.approx(agreement.float().mean().item())


def test_the_teacher_runs_once_per_unchanged_validation_batch(quick_trainer: QuickTrainer) -> None:
    teacher = TwoHeads(9)
    calls: list[int] = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    module = MultiTaskDistillation(TwoHeads(), HEADS, teacher)
    data, seen = Samples(), []

    class Watch(Callback):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(-len(calls))
            data.x += trainer.current_epoch == 2

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            seen[-1] += len(calls)

    trainer = quick_trainer(max_epochs=3, num_sanity_val_steps=0, callbacks=[Watch()])
    trainer.fit(module, loader(Samples()), loader(data))
    assert seen == [3, 0, 3]
    trainer.validate(module, loader(data), verbose=False)  # between runs, anything about the teacher may have changed
    assert sum(seen) == 6 + 3


def test_a_missing_label_leaves_the_sample_its_soft_target(quick_trainer: QuickTrainer) -> None:
    data = Samples(8, missing=-1)
    student, teacher = TwoHeads(), TwoHeads(9)
    alone = copy.deepcopy(student)
    layout = BatchFormat(missing_label=-1)
    module = MultiTaskDistillation(student, HEADS, teacher, batch_format=layout, optimizer=sgd)
    quick_trainer().fit(module, loader(data))
    known = data.shape >= 0
    z = {task: head(alone.body(data.x)) for task, head in alone.heads.items()}
    told = teacher(data.x)
    hard = F.cross_entropy(z["colour"], data.colour) + F.cross_entropy(z["shape"][known], data.shape[known])
    (0.1 * hard + 0.9 * sum(softened(z[task], told[task]) for task in HEADS)).backward()
    sgd(alone.parameters()).step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value)


def test_a_teacher_of_its_own_for_each_task(quick_trainer: QuickTrainer) -> None:
    teacher = Ensemble([MLP(5, (7,), 3), MLP(5, (8,), 4)], average="none")
    student = TwoHeads()
    module = MultiTaskDistillation(
        student,
        HEADS,
        teacher,
        {"colour": "0", "shape": "1"},
        weights={"hard_colour": 0.0, "hard_shape": 0.0},
        optimizer=sgd,
    )
    before = copied(teacher)
    x, _ = next(iter(loader()))
    start = sum(softened(student(x)[task], member(x)) for task, member in zip(HEADS, teacher.children(), strict=True))
    fit = quick_trainer(max_epochs=8, num_sanity_val_steps=0)
    fit.fit(module, loader(), loader())
    end = sum(softened(student(x)[task], member(x)) for task, member in zip(HEADS, teacher.children(), strict=True))
    assert end < start
    assert all(torch.equal(value, copied(teacher)[name]) for name, value in before.items())
    labels = Samples().shape
    expected = (list(teacher.children())[1](Samples().x).argmax(-1) == labels).float().mean().item()
    assert fit.callback_metrics["val/shape/accuracy/teacher"].item() == pytest.approx(expected)


def test_a_teacher_of_one_task_alone(quick_trainer: QuickTrainer) -> None:
    module = MultiTaskDistillation(TwoHeads(), HEADS, TwoHeads(9), {"shape": "heads.shape"})
    assert module.criteria.weights == {"hard_colour": 1.0, "hard_shape": 0.1, "soft_shape": 0.9}
    fit = quick_trainer()
    fit.fit(module, loader(), loader())
    assert "val/shape/accuracy/teacher" in fit.callback_metrics
    assert not {"val/colour/accuracy/teacher", "val/accuracy/teacher"} & set(fit.callback_metrics)


def test_without_a_teacher_it_is_plain_training(quick_trainer: QuickTrainer) -> None:
    student = TwoHeads()
    alone = copy.deepcopy(student)
    quick_trainer().fit(MultiTaskDistillation(student, HEADS, optimizer=sgd), loader())
    optimizer = sgd(alone.parameters())
    for x, y in loader():
        optimizer.zero_grad()
        sum(F.cross_entropy(z, y[task]) for task, z in alone(x).items()).backward()
        optimizer.step()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value)


def with_hint() -> dict[str, Any]:
    return {
        "colour": OnHead(HardTarget(), "heads.colour", task_name="colour"),
        "shape": OnHead(SoftTarget(), "heads.shape", "heads.shape"),
        "hint": OnHead(Hint("body", "body"), "heads.shape", "heads.shape"),
    }


def test_resume_is_exact_with_the_projectors_of_wrapped_criteria(quick_trainer: QuickTrainer, tmp_path: Path) -> None:
    def make() -> MultiTaskDistillation:
        torch.manual_seed(0)
        criteria = with_hint()
        return MultiTaskDistillation(
            TwoHeads(), HEADS, TwoHeads(9), criteria=criteria, weights=dict.fromkeys(criteria, 1.0)
        )

    whole = make()
    quick_trainer(max_epochs=4).fit(whole, loader(shuffle=True))
    first = quick_trainer(max_epochs=2)
    first.fit(make(), loader(shuffle=True))
    first.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    assert "criteria.hint.criterion.projectors.0.linear.weight" in state
    TwoHeads().load_state_dict(
        {name.removeprefix("student."): value for name, value in state.items() if name.startswith("student.")}
    )
    second = make()
    quick_trainer(max_epochs=4).fit(second, loader(shuffle=True), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, copied(second)[name]) for name, value in copied(whole).items())


class Mixed(TwoHeads):
    """The shape is a yes or no."""

    def __init__(self) -> None:
        super().__init__()
        self.heads["shape"] = nn.Linear(6, 1)


def test_tasks_of_different_kinds(quick_trainer: QuickTrainer) -> None:
    data = Samples()
    data.shape = (data.shape > 1).float()
    student = Mixed()
    fit = quick_trainer(num_sanity_val_steps=0)
    module = MultiTaskDistillation(student, HEADS, Mixed(), task={"colour": "multiclass", "shape": "binary"})
    fit.fit(module, loader(data), loader(data))
    right = (student(data.x)["shape"].flatten() > 0) == data.shape.bool()
    assert fit.callback_metrics["val/shape/accuracy/student"].item() == pytest.approx(right.float().mean().item())


def two(**options: Any) -> Any:
    return MultiTaskDistillation(TwoHeads(), **{"heads": HEADS, "teacher": TwoHeads(9), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": {}}, "heads is empty"),
        ({"heads": {"colour": "heads.color"}}, "no layer 'heads.color' in the student"),
        ({"teacher_heads": {"color": "heads.colour"}}, "teacher_heads names 'color', .* Did you mean 'colour'"),
        ({"teacher_heads": {"colour": "head.colour"}}, "no layer 'head.colour' in the teacher"),
        ({"teacher": None, "teacher_heads": HEADS}, "teacher_heads are given, and there is no teacher"),
        ({"task": {"colour": "binary"}}, "task says nothing of 'shape'"),
        ({"task": {"colour": "binary", "shap": "binary"}}, "task names 'shap', .* Did you mean 'shape'"),
        ({"task": {"colour": "binary", "shape": "ranking"}}, "the task 'shape' must be one of"),
        (
            {"criteria": {"a": OnHead(HardTarget(), "heads.colour")}, "weights": {"a": 1.0}},
            "no criterion is on .* 'shape'",
        ),
        (
            {"criteria": with_hint(), "weights": dict.fromkeys(with_hint(), 1.0), "task": "binary"},
            "criterion 'colour' .* is for the task 'multiclass', and 'colour' is 'binary'",
        ),
    ],
)
def test_mistakes_are_found_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two(**options)


def test_a_joint_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="JointTeacher learns from the labels of one task"):
        two(teacher=JointTeacher(TwoHeads()))


class OneTask(Samples):
    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.colour[index]


class OtherNames(Samples):
    def __getitem__(self, index: int) -> Any:
        return self.x[index], {"color": self.colour[index], "shape": self.shape[index]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (OneTask(), "labels of task 'colour' are wanted, and the batch has those of only one task"),
        (OtherNames(), "no labels of a task 'colour'; did you mean 'color'"),
    ],
)
def test_other_labels_are_refused_before_training(quick_trainer: QuickTrainer, data: Samples, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick_trainer().fit(two(), loader(data))


def test_another_module_says_which_measures_several_tasks(quick_trainer: QuickTrainer) -> None:
    criteria = {task: OnHead(HardTarget(), layer, task_name=task) for task, layer in HEADS.items()}
    module = DistillationModule(TwoHeads(form="tuple"), None, criteria, dict.fromkeys(criteria, 1.0))
    with pytest.raises(ValueError, match="labels of several tasks .*; use MultiTaskDistillation"):
        quick_trainer().fit(module, loader(), loader())
