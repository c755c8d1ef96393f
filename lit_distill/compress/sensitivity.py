"""``sensitivity``: what compressing each layer alone does to the student."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from lit_distill.batch.batch import BatchFormat, Inputs, given_format, move
from lit_distill.batch.labels import TASKS, Task
from lit_distill.batch.reading import BatchReader
from lit_distill.capture.capture import Capture
from lit_distill.compress.alone import Range, Way, input_ranges, pruned_alone, quantised
from lit_distill.compress.layers import chosen_layers
from lit_distill.compress.sensitivity_result import LayerSensitivity, Sensitivity
from lit_distill.engine.metrics import Evaluation, count_classes
from lit_distill.export.reading import Data, Part
from lit_distill.measures import one_sample
from lit_distill.models.pruned import layer_widths, torch_pruning
from lit_distill.utils.arguments import check_choice, check_network, check_number, check_whole
from lit_distill.utils.compiling import uncompiled
from lit_distill.utils.restoring import as_in_evaluation
from lit_distill.utils.tensors import first_parameter

WAYS: tuple[Way, ...] = get_args(Way)
_CALIBRATION = 256


def sensitivity(
    student: nn.Module,
    data: LightningDataModule | Iterable[Any],
    ways: Sequence[Way] = WAYS,
    ratio: float = 0.5,
    layers: Sequence[str] = (),
    samples: int = 1000,
    task: Task = "multiclass",
    batch_format: BatchFormat | None = None,
) -> Sensitivity:
    """Compress each convolution and linear layer alone, and compare with the float student on validation data.

    It shows which layers to keep (``prune``'s ``ignore``), and where int8 loses. The student stays as it is.

    Args:
        student: The network.
        data: A DataModule, whose validation data are compared on, or a validation loader.
        ways: ``int8``: weights and inputs of the layer, as an int8 file computes; ``int8_weights``: only the weights, with a
            scale for each output channel; ``prune``: the channels with the smallest weights go, and what depends on them.
        ratio: The share of a layer's channels that ``prune`` takes away, in (0, 1).
        layers: Paths or globs of the layers to look at; all if empty.
        samples: Compare on so many validation samples, spread over all.
        task: What the outputs are: ``multiclass``, ``binary``, ``multilabel``, ``regression`` or ``embedding``.
        batch_format: Names of the entries in batches and outputs.

    Returns:
        The figures; printed, they are a table.

    Raises:
        ValueError: An argument is wrong, there are no such layers, or no validation data.
        ImportError: ``prune`` needs torch-pruning; the message has the line that installs it.

    Example:
        >>> from lit_distill.models import SmallCNN
        >>> batches = [(torch.rand(8, 1, 8, 8), torch.arange(8)) for _ in range(2)]
        >>> found = sensitivity(SmallCNN(4), torch.utils.data.DataLoader(batches, batch_size=None), ["int8_weights"])
        >>> [row.layer for row in found.rows]
        ['stage1.0', 'stage2.0', 'stage3.0', 'classifier']
    """
    check_network("student", student)
    for way in ways:
        check_choice("ways", way, WAYS)
    check_choice("task", task, TASKS)
    if "prune" in ways:
        torch_pruning()
        check_number("ratio", ratio, above=0, below=1)
    network = uncompiled(student)
    chosen = chosen_layers(network, layers) if layers else None
    names = [name for name in layer_widths(network) if chosen is None or name in chosen]
    if not names:
        raise ValueError(f"the {type(network).__name__} has no convolution or linear layer to compress.")
    source = _source(network, data, task, batch_format)
    with torch.no_grad(), as_in_evaluation(network):
        judge = _Judge(network, source.validation(check_whole("samples", samples, least=1)), task, batch_format)
        training = source.training(_CALIBRATION) if isinstance(data, LightningDataModule) else judge.parts
        ranges = input_ranges(network, names, lambda: judge.run(training)) if "int8" in ways else {}
        rows, skipped = list[LayerSensitivity](), dict[str, str]()
        for name in names:
            layer = network.get_submodule(name)
            for way in ways:
                try:
                    with _compressed(network, name, way, ratio, ranges, judge) as one:
                        rows.append(judge.row(one, name, way, layer.weight.numel()))  # type: ignore[operator]
                except ValueError as error:
                    skipped[f"{name}: {way}"] = str(error)
    return Sensitivity(tuple(rows), judge.samples, judge.accuracy, skipped)


def _source(
    network: nn.Module, data: LightningDataModule | Iterable[Any], task: Task, batch_format: BatchFormat | None
) -> Data:
    reader = BatchReader(given_format(batch_format), network, None, numbers=task == "regression")
    if isinstance(data, LightningDataModule):
        return Data(reader, module=data)
    return Data(reader, validation=data)


@contextmanager
def _compressed(
    network: nn.Module, name: str, way: Way, ratio: float, ranges: Mapping[str, Range], judge: _Judge
) -> Iterator[nn.Module]:
    """Compress one layer in the block, and yield the network that has it."""
    if way == "prune":
        yield pruned_alone(network, name, judge.example(), ratio)
        return
    with quantised(network.get_submodule(name), ranges.get(name) if way == "int8" else None):
        yield network


class _Judge:
    """Compares networks with the float student on the same batches."""

    def __init__(self, network: nn.Module, parts: list[Part], task: Task, batch_format: BatchFormat | None) -> None:
        if not parts:
            raise ValueError("there are no validation data: give a DataModule that has some, or a loader.")
        self.parts, self._task, self._key = parts, task, given_format(batch_format).output_key
        self._device = first_parameter(network).device
        self._network = network
        self._float = list(self.outputs(network, parts))
        self.samples = sum(len(one) for one in self._float)
        found = self._compare(self._float)
        self.accuracy = found.get("accuracy/student")

    def outputs(self, network: nn.Module, parts: Sequence[Part]) -> Iterator[Tensor]:
        """Yield a network's logits for batches."""
        capture = Capture(network, (), self._key, "student")
        try:
            for part in parts:
                yield capture.predict(move(part.inputs, self._device)).logits
        finally:
            capture.remove()

    def run(self, parts: Sequence[Part]) -> None:
        """Run the float student."""
        for _ in self.outputs(self._network, parts):
            pass

    def example(self) -> Inputs:
        """Return the inputs of one sample."""
        return one_sample(self.parts[0].inputs, len(self._float[0]), self._device)

    def row(self, network: nn.Module, layer: str, way: Way, weights: int) -> LayerSensitivity:
        """Compare a network, of which a layer was compressed."""
        found = self._compare(self.outputs(network, self.parts))
        kl = found.get("kl_divergence", found["squared_difference"])
        return LayerSensitivity(layer, way, weights, kl, found.get("agreement"), found.get("accuracy/student"))

    def _compare(self, outputs: Iterable[Tensor]) -> dict[str, float]:
        evaluation: Evaluation | None = None
        differences = []
        for logits, expected, part in zip(outputs, self._float, self.parts, strict=True):
            evaluation = evaluation or Evaluation(self._task, count_classes(logits), logits.device)
            target = part.target if isinstance(part.target, Tensor) else None
            mask = part.mask if part.mask is not None and part.mask.shape == logits.shape[:-1] else None
            evaluation.update(logits, expected, move(target, self._device), move(mask, self._device))
            if evaluation.misfit is not None:
                raise ValueError(f"the validation data do not fit the task {self._task!r}: {evaluation.misfit}")
            differences.append((logits - expected).square().mean(tuple(range(1, logits.dim()))))
        assert evaluation is not None
        found = {name: float(value) for name, value in evaluation.compute().items()}
        return found | {"squared_difference": float(torch.cat(differences).mean())}
