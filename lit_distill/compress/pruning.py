"""``prune``: takes whole channels out of a student, as the next student to teach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lit_distill.batch.batch import BatchFormat, Inputs, given_format, tensors_of
from lit_distill.batch.labels import TASKS, Task
from lit_distill.batch.reading import BatchReader
from lit_distill.compress.importance import Importance, add_gradients, importance_named
from lit_distill.compress.layers import chosen_layers, output_layers, output_shapes
from lit_distill.export.reading import Data, Part
from lit_distill.measures import cost_of, one_sample
from lit_distill.models.pruned import (
    Step,
    call_traced,
    description_of,
    inputs_described,
    layer_widths,
    pruning_history,
    set_history,
    torch_pruning,
    traceable,
)
from lit_distill.utils.arguments import (
    check_choice,
    check_flag,
    check_network,
    check_number,
    check_sizes,
    check_whole,
    wrong_type,
)
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.copying import copied
from lit_distill.utils.names import first_line
from lit_distill.utils.pruning_schedule import PruningSchedule, share_after
from lit_distill.utils.tensors import first_parameter

_NO_EXAMPLE = "The network does not take the example: give inputs, or their shape, [batch, channels, height, width]."
_FIXED_WIDTH = "It computes with a fixed width; keep the layers before it as they are: ignore=[{ignore!r}]."


def prune(
    student: nn.Module,
    example: Any = None,
    ratio: float = 0.5,
    importance: Importance = "magnitude",
    global_pruning: bool = False,
    round_to: int = 1,
    ignore: list[str] | None = None,
    step: int = 1,
    steps: int = 1,
    schedule: PruningSchedule = "linear",
    data: LightningDataModule | Iterable[Any] | None = None,
    samples: int = 256,
    task: Task = "multiclass",
    batch_format: BatchFormat | None = None,
) -> nn.Module:
    """Return a copy of a network without its least important channels, which is to be trained on.

    torch-pruning finds the layers that share channels ([Fang et al. 2023](https://arxiv.org/abs/2301.12900)), so that the copy
    is an ordinary network of narrower layers: of the same class, with the same names of layers, and without anything of ours.
    The layers that make its outputs keep their width. Parameters and MACs before and after are printed.

    The checkpoint of a fit holds what was taken out as plain lists, and ``lit_distill.load`` prunes a whole network in the same
    way before it reads the weights.

    To prune in several steps with training between them, make each step a fit of its own, which starts from the last one's
    student: the optimizer then begins with the parameters that are left. ``ratio``, ``steps`` and ``schedule`` are the same in
    all of them.

    Args:
        student: The network to prune; it stays as it is, and can teach the copy.
        example: Inputs that the network is traced with, or the shape of one tensor, such as ``[1, 3, 32, 32]``; if None, the
            first sample of ``data``.
        ratio: The share of channels that is gone after the last step, in (0, 1).
        importance: Of a channel. ``magnitude``: the L2 norm of its weights; ``taylor``: the weights times their gradients
            of the loss on labels of ``data`` ([Molchanov et al. 2019](https://arxiv.org/abs/1906.10771)); ``bn_scale``:
            BatchNorm's scale ([Liu et al. 2017](https://arxiv.org/abs/1708.06519)); ``random``, to compare with.
        global_pruning: Rank the channels of all layers together; otherwise each layer loses the same share.
        round_to: Keep a multiple of so many channels, at least 1; 8 suits many processors.
        ignore: Layers whose outputs keep their width, by path or glob: ``layer1.*``. A name stands for all that is in it.
        step: Which step this is, from 1.
        steps: Number of steps that lead to ``ratio``, at least 1.
        schedule: The share that is gone after each step: ``linear``, or ``cubic``, which takes most away at first.
        data: A DataModule or a training loader; ``taylor`` needs its labels.
        samples: Of ``data`` that ``taylor`` sums over, at least 1.
        task: What the outputs are, for ``taylor``.
        batch_format: Names of the entries in batches and outputs.

    Raises:
        ValueError: An argument is out of range, no channel would go, or a layer cannot be traced or pruned; it is named.
        ImportError: torch-pruning is not installed; the message has the line that installs it.

    Example:
        >>> import torch
        >>> from lit_distill.models import SmallCNN
        >>> teacher = SmallCNN(16)
        >>> student = prune(teacher, [1, 1, 8, 8], ratio=0.5)
        >>> sum(p.numel() for p in teacher.parameters()), sum(p.numel() for p in student.parameters())
        (14458, 3778)
    """
    check_network("student", student)
    check_sizes("student", student)
    torch_pruning()
    options = {"ratio": ratio, "importance": importance, "step": step, "steps": steps, "schedule": schedule}
    share = _share(uncompiled(student), ratio, step, steps, schedule)
    _check_options(importance, global_pruning, round_to, ignore, samples, task)
    with isolate_rng():
        network = copied(uncompiled(student))
        parts = _parts(network, data, 1 if importance != "taylor" else samples, task, batch_format)
        inputs = _example(example, parts, network)
        shapes = output_shapes(network, inputs, _NO_EXAMPLE)
        before = cost_of(network, inputs)
        record: Step = {"example": description_of(inputs), "channels": layer_widths(network), **options}
        job = _Pruning(network, inputs, importance, global_pruning, round_to, ignore or [])
        with traceable(network):
            if importance == "taylor":
                add_gradients(network, parts, task, given_format(batch_format).output_key)
            record["removed"] = job.run(share, _shares(network, ratio, step, steps, schedule))
            job.check(shapes)
    set_history(network, [*pruning_history(network), record])
    after = cost_of(network, inputs)
    narrower = sum(width != record["channels"][name] for name, width in layer_widths(network).items())
    rank_zero_info(
        f"prune: step {step} of {steps}, {importance}; {narrower} of the {type(network).__name__}'s {len(record['channels'])} "
        f"layers are narrower. Parameters {before.parameters:,} → {after.parameters:,}, MACs {before.macs or 0:,} → "
        f"{after.macs or 0:,} for the example."
    )
    return network


class _Pruning:
    """One step of pruning of a network that is traceable."""

    def __init__(
        self,
        network: nn.Module,
        inputs: Inputs,
        importance: Importance,
        everywhere: bool,
        round_to: int,
        ignore: list[str],
    ) -> None:
        self._network, self._inputs, self._round_to = network, inputs, round_to
        self._importance, self._everywhere = importance_named(importance, network), everywhere
        self._ignore = chosen_layers(network, ignore)

    def run(self, share: float, shares: Mapping[str, float]) -> list[list[Any]]:
        """Take a share of what there is away, or that of the layer, and return what is gone as plain lists.

        Raises:
            ValueError: Nothing can be taken away, or torch-pruning does not know a layer.
        """
        outputs = output_layers(self._network, self._inputs)
        if not outputs:
            raise self._untraceable("no layer is found behind its outputs")
        kept = [*self._ignore.values(), *outputs.values()]
        pruner = self._pruner(share, {self._network.get_submodule(name): one for name, one in shares.items()}, kept)
        try:
            pruner.step()
        except Exception as error:  # of a layer that it does not know
            raise ValueError(
                f"torch-pruning cannot prune the {type(self._network).__name__}: {first_line(error)}."
            ) from error
        removed = [[name, bool(out), [int(one) for one in places]] for name, out, places in pruner.pruning_history()]
        if not removed:
            raise ValueError(
                f"nothing of the {type(self._network).__name__} was pruned: every layer is ignored, makes its outputs "
                f"({', '.join(outputs)}), or has no more than {self._round_to} channels."
            )
        return removed

    def check(self, expected: list[list[int]]) -> None:
        """Refuse a network that does not run any more, or whose outputs have other shapes.

        Raises:
            ValueError: It is one.
        """
        found = output_shapes(self._network, self._inputs, _FIXED_WIDTH)
        if found != expected:
            raise ValueError(
                f"the pruned {type(self._network).__name__} puts out {found}, and {expected} before; name the layers that make "
                "its outputs in ignore."
            )

    def _pruner(self, share: float, shares: dict[nn.Module, float], kept: list[nn.Module]) -> Any:
        try:
            return torch_pruning().pruner.BasePruner(
                self._network,
                self._inputs,
                self._importance,
                global_pruning=self._everywhere,
                pruning_ratio=share,
                pruning_ratio_dict={} if self._everywhere else shares,
                ignored_layers=kept,
                round_to=self._round_to if self._round_to > 1 else None,
                in_channel_groups={},  # the defaults are shared by all pruners, and keep their networks alive
                out_channel_groups={},
                num_heads={},
                forward_fn=call_traced,
                output_transform=tensors_of,
            )
        except Exception as error:  # tracing can fail in any way
            raise self._untraceable(first_line(error)) from error

    def _untraceable(self, reason: str) -> ValueError:
        return ValueError(
            f"torch-pruning cannot trace the {type(self._network).__name__}: {reason.rstrip('.')}. It follows gradients "
            "from the outputs to the layers: a network that was scripted, quantised or exported has none, and channels that "
            "are shuffled are not followed."
        )


def _share(student: nn.Module, ratio: float, step: int, steps: int, schedule: PruningSchedule) -> float:
    """Return the share of the present channels that a step takes away."""
    check_number("ratio", ratio, above=0, below=1)
    check_whole("steps", steps, least=1)
    if not 1 <= check_whole("step", step) <= steps:
        raise ValueError(f"step must be in [1, {steps}], as there are {steps} steps, not {step}.")
    last = pruning_history(student)[-1:]
    done = last[0]["step"] if last and last[0]["steps"] == steps and steps > 1 else 0
    if step > 1 and done != step - 1:
        raise ValueError(
            f"step {step} of {steps} continues from the student of step {step - 1}, and this one comes from "
            f"{'no step of these' if not done else f'step {done}'}: load the checkpoint of the fit before."
        )
    gone = share_after(ratio, step - 1, steps, schedule)
    return 1 - (1 - share_after(ratio, step, steps, schedule)) / (1 - gone)


def _shares(network: nn.Module, ratio: float, step: int, steps: int, schedule: PruningSchedule) -> dict[str, float]:
    """Return the share of each layer for a later step, so that what is left counts from the first step's widths."""
    if step == 1:
        return {}
    first = pruning_history(network)[-(step - 1)]["channels"]
    left = 1 - share_after(ratio, step, steps, schedule)
    # Half a channel more than the target: torch-pruning cuts the fraction off.
    return {
        name: max(0.0, 1 - (int(first[name] * left + 1e-9) + 0.5) / width)
        for name, width in layer_widths(network).items()
    }


def _check_options(
    importance: Importance, global_pruning: bool, round_to: int, ignore: list[str] | None, samples: int, task: Task
) -> None:
    check_choice("importance", importance, get_args(Importance))
    check_flag("global_pruning", global_pruning)
    check_whole("round_to", round_to, least=1)
    check_whole("samples", samples, least=1)
    check_choice("task", task, TASKS)
    if isinstance(ignore, str):
        raise wrong_type("ignore", ignore, f"give a list, [{ignore!r}].")


def _parts(
    network: nn.Module,
    data: LightningDataModule | Iterable[Any] | None,
    samples: int,
    task: Task,
    batch_format: BatchFormat | None,
) -> list[Part]:
    if data is None:
        return []
    reader = BatchReader(given_format(batch_format), network, None, numbers=task == "regression")
    module = data if isinstance(data, LightningDataModule) else None
    return Data(reader, None if module is not None else data, None, module).training(samples)  # type: ignore[arg-type]


def _example(example: Any, parts: list[Part], network: nn.Module) -> Inputs:
    """Return inputs on the network's device."""
    if example is None and not parts:
        raise ValueError("prune traces the network, and needs an example: its shape, example=[1, 3, 32, 32], or data=.")
    if example is None:
        device = first_parameter(network).device
        return one_sample(parts[0].inputs, len(tensors_of(parts[0].inputs)[0]), device)
    if isinstance(example, (list, tuple)) and all(isinstance(side, int) for side in example):
        made: Tensor = inputs_described({"shape": list(example), "type": "float32"}, network)
        return made
    return inputs_described(description_of(example), network)  # type: ignore[no-any-return]
