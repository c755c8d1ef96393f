"""No code from a checkpoint runs, through any door; and what is damaged is refused by name, before anything is trained."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import Distill, LogitDistillation, load
from lit_distill.callbacks import strip_file
from lit_distill.cli.command import main
from lit_distill.data import Digits
from tests.promises import foreign
from tests.promises.conftest import Tally

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

Door = Callable[[str], Any]
CODE, DAMAGE = "no code from a checkpoint runs", "a damaged checkpoint is refused by name before anything is trained"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), batch_size=4)


def steps(kind: type[Any]) -> type[Any]:
    class Theirs(kind):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.model(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Theirs


def trainer(folder: Path, kind: type[Any] = Trainer, **more: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return kind(accelerator="cpu", devices=1, max_epochs=2, default_root_dir=str(folder), **quiet, **more)


def module() -> LogitDistillation:
    return LogitDistillation(network(), network())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint of a fit as it should be."""
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    run = trainer(folder)
    run.fit_loop.max_epochs = 1
    run.fit(module(), batches())
    run.save_checkpoint(folder / "sound.ckpt")
    return torch.load(folder / "sound.ckpt", weights_only=True)  # type: ignore[no-any-return]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the test's folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def fit_beside(folder: Path, kind: type[Any], host: type[Any], path: str) -> None:
    guest = Distill(network(), student="model")
    trainer(folder, kind, callbacks=[guest]).fit(steps(host)(), batches(), ckpt_path=path)


def from_command(folder: Path, verb: str, path: str) -> None:
    small = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]
    small += ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"]
    model = ["--model=lit_distill.SupervisedModule", "--model.model=lit_distill.models.MLP"]
    main([verb, *model, "--data=lit_distill.data.Digits", *small, f"--ckpt_path={path}"])


def doors(folder: Path) -> dict[str, Door]:
    """Every way by which the path of a file reaches the library."""
    theirs = steps(LightningModule)
    return {
        "load": lambda path: load(network(), path),
        "strip": lambda path: strip_file(path, folder / "out.ckpt"),
        "fit": lambda path: trainer(folder).fit(module(), batches(), ckpt_path=path),
        "validate": lambda path: trainer(folder).validate(module(), batches(), ckpt_path=path, verbose=False),
        "test": lambda path: trainer(folder).test(module(), batches(), ckpt_path=path, verbose=False),
        "predict": lambda path: trainer(folder).predict(module(), batches(), ckpt_path=path),
        "load_from_checkpoint": lambda path: LogitDistillation.load_from_checkpoint(
            path, student=network(), teacher=network()
        ),
        "DataModule.load_from_checkpoint": lambda path: Digits.load_from_checkpoint(path),
        "Distill": lambda path: fit_beside(folder, Trainer, LightningModule, path),
        "Distill, pytorch_lightning": lambda path: fit_beside(
            folder, pytorch_lightning.Trainer, pytorch_lightning.LightningModule, path
        ),
        "Distill, test": lambda path: trainer(folder, callbacks=[Distill(network())]).test(
            theirs(), batches(), ckpt_path=path, verbose=False
        ),
        "lit-distill fit": lambda path: from_command(folder, "fit", path),
        "lit-distill test": lambda path: from_command(folder, "test", path),
        "lit-distill strip": lambda path: main(["strip", path, str(folder / "out.ckpt")]),
    }


LOCAL = list(doors(Path()))
WEB = [door for door in LOCAL if door not in ("load", "strip", "lit-distill strip")]
QUICK = [door for door in LOCAL if not door.startswith("lit-distill")]
EVERY_FILE = ("load", "strip", "fit", "test", "load_from_checkpoint", "Distill", "Distill, pytorch_lightning")


def refused(door: Door, path: str, name: str, marker: Path) -> str:
    with pytest.raises((ValueError, SystemExit, FileNotFoundError)) as caught:
        door(path)
    assert not marker.exists(), "code from the file was run"
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert name in said, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "http", "file url"])
@pytest.mark.parametrize("kind", foreign.ALL)
def test_no_door_lets_a_foreign_file_in(
    tmp_path: Path, web: str, sound: dict[str, Any], kind: str, place: str, tally: Tally
) -> None:
    path, marker = foreign.write(tmp_path, kind, sound)
    names = {"file": str(path), "http": f"{web}/{path.name}", "file url": f"file://{path}"}
    chosen = [door for door in EVERY_FILE if place == "file" or door in WEB]
    for door in chosen if place != "file url" else ("fit",):
        if kind == "nothing of use" and door == "Distill":
            continue
        refused(doors(tmp_path)[door], names[place], path.name, marker)
        tally(CODE if kind in foreign.RUNS_CODE else DAMAGE)


@pytest.mark.parametrize("door", QUICK)
def test_every_door_refuses_code_in_a_file(tmp_path: Path, sound: dict[str, Any], door: str, tally: Tally) -> None:
    path, marker = foreign.write(tmp_path, "reduce beside weights", sound)
    said = refused(doors(tmp_path)[door], str(path), path.name, marker)
    assert "could run code" in said
    tally(CODE)


@pytest.mark.parametrize("door", [door for door in QUICK if door in WEB])
def test_every_door_refuses_code_from_the_web(
    tmp_path: Path, web: str, sound: dict[str, Any], door: str, tally: Tally
) -> None:
    path, marker = foreign.write(tmp_path, "reduce beside weights", sound)
    said = refused(doors(tmp_path)[door], f"{web}/{path.name}", path.name, marker)
    assert "could run code" in said
    tally(CODE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reduce beside weights", "hyper-parameter", "cut at half", "a weight's byte flipped"])
@pytest.mark.parametrize("door", [door for door in LOCAL if door.startswith("lit-distill")])
def test_the_command_line_refuses_them(
    tmp_path: Path, web: str, sound: dict[str, Any], monkeypatch: pytest.MonkeyPatch, door: str, kind: str, tally: Tally
) -> None:
    monkeypatch.chdir(tmp_path)
    path, marker = foreign.write(tmp_path, kind, sound)
    for name in [str(path), *([f"{web}/{path.name}"] if door in WEB else [])]:
        refused(doors(tmp_path)[door], name, path.name, marker)
        tally(CODE if kind in foreign.RUNS_CODE else DAMAGE)


def test_the_files_would_run_code_were_they_trusted(tmp_path: Path, sound: dict[str, Any]) -> None:
    path, marker = foreign.write(tmp_path, "reduce beside weights", sound)
    torch.load(path, weights_only=False)
    assert marker.exists()


# Right files come in by every door ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "url", "http"])
@pytest.mark.parametrize("door", ["fit", "test", "load_from_checkpoint"])
def test_a_sound_checkpoint_comes_in(
    tmp_path: Path, web: str, sound: dict[str, Any], door: str, place: str, tally: Tally
) -> None:
    torch.save(sound, tmp_path / "own.ckpt")
    names = {"file": tmp_path / "own.ckpt", "url": f"file://{tmp_path}/own.ckpt", "http": f"{web}/own.ckpt"}
    doors(tmp_path)[door](names[place])  # type: ignore[arg-type]
    tally("a valid checkpoint is read from files and over http")


def test_another_file_of_the_same_name_is_fetched_anew(tmp_path: Path, web: str, sound: dict[str, Any]) -> None:
    changed = {**sound, "state_dict": {name: value + 1 for name, value in sound["state_dict"].items()}}
    for content in (sound, changed):
        torch.save(content, tmp_path / "last.ckpt")
        again = LogitDistillation.load_from_checkpoint(f"{web}/last.ckpt", student=network(), teacher=network())
        assert all(torch.equal(value, content["state_dict"][name]) for name, value in again.state_dict().items())


def test_an_address_without_a_file_is_said(tmp_path: Path, web: str) -> None:
    for door in ("fit", "load_from_checkpoint", "Distill"):
        with pytest.raises((FileNotFoundError, ValueError), match=r"none\.ckpt"):
            doors(tmp_path)[door](f"{web}/none.ckpt")
    with pytest.raises((FileNotFoundError, ValueError), match=r"none\.ckpt"):
        doors(tmp_path)["fit"]("nowhere://none.ckpt")


def test_python_objects_come_in_where_the_user_says_so(tmp_path: Path, web: str, sound: dict[str, Any]) -> None:
    torch.save({**sound, "extra": partial(int, "1")}, tmp_path / "own.ckpt")
    for name in (str(tmp_path / "own.ckpt"), f"{web}/own.ckpt"):
        run = trainer(tmp_path)
        with pytest.raises(ValueError, match=r"functools\.partial.*weights_only=False"):
            run.fit(module(), batches(), ckpt_path=name)
        if "weights_only" in inspect.signature(Trainer.fit).parameters:  # since Lightning 2.6
            trainer(tmp_path).fit(module(), batches(), ckpt_path=name, weights_only=False)
        again = LogitDistillation.load_from_checkpoint(name, trust=True, student=network(), teacher=network())
        assert torch.equal(again.student[0].weight, sound["state_dict"]["student.0.weight"])


@pytest.mark.parametrize("ending", ["well", "by an error"])
def test_the_trainer_is_as_it_was_after_a_run(tmp_path: Path, sound: dict[str, Any], ending: str) -> None:
    for callbacks, what in (([], module()), ([Distill(network())], steps(LightningModule)())):
        run = trainer(tmp_path, callbacks=callbacks)
        before = dict(vars(run.strategy))
        if ending == "well":
            run.fit(what, batches())
        else:
            with pytest.raises(FileNotFoundError):
                run.fit(what, batches(), ckpt_path=tmp_path / "none.ckpt")
        assert {name for name in vars(run.strategy) if name.startswith("load_")} == set()
        assert vars(run.strategy).keys() == before.keys()


# Checkpoints that name what is to be called ------------------------------------------------------------------------


def config_made(sound: dict[str, Any], command: str, **more: Any) -> dict[str, Any]:
    """A checkpoint whose student is made by calling anything."""
    call = {"class_path": "lit_distill.models.build"}
    call["init_args"] = {"function": "os.system", "arguments": {"command": command}}  # type: ignore[assignment]
    made = {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "lit_distill.LogitDistillation"}
    return {**sound, "hyper_parameters": {**made, "student": call, "teacher": call, **more}}


@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "module_arguments"])
def test_nothing_that_hyper_parameters_name_is_called_without_trust(
    tmp_path: Path, web: str, sound: dict[str, Any], key: str, tally: Tally
) -> None:
    marker = tmp_path / "ran"
    content = config_made(sound, f"touch {marker}")
    content[key] = content.pop("hyper_parameters")
    torch.save(content, tmp_path / "theirs.ckpt")
    for name in (tmp_path / "theirs.ckpt", f"{web}/theirs.ckpt"):
        with pytest.raises(
            ValueError, match=r"theirs\.ckpt was made from a config.*build.*trust=True.*lit_distill\.load"
        ):
            LogitDistillation.load_from_checkpoint(name)
        assert not marker.exists()
        tally(CODE)
    with (tmp_path / "theirs.ckpt").open("rb") as file, pytest.raises(ValueError, match="was made from a config"):
        LogitDistillation.load_from_checkpoint(file)
    assert not marker.exists()


def test_what_the_user_gives_takes_the_place_of_what_a_config_names(tmp_path: Path, sound: dict[str, Any]) -> None:
    marker = tmp_path / "ran"
    torch.save(config_made(sound, f"touch {marker}", temperature=7.0), tmp_path / "theirs.ckpt")
    again = LogitDistillation.load_from_checkpoint(tmp_path / "theirs.ckpt", student=network(), teacher=network())
    assert not marker.exists()
    assert torch.equal(again.student[0].weight, sound["state_dict"]["student.0.weight"])
    assert again.criteria["soft"].temperature == 7.0


def test_where_trusted_what_is_named_is_called(tmp_path: Path, sound: dict[str, Any]) -> None:
    marker = tmp_path / "ran"
    torch.save(config_made(sound, f"touch {marker}"), tmp_path / "theirs.ckpt")
    with pytest.raises(Exception, match=r"."):
        LogitDistillation.load_from_checkpoint(tmp_path / "theirs.ckpt", trust=True)
    assert marker.exists()


@pytest.mark.parametrize(
    ("entry", "value"),
    [("_instantiator", "os.system"), ("_class_path", "os.system"), ("_class_path", "tests.promises.foreign.Layer")],
)
def test_neither_maker_nor_class_of_a_checkpoint_is_called(
    tmp_path: Path, sound: dict[str, Any], entry: str, value: str, tally: Tally
) -> None:
    torch.save({**sound, "hyper_parameters": {"temperature": 2.0, entry: value}}, tmp_path / "theirs.ckpt")
    kind: Any = None
    with contextlib.suppress(ValueError):
        kind = type(
            LogitDistillation.load_from_checkpoint(tmp_path / "theirs.ckpt", student=network(), teacher=network())
        )
    assert kind in (None, LogitDistillation)
    tally(CODE)


def test_the_hyper_parameters_of_a_resumed_run_are_read_alone(
    tmp_path: Path, sound: dict[str, Any], tally: Tally
) -> None:
    marker = tmp_path / "ran"
    torch.save(config_made(sound, f"touch {marker}"), tmp_path / "theirs.ckpt")
    trainer(tmp_path).fit(module(), batches(), ckpt_path=tmp_path / "theirs.ckpt")
    trainer(tmp_path).test(module(), batches(), ckpt_path=tmp_path / "theirs.ckpt", verbose=False)
    assert not marker.exists()
    tally(CODE, cases=2)


# What is no checkpoint of a fit ------------------------------------------------------------------------------------

NO_FIT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "bare weights": (lambda sound: network().state_dict(), r"holds only weights.*lit_distill\.load"),
    "nested weights": (lambda sound: {"model": network().state_dict(), "epoch": 2}, "no checkpoint of Lightning"),
    "another library's": (
        lambda sound: {"state_dict": network().state_dict(), "optimizer": {}, "best": 0.5},
        r"no checkpoint of Lightning \(it holds state_dict, optimizer, best\)",
    ),
    "weights of a fit": (
        lambda sound: {k: v for k, v in sound.items() if k not in ("optimizer_states", "lr_schedulers")},
        "without its optimizers' states",
    ),
    "version that is none": (
        lambda sound: {**sound, "pytorch-lightning_version": "x"},
        "is damaged: its pytorch-light",
    ),
    "loops that are none": (lambda sound: {**sound, "loops": {"fit_loop": 3}}, "is damaged: its loops"),
    "progress that is none": (
        lambda sound: {**sound, "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": "x"}}}}},
        "is damaged: its loops.fit_loop.epoch_progress.current.ready is a str",
    ),
    "optimizers that are none": (lambda sound: {**sound, "optimizer_states": 3}, "is damaged: its optimizer_states"),
    "optimizers of another": (
        lambda sound: {**sound, "optimizer_states": [{"state": {}, "param_groups": []}]},
        "optimizers' states in theirs.ckpt do not fit",
    ),
    "no optimizer's state": (
        lambda sound: {**sound, "optimizer_states": []},
        "holds 0 of them, and this run has 1 opt",
    ),
    "one optimizer's state too many": (
        lambda sound: {**sound, "optimizer_states": sound["optimizer_states"] * 2},
        "holds 2 of them, and this run has 1 optimizer",
    ),
    "version that it is not of": (
        lambda sound: {**sound, "pytorch-lightning_version": "0.8"},
        r"is damaged: it says that Lightning 0\.8 wrote it",
    ),
    "callbacks that are none": (lambda sound: {**sound, "callbacks": [1]}, "is damaged: its callbacks"),
    "another network's": (
        lambda sound: {**sound, "state_dict": {"student.0.weight": torch.zeros(2, 2)}},
        "theirs.ckpt does not fit this",
    ),
}


def of_theirs(sound: dict[str, Any]) -> dict[str, Any]:
    """The same of a module that knows nothing of distilling."""
    state = {name.replace("student.", "model."): value for name, value in sound["state_dict"].items()}
    return {**{key: value for key, value in sound.items() if key != "lit_distill"}, "state_dict": state}


@pytest.mark.parametrize("door", ["fit", "Distill", "Distill, pytorch_lightning"])
@pytest.mark.parametrize("kind", NO_FIT)
def test_what_no_fit_can_go_on_from_is_named(
    tmp_path: Path, sound: dict[str, Any], kind: str, door: str, tally: Tally
) -> None:
    make, words = NO_FIT[kind]
    torch.save(make(of_theirs(sound) if door.startswith("Distill") else sound), tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match=words) as caught:
        doors(tmp_path)[door](str(tmp_path / "theirs.ckpt"))
    assert "theirs.ckpt" in str(caught.value)
    tally(DAMAGE)


def test_a_note_that_is_damaged_is_said(tmp_path: Path, sound: dict[str, Any]) -> None:
    for note in ({"criteria": 3}, {}, [1], {**sound["lit_distill"], "shapes": {"student": 3}}):
        torch.save({**sound, "lit_distill": note}, tmp_path / "theirs.ckpt")
        with pytest.raises(ValueError, match="checkpoint"):
            LogitDistillation.load_from_checkpoint(tmp_path / "theirs.ckpt", student=network(), teacher=network())


@pytest.mark.parametrize(
    "states",
    [
        {},
        {"torch": torch.zeros(3)},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": 3},
        {"python": [3, [1], None]},
        {"python": [3, ["x"] * 625, None]},
        {"numpy": ["MT19937", [1, 2], 0, 0, 0.0]},
        {"numpy": None},
    ],
)
def test_random_states_that_are_none_are_said(
    tmp_path: Path, sound: dict[str, Any], states: dict[str, Any], tally: Tally
) -> None:
    note = sound["lit_distill"]
    torch.save(
        {**sound, "lit_distill": {**note, "rng": {**note["rng"], **states} if states else {}}}, tmp_path / "theirs.ckpt"
    )
    with pytest.raises(
        ValueError, match=r"theirs\.ckpt: the checkpoint is damaged: its random states cannot be restored"
    ):
        doors(tmp_path)["fit"](str(tmp_path / "theirs.ckpt"))
    tally(DAMAGE)


def test_shapes_that_no_memory_holds_are_said(tmp_path: Path, sound: dict[str, Any]) -> None:
    shapes = {who: {"logits": [1 << 40, 3], "features": {}} for who in ("student", "teacher")}
    torch.save({**sound, "lit_distill": {**sound["lit_distill"], "shapes": shapes}}, tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match="checkpoint is damaged: its entry of lit-distill cannot be read"):
        LogitDistillation.load_from_checkpoint(tmp_path / "theirs.ckpt", student=network(), teacher=network())
