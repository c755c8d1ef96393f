"""``quantise``: a trained student becomes one that trains on as int8 will compute it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, fx, nn
from torch.export import Dim, ShapesCollection

from lit_distill.batch.batch import Inputs, positions_and_names, tensors_of
from lit_distill.capture.formats import format_of, map_tensors
from lit_distill.export.quiet import quiet_tools
from lit_distill.models.fake_quantise import FakeQuantise
from lit_distill.models.graph_mode import norms_of, restore_norms
from lit_distill.models.quantisation_aware import QuantisationAware, quantisers, without_rounding
from lit_distill.utils.arguments import check_choice, check_network, check_whole
from lit_distill.utils.copying import copied
from lit_distill.utils.names import count, first_line

QuantisedFor = Literal["onnx", "executorch"]
_PACKAGES = {"onnx": ("torchao",), "executorch": ("torchao", "executorch")}
_EXTRAS = {"onnx": "qat", "executorch": "executorch"}
_NEAR = 1e-3  # of the largest output


def quantise(
    student: nn.Module,
    example: Any,
    target: QuantisedFor = "onnx",
) -> nn.Module:
    """Make a trained student ready for quantisation-aware training.

    The student returned rounds its weights and activations to int8 in each forward pass, so that training finds weights which
    int8 serves well (Jacob et al. 2018). Train it on with criteria on logits, a small learning rate and a few epochs;
    ``lit-distill export --precision int8`` then writes its file. PyTorch's export and torchao find what is rounded.

    Args:
        student: The trained network, in floating point; it does not change.
        example: Inputs that the student is traced with, or the shape of one tensor, such as ``[1, 3, 32, 32]``.
        target: What it is trained for: ``onnx`` or ``executorch``.

    Raises:
        ImportError: A package is missing; the message has the line that installs it.
        ValueError: The student cannot be traced, has nothing to round, or computes something in training that only a Python
            module can switch off, such as stochastic depth.

    Example:
        >>> float_student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> quantise(float_student, example=[1, 1, 2, 2])(torch.zeros(5, 1, 2, 2)).shape  # doctest: +SKIP
        torch.Size([5, 3])
    """
    check_network("student", student)
    check_choice("target", target, tuple(_PACKAGES))
    _refuse_missing(target)
    if isinstance(student, QuantisationAware) or format_of(student) is not None:
        raise ValueError(
            "quantise takes a Python network, and the student is a graph already; give the network that it was made from."
        )
    network = copied(student)
    given = _two_samples(example)
    graph = _with_quantisers(network, given, target)
    found = QuantisationAware(network, graph, target)
    _refuse_other_values(found, network, given)
    layers = sum(one.axis is not None for one in quantisers(found))
    if not layers:
        raise ValueError(f"the student {type(student).__name__} has no convolution or linear layer to run in int8.")
    activations = count(len(quantisers(found)) - layers, "activation")
    rank_zero_info(f"quantise: {count(layers, 'layer')} and {activations} are rounded to int8, as {target} runs them.")
    return found.train(student.training)


def _refuse_missing(target: str) -> None:
    missing = [name for name in _PACKAGES[target] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"quantisation-aware training for {target!r} needs {', '.join(missing)}: pip install "
            f"'lit-distill[{_EXTRAS[target]}]'"
        )


def _two_samples(example: Any) -> Inputs:
    """Return a batch of two samples, as torch.export takes a batch of one to be fixed."""
    if isinstance(example, Sequence) and not isinstance(example, str) and all(isinstance(one, int) for one in example):
        sizes = [check_whole("example", size, least=1) for size in example]
        return torch.randn(2, *sizes[1:], generator=torch.Generator().manual_seed(0))
    if not tensors_of(example):
        raise ValueError(
            f"quantise traces the student, and needs an example of its inputs: a batch, or its shape, example=[1, 3, 32, 32], "
            f"not {example!r}."
        )
    size = max(len(one) if one.dim() else 0 for one in tensors_of(example))

    def first_two(one: Tensor) -> Tensor:
        repeated = one if len(one) > 1 or not one.dim() else torch.cat([one, one])
        return repeated[:2].detach().cpu()

    found: Inputs = map_tensors(lambda one: first_two(one) if one.dim() and len(one) == size else one, example)
    return found


def _with_quantisers(network: nn.Module, given: Inputs, target: str) -> fx.GraphModule:
    """Return a network's graph in training mode, with its weights and activations rounded where the target rounds them."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    graph = _traced(network.train(), given)
    norms = norms_of(graph)
    with quiet_tools():
        prepared: fx.GraphModule = prepare_qat_pt2e(graph, _quantiser(target))
    vars(prepared).pop("train", None)  # which refuse to be called; the graph's mode is set by QuantisationAware
    vars(prepared).pop("eval", None)
    restore_norms(prepared, norms)
    _replace_quantisers(prepared)
    return prepared


def _traced(network: nn.Module, given: Inputs) -> fx.GraphModule:
    positional, named = positions_and_names(given)
    batch = Dim("batch", min=2)
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for one in tensors_of((positional, dict(named))):
        if one.dim() and len(one) == 2:
            shapes[one] = {0: batch}
    try:
        program = torch.export.export(network, tuple(positional), dict(named), dynamic_shapes=shapes)
        return program.module(check_guards=False)
    except Exception as error:
        raise ValueError(
            f"the student {type(network).__name__} cannot be traced for quantisation-aware training: {first_line(error)} "
            "Its forward may not choose by values, and must take batches of any size; `lit-distill export` names the module."
        ) from error


def _quantiser(target: str) -> Any:
    """Return what tells torchao where a runtime rounds, and how."""
    if target == "executorch":
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )

        return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_qat=True))
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config(is_qat=True))


def _replace_quantisers(graph: fx.GraphModule) -> None:
    """Put our modules in the place of torchao's, whose state holds integers that averages spoil, and moves in evaluation."""
    from torchao.quantization.pt2e import FakeQuantize

    made: dict[nn.Module, FakeQuantise] = {}
    for path, one in list(graph.named_modules(remove_duplicate=False)):
        if isinstance(one, FakeQuantize):
            observer = one.activation_post_process
            symmetric = observer.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)
            axis = one.ch_axis if one.is_per_channel else None
            found = made.setdefault(one, FakeQuantise(observer.quant_min, observer.quant_max, symmetric, axis))
            graph.set_submodule(path, found)


def _refuse_other_values(found: QuantisationAware, network: nn.Module, given: Inputs) -> None:
    """Refuse a graph that computes something else in evaluation than its network, which was traced in training mode."""
    positional, named = positions_and_names(given)
    with torch.no_grad():
        expected = tensors_of(network.eval()(*positional, **named))
        got = tensors_of(without_rounding(found.eval(), *positional, **named))
    near = len(expected) == len(got) and all(
        one.shape == other.shape and _distance(one, other) <= _NEAR for one, other in zip(expected, got, strict=True)
    )
    if not near:
        raise ValueError(
            f"the student {type(network).__name__} computes something in training mode that eval() cannot switch off: "
            "stochastic depth, an auxiliary head or `if self.training`. Build it without, such as with drop_path_rate=0."
        )


def _distance(one: Tensor, other: Tensor) -> float:
    if not one.numel():
        return 0.0
    return float((one - other).abs().max()) / max(1e-12, float(one.abs().max()))
