"""``lit-distill layers``: the layers of student and teacher, with their shapes, parameters and stages."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_distill.batch.batch import Inputs, count_samples
from lit_distill.batch.examples import has_numbered_samples, numbered_samples
from lit_distill.capture.observing import observe
from lit_distill.capture.stages import stages_of
from lit_distill.cli.bare_names import full_path, imported
from lit_distill.cli.config_setup import ConfigSetup
from lit_distill.cli.fit import DistillationCLI
from lit_distill.cli.refusal import refuse
from lit_distill.cli.words import Parser
from lit_distill.utils.names import layer_path
from lit_distill.utils.tensors import count_parameters

_WIDTH = 100


@dataclass(frozen=True)
class Layer:
    """A layer that ran.

    Attributes:
        name: Its dotted path, as ``student_layer`` and ``teacher_layer`` take it.
        kind: Its class.
        shape: Of its output, without the batch; empty if that is no tensor.
        parameters: Their number, inner layers' included.
        stage: The number of the stage that it ends, from 1; 0 if it ends none.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    stage: int = 0


def main(arguments: Sequence[str]) -> None:
    """Print the layers of a config's networks, or of one model."""
    parser = Parser(
        "layers",
        "List the layers of the student and the teacher of a config, or of one model: the shape of each output without the "
        "batch, the parameters, and which layers end a stage: those that `auto` names.",
        "(--config FILE [--OPTION VALUE ...] | MODEL --input 1,3,32,32) [--depth N]",
    )
    parser.add_argument("-c", "--config", action="append", default=[], help="as for fit")
    parser.add_argument("--input", type=_sizes, help="sizes of a random input, instead of the config's data: 1,3,32,32")
    parser.add_argument("--depth", type=int, default=2, help="list layers of so many levels (default: 2)")
    model = next((word for word in arguments[:1] if not word.startswith("-")), None)
    options, further = parser.parse_some(arguments[bool(model) :])
    if bool(options.config) == bool(model) or (model and (further or not options.input)):
        parser.error("give --config FILE, or a model and its --input: lit-distill layers resnet20 --input 1,3,32,32")
    given = torch.randn(options.input) if options.input else None
    networks: dict[str, tuple[nn.Module, Any]]
    networks = {"model": (_made(model), given)} if model else _networks(ConfigSetup(options.config, further), given)
    shown = (as_table(owner, network, inputs, options.depth) for owner, (network, inputs) in networks.items())
    print("\n\n".join(shown))


def _sizes(text: str) -> list[int]:
    sizes = text.strip("[]()").replace(" ", "").split(",")
    if not all(size.isdecimal() for size in sizes):
        raise ArgumentTypeError(f"sizes are needed, such as 1,3,32,32, not {text!r}")
    return [int(size) for size in sizes]


def _made(name: str) -> nn.Module:
    """Return a model that needs no options."""
    try:
        network: nn.Module = imported(full_path(nn.Module, name))()
    except (ImportError, AttributeError, TypeError) as error:
        refuse(f"layers: {name}: {error}")
    return network


def _networks(setup: DistillationCLI, given: Tensor | None) -> dict[str, tuple[nn.Module, Any]]:
    """Return the networks of a config with an input of each: the one that is given, or two samples of the data."""
    model, data = setup.model, setup.datamodule
    teacher = model.teacher
    if given is not None:
        found: dict[str, tuple[nn.Module, Any]] = {"student": (model.student, given), "teacher": (teacher, given)}
    else:
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
        read = model.distiller.reader().read
        batch = read(numbered_samples(loader, whole=False) if has_numbered_samples(loader) else next(iter(loader)))
        found = {"student": (model.student, batch.inputs), "teacher": (teacher, batch.for_teacher)}
    return found if teacher is not None else {"student": found["student"]}


def layers_of(network: nn.Module, inputs: Inputs) -> list[Layer]:
    """Return the layers that run in a forward pass, in the order in which they end; the network is left as it was."""
    done = observe(network, inputs)
    ends = stages_of(done, count_samples(inputs)).ends
    numbers = {layer_path(end.layer): number for number, end in enumerate(ends, start=1)}
    found: dict[str, Layer] = {}
    for call in done.calls:
        shape = tuple(call.output.shape[1:]) if call.output is not None else ()
        kind, parameters = type(call.module).__name__, count_parameters(call.module)
        found.pop(call.path, None)  # of several calls, the last one counts
        found[call.path] = Layer(call.path, kind, shape, parameters, numbers.get(call.path, 0))
    return list(found.values())


def as_table(owner: str, network: nn.Module, inputs: Inputs, depth: int = 2) -> str:
    """Return layers down to a depth, and those that end a stage, as a table of at most 100 columns."""
    order = {name: place for place, (name, _) in enumerate(network.named_modules())}
    layers = sorted(layers_of(network, inputs), key=lambda layer: order[layer.name])
    shown = [layer for layer in layers if layer.name.count(".") < depth or layer.stage]
    rows = [("layer", "output", "parameters", "type", "")]
    for layer in shown:
        shape = ", ".join(map(str, layer.shape))
        rows.append(
            (layer.name, f"[{shape}]", f"{layer.parameters:,}", layer.kind, f"stage {layer.stage}" * bool(layer.stage))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    widths[3] = min(widths[3], 20)
    widths[0] = min(widths[0], _WIDTH - sum(widths[1:]) - len("stage 10") - 8)
    lines = [f"{owner}: {type(network).__name__}, {count_parameters(network):,} parameters"]
    for name, shape, parameters, kind, stage in rows:
        cells = [
            _cut(name, widths[0]),
            shape.ljust(widths[1]),
            parameters.rjust(widths[2]),
            _cut(kind, widths[3]),
            stage,
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return (text if len(text) <= width else f"…{text[1 - width :]}").ljust(width)
