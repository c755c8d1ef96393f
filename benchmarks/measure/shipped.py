"""The shipped digits configs: what each needs first, and what its student is compared with."""

from __future__ import annotations

from dataclasses import dataclass

ACCURACY = "accuracy/student"


@dataclass(frozen=True)
class Scheme:
    """A shipped config.

    Attributes:
        name: Of the scheme.
        needs: What must have been fitted before: names of ``FITTED_BEFORE``.
        chain: It is for ``lit-distill chain``.
        config: Its file in ``configs/digits``; that of its name where empty.
        options: To lay over the config.
        figure: The test's figure that is compared.
        beside: Which schemes it is compared with: one without a teacher, and one of logits alone.
        note: What is other than in the baseline, beside the scheme.
    """

    name: str
    needs: tuple[str, ...] = ("teacher",)
    chain: bool = False
    config: str = ""
    options: tuple[str, ...] = ()
    figure: str = ACCURACY
    beside: tuple[str, str] = ("baseline", "logit")
    note: str = ""

    @property
    def file(self) -> str:
        return f"configs/digits/{self.config or self.name}.yaml"


@dataclass(frozen=True)
class Before:
    """A fit that schemes need.

    Attributes:
        checkpoint: Where they look for what it leaves.
        words: After ``lit-distill fit``.
        seed: Of the fit.
    """

    checkpoint: str
    words: tuple[str, ...]
    seed: int = 0


_TEACHER = ("--config", "configs/digits/teacher.yaml")
_DEEP = "[64, 64, 64, 64, 64]"
_SHALLOW = "[64, 64, 64]"
_MLP = "lit_distill.models.MLP"
_SMALL = '{"class_path": "lit_distill.models.SmallCNN", "init_args": {"width": 8}}'
_DEEP_TEACHER = (
    f"--model.teacher.init_args.model={_MLP}",
    f"--model.teacher.init_args.model.hidden={_DEEP}",
    "--model.teacher.init_args.checkpoint=runs/digits/teacher/deep.ckpt",
)
FITTED_BEFORE = {
    "teacher": Before("runs/digits/teacher/teacher.ckpt", _TEACHER),
    **{f"teacher_{n}": Before(f"runs/digits/teacher/teacher_{n}.ckpt", _TEACHER, n) for n in (1, 2, 3)},
    "deep": Before(
        "runs/digits/teacher/deep.ckpt", (*_TEACHER, f"--model.model={_MLP}", f"--model.model.hidden={_DEEP}")
    ),
    "multitask_teacher": Before(
        "runs/digits/multitask_teacher/teacher.ckpt", ("--config", "configs/digits/multitask_teacher.yaml")
    ),
}
_THREE = ("teacher_1", "teacher_2", "teacher_3")
SCHEMES = (
    Scheme("baseline", needs=()),
    Scheme("logit"),
    Scheme("feature"),
    Scheme("combined"),
    Scheme("recorded"),
    Scheme("feature_joint", needs=()),
    Scheme("mutual", needs=(), figure="accuracy/peer_0", note="the first peer alone"),
    Scheme("own_teacher", needs=()),
    Scheme("teacher_free", needs=()),
    Scheme("scheduled"),
    Scheme("balanced"),
    Scheme("early_stop"),
    Scheme("fitnets"),
    Scheme("ensemble", needs=_THREE, note="three teachers"),
    Scheme("ensemble_confidence", needs=_THREE, note="three teachers"),
    Scheme("assistant", chain=True, note="two trainings"),
    Scheme("born_again", chain=True, note="three trainings"),
    Scheme("ema", needs=(), note="1,113 more digits, unlabelled"),
    Scheme("mixed_labels", note="1,113 more digits, unlabelled"),
    Scheme("unlabelled", note="1,213 digits, no labels"),
    Scheme("consistent", note="MixUp, 240 epochs"),
    Scheme(
        "transfer_baseline",
        needs=(),
        config="baseline",
        options=(f"--model.model={_MLP}", f"--model.model.hidden={_SHALLOW}"),
        beside=("", ""),
        note="perceptron",
    ),
    Scheme(
        "transfer_logit",
        needs=("deep",),
        config="logit",
        options=(f"--model.student={_MLP}", f"--model.student.hidden={_SHALLOW}", *_DEEP_TEACHER),
        beside=("transfer_baseline", ""),
        note="perceptron",
    ),
    Scheme("transfer", needs=("deep",), beside=("transfer_baseline", "transfer_logit"), note="perceptron"),
    Scheme(
        "teacher_input_baseline",
        needs=(),
        config="baseline",
        options=("--model.model=lit_distill.models.adapt", f"--model.model.model={_SMALL}", "--model.model.size=4"),
        beside=("", ""),
        note="4x4 pixels",
    ),
    Scheme("teacher_input", beside=("teacher_input_baseline", ""), note="4x4 pixels"),
    Scheme(
        "multitask_baseline",
        needs=(),
        config="multitask_teacher",
        options=(
            "--model.student.init_args.width=8",
            "--data.train_size=100",
            "--trainer.max_epochs=60",
            "--optimizer.lr=0.01",
            "--lr_scheduler.T_max=60",
        ),
        beside=("", ""),
        note="mean of two tasks",
    ),
    Scheme("multitask", needs=("multitask_teacher",), beside=("multitask_baseline", ""), note="mean of two tasks"),
)
