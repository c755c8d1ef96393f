"""Trains what two names and a folder stand for, and goes on where an earlier call was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_distill.by_name.configs import NamedSetup, link_configs, write_configs
from lit_distill.by_name.finishing import finish, finished, forget_outcome
from lit_distill.by_name.networks import look_at, shared_pixels
from lit_distill.by_name.outcome import FitResult
from lit_distill.by_name.recipe import choose_recipe
from lit_distill.by_name.request import Request, Training
from lit_distill.by_name.stored import images_changed, keep, recall
from lit_distill.by_name.teaching import decide
from lit_distill.chain import plan, read_chain, run, settings_of
from lit_distill.chain.running import Launch, refuse_launcher
from lit_distill.data.folder_facts import FolderFacts, read_folder
from lit_distill.files.alone import alone_in
from lit_distill.models.named import read_name

_LOCK = "chain.lock"
_CHAIN = "lit-distill chain: "
_TRAININGS = {
    "none": "not trained",
    "head": "its classifier is replaced and trained first, the rest stays as it is",
    "all": "it is trained first, as a whole",
}


def fit(
    teacher: str,
    student: str,
    data: str | Path,
    folder: str | Path | None = None,
    epochs: int | None = None,
    teacher_epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    teacher_training: Training | None = None,
    control: bool = True,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    again: bool = False,
) -> FitResult:
    """Distil one named network into another on a folder of images.

    ``lit-distill fit --teacher … --student … --data …`` is the same. The teacher is trained first where it does not know the
    folder's classes; then the student is trained without it and with it, alike otherwise. Each training is a ``lit-distill
    fit`` in a process of its own, from a config that is left in the folder. Called again, it skips what is finished, and goes
    on with what was stopped.

    Args:
        teacher: A name, such as ``timm:resnet50``; ``named_model`` lists all kinds.
        student: A name; it starts from its pretrained weights as well, unless it says ``@random``.
        data: Holds ``train/<class>/…``, with ``val`` and ``test`` beside it or not, or ``<class>/…``, which is then split.
        folder: Where everything is written; ``runs/<data>/<student>-from-<teacher>`` if None.
        epochs: Of the student; 30 if None, and up to 100 of random weights on few images.
        teacher_epochs: Of the teacher, if it is trained; 5 to 30 of a new classifier, as many as the student's of all, if None.
        batch_size: 8 to 64, by the number of images, if None.
        image_size: Height and width of both networks' images, where they take it; what they say of themselves if None.
        teacher_training: ``head`` trains a new classifier, ``all`` the whole teacher, ``none`` nothing; if None, what the
            teacher needs: nothing if it tells the folder's images apart.
        control: Train the student without the teacher, too.
        seed: Of all trainings.
        options: Further options of a config by their paths, such as ``{"trainer.accelerator": "cpu"}``: of the trainer and the
            data for all trainings, of the optimizer for the student's, of the model for the distillation.
        again: Make again what was made with other settings.

    Returns:
        The table, the student as a plain network, and where everything is.

    Raises:
        ValueError: A name is unknown, weights cannot be had, a network is no classifier or takes no image size, the folder has
            one class, or a file that is no image, or was used with other settings; nothing was trained.
        FileNotFoundError: There is no such folder or checkpoint, or the folder has no images.
        SystemExit: A training failed or was interrupted; the same call goes on.

    Example:
        ```python
        result = lit_distill.fit("timm:resnet50", "timm:mobilenetv3_small_100", "photos")
        print(result)
        result.student(images)
        ```
    """
    place = None if folder is None else str(folder)
    numbers = (epochs, teacher_epochs, batch_size, image_size)
    request = Request(
        teacher, student, str(data), place, *numbers, teacher_training, control, seed, dict(options or {})
    )
    return run_request(request, again)


def run_request(
    request: Request, again: bool = False, launch: Launch | None = None, dry_run: bool = False
) -> FitResult:
    """Do what is asked for.

    Args:
        request: The checked arguments.
        again: Make again what was made with other settings.
        launch: Runs the words after ``lit-distill`` and returns the exit code; in a process of its own if None.
        dry_run: Stop once the configs are written.

    Raises:
        SystemExit: A training failed or was interrupted, or ``dry_run`` is set.
    """
    refuse_launcher()
    names = read_name("teacher", request.teacher), read_name("student", request.student)
    folder = request.place(*names)
    facts = read_folder(request.data)
    print(f"data: {facts.words()}", flush=True)
    with alone_in(folder, _LOCK, "fit"):
        setup = recall(request, facts, folder, again)
        if setup is None:
            setup = _found_out(request, facts, folder)
        _say(setup)
        if dry_run:
            raise SystemExit(0)
        known = finished(setup)
        if known is not None:
            return known
        _train(setup, again, launch)
        return finish(setup)


def _found_out(request: Request, facts: FolderFacts, folder: Path) -> NamedSetup:
    """Look at the networks, decide what is to be trained and how, and write the configs."""
    torch.manual_seed(request.seed)
    teacher, network = look_at("teacher", request.teacher, facts, request.image_size)
    student, _ = look_at("student", request.student, facts, request.image_size)
    pixels = shared_pixels(student, teacher)
    decision = decide(teacher, network, facts, pixels, request.teacher_training)
    recipe = choose_recipe(request, student, teacher, decision.training, facts)
    setup = NamedSetup(request, facts, folder, student, teacher, pixels, decision, recipe)
    forget_outcome(folder)
    write_configs(setup)
    if images_changed(facts, folder):
        for link in read_chain(folder / "chain.yaml"):
            link.forget()
    keep(setup)
    return setup


def _say(setup: NamedSetup) -> None:
    """Print what was read and chosen."""
    teacher, recipe = setup.recipe.teacher, setup.recipe
    print(f"teacher: {setup.teacher.words()}")
    trained = "" if teacher is None else f", for {_epochs(teacher.epochs)} (AdamW, {teacher.rate:g})"
    print(f"  {setup.decision.why}: {_TRAININGS[setup.decision.training]}{trained}")
    print(f"student: {setup.student.words()}")
    side = setup.pixels.size[0]
    print(f"both see the same images of {side}x{side}, each network in its own size and normalisation")
    print(
        f"the student is trained {'without the teacher, and then with it' if setup.request.control else 'with the teacher'} "
        f"(LogitDistillation's defaults), for {_epochs(recipe.student.epochs)} of {recipe.steps(setup.facts)} batches of "
        f"{recipe.batch_size} (AdamW, {recipe.student.rate:g})"
    )
    print(f"configs: {', '.join(str(setup.folder / name) + '.yaml' for name in link_configs(setup))}", flush=True)


def _epochs(number: int) -> str:
    return f"{number} epoch{'' if number == 1 else 's'}"


def _train(setup: NamedSetup, again: bool, launch: Launch | None) -> None:
    links = read_chain(setup.folder / "chain.yaml")
    try:
        settings = {link.name: settings_of(link) for link in links}
    except SystemExit as refused:
        raise ValueError(str(refused.code).removeprefix(_CHAIN)) from refused
    try:
        steps = plan(links, settings, again)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise SystemExit(ended.code.replace(_CHAIN, "lit-distill fit: ", 1)) from ended
        raise
    run(steps, launch=launch, verb="fit")
