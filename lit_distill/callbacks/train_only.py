"""Trains a few layers, such as a new classifier, and leaves the rest of a network as it is."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lit_distill.utils.arguments import check_text, layer_tuple
from lit_distill.utils.names import match_layers


class TrainOnly(Callback):
    """Trains only the given layers of a network; all others keep their weights and statistics, in eval mode.

    After the fit every parameter is trainable again, as it was.

    Args:
        layers: Layers of the network, by paths or globs: ``fc``, ``classifier.3``.
        module: Path of the network in the LightningModule: ``student`` in every module of this library.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: In ``fit``: a layer is unknown, or has nothing to train.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[TrainOnly(["fc"])], logger=False, enable_checkpointing=False)
    """

    def __init__(self, layers: list[str], module: str = "student") -> None:
        self.layers = list(layer_tuple(layers, "layers"))
        self.module = check_text("module", module, "the network's name in the LightningModule, such as 'student'")
        self._frozen: list[nn.Parameter] = []
        self._resting: list[nn.Module] = []

    @property
    def state_key(self) -> str:
        return self._generate_state_key(layers=self.layers, module=self.module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        network = pl_module.get_submodule(self.module)
        modules = dict(network.named_modules())
        owner = f"the {self.module} {type(network).__name__}"
        names = [name for layer in self.layers for name in match_layers(layer, modules, owner)]
        trained = {id(inner) for name in names for inner in modules[name].modules()}
        kept = {id(parameter) for name in names for parameter in modules[name].parameters()}
        if not kept:
            raise ValueError(f"TrainOnly: {', '.join(names)} of {owner} has nothing to train.")
        self._resting = [module for module in modules.values() if id(module) not in trained]
        self._frozen = [one for one in network.parameters() if one.requires_grad and id(one) not in kept]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for (
            module
        ) in self._resting:  # whoever has turned them to training: Lightning, at the start and after a validation
            module.training = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._thaw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._thaw()

    def _thaw(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
