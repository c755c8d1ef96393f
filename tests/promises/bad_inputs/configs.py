"""Configs that are wrong, and what their refusals must say; and configs that look odd and are right."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import yaml

Change = Callable[[dict[str, Any]], None]
BASE = """\
trainer: {max_epochs: 1, logger: false, enable_checkpointing: false, accelerator: cpu}
model:
  class_path: lit_distill.LogitDistillation
  init_args:
    student: {class_path: lit_distill.models.SmallCNN, init_args: {width: 4}}
    teacher: {class_path: lit_distill.models.SmallCNN, init_args: {width: 8}}
    temperature: 4
    weights: {hard: 0.1, soft: 0.9}
data: {class_path: lit_distill.data.Digits, init_args: {train_size: 100}}
optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
"""
_GONE = object()


def changed(changes: dict[str, Any]) -> str:
    """The config with other values, by dotted path; ``arg.`` is short for the model's arguments."""
    config = copy.deepcopy(yaml.safe_load(BASE))
    for path, value in changes.items():
        *above, last = (
            path.replace("arg.", "model.init_args.", 1).split(".") if path.startswith("arg.") else path.split(".")
        )
        place = config
        for key in above:
            place = place[key]
        if value is _GONE:
            del place[last]
        else:
            place[last] = value
    text: str = yaml.safe_dump(config)
    return text


def criterion(spec: Any) -> dict[str, Any]:
    return {"arg.criteria": {"mine": spec}, "arg.weights": {"mine": 1.0}, "arg.temperature": _GONE}


CHANGES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (
        "misspelt option",
        {"arg.temprature": 3},
        ("model: lit_distill.LogitDistillation", "'temprature'", "Did you mean 'temperature'"),
    ),
    (
        "misspelt class",
        {"model.class_path": "lit_distill.LogitDistilation"},
        ("model:", "'LogitDistilation'", "Did you mean 'LogitDistillation'"),
    ),
    (
        "misspelt package",
        {"model.class_path": "lit_distil.LogitDistillation"},
        ("model:", "'lit_distil'", "Did you mean 'lit_distill'"),
    ),
    (
        "misspelt network",
        {"arg.student.class_path": "lit_distill.models.SmalCNN"},
        ("model.init_args.student", "Did you mean 'SmallCNN'"),
    ),
    (
        "misspelt module of networks",
        {"arg.student.class_path": "lit_distill.model.SmallCNN"},
        ("model.init_args.student", "Did you mean 'models'"),
    ),
    (
        "misspelt option of a network",
        {"arg.student.init_args": {"widht": 4}},
        ("model.init_args.student", "'widht'", "Did you mean 'width'"),
    ),
    ("no teacher", {"arg.teacher": _GONE}, ("LogitDistillation needs teacher",)),
    ("no student", {"arg.student": _GONE}, ("LogitDistillation needs student",)),
    (
        "a path for a student",
        {"arg.student": "student.ckpt"},
        ("model.init_args.student", "'student.ckpt' is a file", "lit_distill.models.load"),
    ),
    ("a number for a teacher", {"arg.teacher": 3}, ("model.init_args.teacher", "not 3", "class_path")),
    ("a list for a teacher", {"arg.teacher": [1, 2]}, ("model.init_args.teacher", "not [1, 2]", "class_path")),
    (
        "an optimizer for a student",
        {"arg.student": {"class_path": "torch.optim.SGD"}},
        ("model.init_args.student", "torch.optim.SGD is no Module"),
    ),
    (
        "a network for the model",
        {"model.class_path": "torch.nn.Linear"},
        ("model:", "torch.nn.Linear is no DistillationModule"),
    ),
    (
        "a misspelt teacher",
        {"arg.teacher": {"class_path": "lit_distill.EMATeachr"}},
        ("model.init_args.teacher", "Did you mean 'EMATeacher'"),
    ),
    ("text for a temperature", {"arg.temperature": "four"}, ("model.init_args.temperature", "a number", "'four'")),
    ("a list for a temperature", {"arg.temperature": [4]}, ("model.init_args.temperature", "a number", "[4]")),
    ("a temperature below 0", {"arg.temperature": -1}, ("temperature must be above 0", "-1.0")),
    ("a temperature of nothing", {"arg.temperature": None}, ("temperature is None", "give a number")),
    ("a list for weights", {"arg.weights": [0.1, 0.9]}, ("model.init_args.weights", "a mapping", "[0.1, 0.9]")),
    (
        "text for a weight",
        {"arg.weights": {"hard": 0.1, "soft": "lots"}},
        ("model.init_args.weights", "a number", "'lots'"),
    ),
    ("a weight of no criterion", {"arg.weights": {"hrad": 1.0}}, ("'hrad'", "Did you mean 'hard'")),
    (
        "a list for criteria",
        {"arg.criteria": [{"class_path": "lit_distill.SoftTarget"}]},
        ("model.init_args.criteria", "a mapping"),
    ),
    (
        "a misspelt criterion",
        criterion({"class_path": "lit_distill.SoftTargt"}),
        ("model.init_args.criteria", "Did you mean 'SoftTarget'"),
    ),
    ("a criterion without its class", criterion({"temperature": 3}), ("model.init_args.criteria", "class_path")),
    (
        "a criterion's wrong option",
        criterion({"class_path": "lit_distill.SoftTarget", "init_args": {"temprature": 3}}),
        ("model.init_args.criteria.mine", "SoftTarget", "Did you mean 'temperature'"),
    ),
    (
        "a criterion's wrong value",
        criterion({"class_path": "lit_distill.SoftTarget", "init_args": {"temperature": 0}}),
        ("criterion 'mine' (SoftTarget): temperature must be above 0",),
    ),
    ("a number for a criterion", criterion(0.9), ("model.init_args.criteria", "0.9", "class_path")),
    ("options without a class", {"model.class_path": _GONE}, ("model:", "'temperature'", "No class_path")),
    (
        "an option beside a network's class",
        {"arg.student": {"class_path": "lit_distill.models.SmallCNN", "width": 4}},
        ("model.init_args.student", "'width' stands next to class_path", "init_args"),
    ),
    (
        "init_args misspelt",
        {"arg.student": {"class_path": "lit_distill.models.SmallCNN", "init_arg": {"width": 4}}},
        ("model.init_args.student", "'init_arg'", "Did you mean 'init_args'"),
    ),
    (
        "class_path misspelt",
        {"arg.student": {"classpath": "lit_distill.models.SmallCNN"}},
        ("model.init_args.student", "'classpath'", "Did you mean 'class_path'"),
    ),
    *(
        (
            f"init_args is {value!r}",
            {"arg.student": {"class_path": "lit_distill.models.SmallCNN", "init_args": value}},
            ("model.init_args.student", "init_args is", "a mapping"),
        )
        for value in ([4], "width=4", 3)
    ),
    *(
        (
            f"class_path is {value!r}",
            {"arg.student": {"class_path": value}},
            ("model.init_args.student", "class_path", "lit_distill.models.SmallCNN"),
        )
        for value in (None, 5, ["lit_distill.models.SmallCNN"], "models/small.py", " a.B", "a.b:C")
    ),
    ("a list for a task", {"arg.task": ["binary"]}, ("model.init_args.task", "'multiclass'", "not ['binary']")),
    (
        "a class alone for the model",
        {"model": "lit_distill.LogitDistillation"},
        ("LogitDistillation needs student, teacher",),
    ),
    (
        "a list for the model",
        {"model": ["lit_distill.LogitDistillation"]},
        ("model:", "DistillationModule", "class_path"),
    ),
    (
        "an option beside the class",
        {"model.temperature": 4},
        ("model:", "'temperature' stands next to class_path", "init_args"),
    ),
    ("an option at the top", {"temperature": 4}, ("no option 'temperature'", "init_args")),
    ("a misspelt task", {"arg.task": "multiclas"}, ("model.init_args.task", "Did you mean 'multiclass'")),
    ("text for a flag", {"arg.fast": "yes please"}, ("model.init_args.fast", "true or false", "'yes please'")),
    (
        "a misspelt option of the Trainer",
        {"trainer.max_epoch": 3},
        ("'trainer.max_epoch'", "Did you mean 'trainer.max_epochs'"),
    ),
    ("a list for the trainer", {"trainer": [1]}, ("trainer is a list", "a mapping", "max_epochs")),
    ("a text for the trainer", {"trainer": "gpu"}, ("trainer is the text 'gpu'", "a mapping", "max_epochs")),
    ("a checkpoint that is not there", {"ckpt_path": "no.ckpt"}, ("ckpt_path", "no checkpoint no.ckpt", "looked in")),
    ("an empty section misspelt", {"modle": {}}, ("'modle'", "Did you mean 'model'")),
    ("a section misspelt", {"optimizers": {"class_path": "torch.optim.SGD"}}, ("Did you mean 'optimizer'",)),
    (
        "a teacher's value out of range",
        {"arg.teacher": {"class_path": "lit_distill.EMATeacher", "init_args": {"decay": 2}}},
        ("c.yaml: decay", "in [0, 1), not 2.0"),
    ),
    ("text for epochs", {"trainer.max_epochs": "ten"}, ("trainer.max_epochs", "a whole number", "'ten'")),
    (
        "a misspelt callback",
        {"trainer.callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelChekpoint"}]},
        ("trainer.callbacks", "Did you mean 'ModelCheckpoint'"),
    ),
    ("misspelt data", {"data.class_path": "lit_distill.data.Digit"}, ("data:", "Did you mean 'Digits'")),
    (
        "a misspelt option of the data",
        {"data.init_args": {"batchsize": 3}},
        ("data:", "'batchsize'", "Did you mean 'batch_size'"),
    ),
    (
        "text for the data's number",
        {"data.init_args": {"batch_size": "big"}},
        ("data.init_args.batch_size", "a whole number", "'big'"),
    ),
    ("the data's number out of range", {"data.init_args": {"batch_size": 0}}, ("batch_size must be at least 1", "0")),
    ("a misspelt optimizer", {"optimizer.class_path": "torch.optim.AdmW"}, ("optimizer:", "Did you mean 'AdamW'")),
    (
        "a misspelt option of the optimizer",
        {"optimizer.init_args": {"lrr": 0.1}},
        ("optimizer:", "'lrr'", "Did you mean 'lr'"),
    ),
    (
        "a misspelt scheduler",
        {"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealing"}},
        ("lr_scheduler:", "Did you mean 'CosineAnnealingLR'"),
    ),
    (
        "a number for a schedule",
        {"arg.schedules": {"soft.weight": 0.5}},
        ("model.init_args.schedules", "Schedule", "0.5"),
    ),
    (
        "a schedule of nothing",
        {
            "arg.schedules": {
                "sotf.weight": {
                    "class_path": "lit_distill.schedules.Linear",
                    "init_args": {"start": 0, "end": 1, "until": 3},
                }
            }
        },
        ("'sotf.weight'", "Did you mean 'soft.weight'"),
    ),
    ("text for a batch format", {"arg.batch_format": "image"}, ("model.init_args.batch_format", "'image'")),
    (
        "a misspelt option of a batch format",
        {"arg.batch_format": {"input": "image"}},
        ("model.init_args.batch_format", "'input'", "Did you mean 'input_key'"),
    ),
]

TWICE = BASE.replace("    temperature: 4\n", "    temperature: 4\n    weights: {soft: 1.0}\n")
# What the file holds, and words of the refusal; ``None`` is a file that is not there.
FILES: list[tuple[str, bytes | None, tuple[str, ...]]] = [
    ("a key twice", TWICE.encode(), ("c.yaml", "'model.init_args.weights'", "lines 8 and 9")),
    (
        "a section twice",
        (BASE + "trainer: {max_epochs: 2}\n").encode(),
        ("c.yaml", "'trainer'", "twice", "lines 1 and 11"),
    ),
    (
        "a key twice in braces",
        BASE.replace("{width: 4}", "{width: 4, width: 5}").encode(),
        ("'model.init_args.student.init_args.width'", "line"),
    ),
    (
        "a key twice in a list",
        b"trainer: {callbacks: [{class_path: a, class_path: b}]}\n",
        ("'trainer.callbacks[0].class_path'", "twice"),
    ),
    ("a key twice in JSON", b'{"seed_everything": 1,\n "seed_everything": 2}', ("'seed_everything'", "lines 1 and 2")),
    ("a mapping in itself", b"a: &x [*x]\n", ("holds itself",)),
    ("no YAML", b"model: [1, 2\ntrainer: }", ("c.yaml", "no YAML", "line 2")),
    ("tabs", b"trainer:\n\tmax_epochs: 1\n", ("c.yaml", "no YAML", "line 2", "spaces")),
    ("binary", b"\x80\x02}q\x00(X\xff\xfe", ("c.yaml", "no YAML")),
    ("a list", b"- model\n- data\n", ("c.yaml", "a list", "mapping", "model")),
    ("a text", b"hello", ("c.yaml", "a str", "mapping")),
    ("empty", b"", ("c.yaml", "is empty", "model")),
    ("comments alone", b"# nothing yet\n", ("c.yaml", "is empty")),
    ("not there", None, ("no file", "c.yaml", "looked in")),
]

RIGHT: list[tuple[str, str]] = [
    ("as it is", BASE),
    ("a temperature in quotes", changed({"arg.temperature": "4"})),
    ("a temperature as 4e0", BASE.replace("temperature: 4", "temperature: 4e0")),
    ("a weight that is whole", changed({"arg.weights": {"soft": 1}})),
    (
        "an anchor",
        BASE.replace("student: {", "student: &net {").replace(
            "teacher: {class_path: lit_distill.models.SmallCNN, init_args: {width: 8}}", "teacher: *net"
        ),
    ),
    (
        "keys merged in",
        BASE.replace("init_args: {width: 4}", "init_args: &size {width: 4, in_channels: 1}").replace(
            "{width: 8}", "{<<: *size, width: 8}"
        ),
    ),
    (
        "merged twice over",
        BASE.replace("init_args: {width: 4}", "init_args: &size {width: 4}")
        .replace("{width: 8}", "&more {<<: *size, width: 8, in_channels: 1}")
        .replace("train_size: 100", "train_size: 100"),
    ),
    ("a document's marks", f"---\n{BASE}...\n"),
    ("the same key in two places", changed({"data.init_args": {"batch_size": 8, "train_size": 100}})),
    (
        "nothing for what may be nothing",
        changed({"arg.balance": None, "arg.schedules": None, "arg.batch_format": None}),
    ),
    ("a batch format by its options", changed({"arg.batch_format": {"input_key": 0, "target_key": 1}})),
    ("a class without options", changed({"arg.teacher": {"class_path": "lit_distill.EMATeacher"}})),
    ("a class's path alone", changed({"arg.teacher": "lit_distill.EMATeacher"})),
    (
        "a schedule",
        changed(
            {
                "arg.schedules": {
                    "soft.weight": {
                        "class_path": "lit_distill.schedules.Step",
                        "init_args": {"start": 0, "changes": {1: 1.0}},
                    }
                }
            }
        ),
    ),
    ("a criterion", changed(criterion({"class_path": "lit_distill.SoftTarget", "init_args": {"temperature": 2}}))),
    (
        "an optimizer in the module",
        changed({"optimizer": _GONE, "arg.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}),
    ),
    ("one callback", changed({"trainer.callbacks": {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}})),
    ("JSON", json.dumps(yaml.safe_load(BASE))),
]
