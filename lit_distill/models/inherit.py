"""Students that start with some of their teacher's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_distill.utils.arguments import check_flag, check_named, check_network, check_text, check_whole
from lit_distill.utils.names import listed, unknown_layer

_SHOWN = 5
_Fits = Callable[[Tensor, Tensor], bool]  # of the student's tensor and the teacher's


def inherit(
    student: nn.Module,
    teacher: nn.Module,
    layers: dict[str, str] | None = None,
    every: int | None = None,
    blocks: str | None = None,
    inflate: bool = False,
) -> nn.Module:
    """Copy weights and buffers from a teacher's layers to a student's; nothing is shared.

    With ``blocks`` the student's i-th block gets those of the teacher's block ``i * every`` (Sanh et al. 2019,
    "DistilBERT", section 3: one layer out of two), and what lies outside the blocks gets whatever has the same name and
    shape in the teacher. ``layers`` is copied after that. What was copied and what was not is printed.

    With ``inflate``, the weights of a 2D convolution also fill a 3D one, repeated along the time and divided by its length
    (Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?", section 2.1): a video that stands still then has the
    activations of its image. Without ``layers`` and ``blocks``, all layers with weights pair in their order; the last one
    stays as it was if it has other classes.

    Args:
        student: The network to fill, returned.
        teacher: The network to copy from.
        layers: The teacher's layer by the student's (a path as in ``named_modules``, or a parameter's name).
        every: Number of the teacher's blocks per block of the student's, at least 1; if None, their numbers divided.
        blocks: Path of the sequence of equal blocks, in both: ``encoder.layer``, ``layer3``.
        inflate: Fill 3D convolutions with the weights of 2D ones.

    Raises:
        ValueError: There is nothing to do, no such layer, too few blocks, or two layers do not fit.

    Example:
        >>> student, teacher = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
        >>> bool((inherit(student, teacher, layers={"0": "0"})[0].weight == teacher[0].weight).all())
        True
    """
    check_network("student", student)
    check_network("teacher", teacher)
    _check_choice(layers, every, blocks, inflate)
    found = dict(teacher.state_dict())
    wanted = dict(student.state_dict())
    chosen: dict[str, str] = {}
    fits = _fits_inflated if inflate else _same_shape
    if blocks is not None:
        outside = [name for name in wanted if not _is_under(name, blocks) and name in found]
        chosen |= {name: name for name in outside if fits(wanted[name], found[name])}
        chosen |= _pair_blocks(student, teacher, blocks, every, fits)
    for ours, theirs in (layers or {}).items():
        chosen |= _pair_layers(student, teacher, ours, theirs, fits)
    if layers is None and blocks is None:
        chosen |= _pair_in_order(student, teacher, fits)
    with torch.no_grad():
        for ours, theirs in chosen.items():
            wanted[ours].copy_(_inflated(found[theirs], wanted[ours]))
    rest = [name for name in wanted if name not in chosen]
    left = f" As they were: {listed(rest, _SHOWN)}." if rest else ""
    rank_zero_info(f"inherit: {len(chosen)} of the student's {len(wanted)} tensors are the teacher's.{left}")
    return student


def _check_choice(layers: dict[str, str] | None, every: int | None, blocks: str | None, inflate: bool) -> None:
    check_flag("inflate", inflate)
    if layers is not None:
        check_named("layers", layers, "{'encoder.0': 'encoder.0'}")
    if blocks is not None:
        check_text("blocks", blocks, "the path of a sequence of blocks, such as 'encoder.layer'")
    if every is not None and (check_whole("every", every) < 1 or blocks is None):
        raise ValueError(
            f"every is {every}: it must be at least 1, and counts the blocks of `blocks`, which is {blocks!r}."
        )
    if layers is None and blocks is None and not inflate:
        raise ValueError("inherit has nothing to do: give layers (student: teacher) or blocks.")


def _pair_blocks(student: nn.Module, teacher: nn.Module, blocks: str, every: int | None, fits: _Fits) -> dict[str, str]:
    ours = [name for name, _ in _submodule(student, blocks, "student").named_children()]
    theirs = [name for name, _ in _submodule(teacher, blocks, "teacher").named_children()]
    step = int(every) if every is not None else max(1, len(theirs) // max(1, len(ours)))
    if not ours or (len(ours) - 1) * step >= len(theirs):
        raise ValueError(
            f"the student has {len(ours)} blocks at {blocks!r} and the teacher {len(theirs)}: every {step}. of them are "
            f"{-(-len(theirs) // step)}."
        )
    pairs: dict[str, str] = {}
    for index, name in enumerate(ours):
        pairs |= _pair_layers(student, teacher, f"{blocks}.{name}", f"{blocks}.{theirs[index * step]}", fits)
    return pairs


def _pair_in_order(student: nn.Module, teacher: nn.Module, fits: _Fits) -> dict[str, str]:
    """Pair all layers that hold weights themselves, one after the other."""
    ours, theirs = _with_weights(student), _with_weights(teacher)
    if len(ours) != len(theirs):
        raise ValueError(
            f"the student has {len(ours)} layers with weights and the teacher {len(theirs)}, so they do not pair in order: "
            "give layers (student: teacher)."
        )
    pairs: dict[str, str] = {}
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        try:
            pairs |= _pair_layers(student, teacher, ours_, theirs_, fits)
        except ValueError:
            if ours_ != ours[-1]:
                raise
    return pairs


def _with_weights(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]


def _pair_layers(student: nn.Module, teacher: nn.Module, ours: str, theirs: str, fits: _Fits) -> dict[str, str]:
    """Return the teacher's names by the student's for all that is in two layers.

    Raises:
        ValueError: One does not exist or has no weights, or the two differ.
    """
    wanted, found = _tensors_under(student, ours, "student"), _tensors_under(teacher, theirs, "teacher")
    problems = [f"{ours + name} has no counterpart" for name in wanted if name not in found]
    problems += [f"{theirs + name} has no counterpart" for name in found if name not in wanted]
    problems += [
        f"{ours + name} is {list(wanted[name].shape)} and {theirs + name} {list(found[name].shape)}"
        for name in wanted
        if name in found and not fits(wanted[name], found[name])
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else ""
        raise ValueError(
            f"the student's {ours!r} cannot start as the teacher's {theirs!r}: {'; '.join(problems[:_SHOWN])}{more}."
        )
    return {ours + name: theirs + name for name in wanted}


def _tensors_under(model: nn.Module, path: str, owner: str) -> Mapping[str, Tensor]:
    """Return a layer's tensors by the rest of their names; a parameter by its own name."""
    tensors = {name[len(path) :]: value for name, value in model.state_dict().items() if _is_under(name, path)}
    if not tensors:
        _submodule(model, path, owner)
        raise ValueError(f"the {owner}'s layer {path!r} has no weights to copy.")
    return tensors


def _submodule(model: nn.Module, path: str, owner: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name]
        raise ValueError(unknown_layer(path, known, f"the {owner} {type(model).__name__}")) from None


def _is_under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _same_shape(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape


def _fits_inflated(one: Tensor, other: Tensor) -> bool:
    """Return True for equal shapes, and for the weights of a 3D convolution and of a 2D one with the same height and width."""
    inflates = one.dim() == 5 and other.dim() == 4
    return (one.shape[:2] + one.shape[3:] if inflates else one.shape) == other.shape


def _inflated(found: Tensor, like: Tensor) -> Tensor:
    if found.dim() == like.dim():
        return found
    return found.unsqueeze(2).expand_as(like) / like.shape[2]
