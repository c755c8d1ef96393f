"""Trains layers only from a given epoch on."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lit_distill.engine.fit_length import fit_length
from lit_distill.utils.arguments import check_flag, check_number, check_whole, layer_tuple, wrong_type
from lit_distill.utils.names import match_layers
from lit_distill.utils.notices import warn

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of an optimizer's group; the last two are OneCycleLR's
_LISTS = ("base_lrs", "max_lrs", "min_lrs")  # of a scheduler, one entry per group


class Unfreeze(Callback):
    """Freezes layers until an epoch, and trains them from then on.

    New layers learn first; pretrained layers follow at a lower learning rate. They join the optimizer as a group of their own,
    with the settings of its first group, and schedulers keep the factor. Several ``Unfreeze``, in the order of their epochs,
    unfreeze a network gradually (Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3).

    Lightning's ``BaseFinetuning`` is not used: after a resume its layers stay frozen, it confuses two parameters of equal
    values, and ``LambdaLR`` and ``OneCycleLR`` fail at the group that it adds.

    Args:
        layers: Layers of the network, by paths or globs: ``stage1``, ``encoder.layer.*``.
        epoch: First epoch (counted from 0) that trains them, at least 1.
        lr_factor: Their learning rate as a multiple of the first group's, above 0.
        train_batch_norm: Train their BatchNorm from the start; if False, it keeps its statistics, in eval mode, until then.
        module: Path of the network in the LightningModule: ``student`` in every module of this library.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; in ``fit``: a layer is unknown, nothing else would be trained, there are
            several processes, or a later ``Unfreeze`` in the list has an earlier epoch.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> callback = Unfreeze(["stage1", "stage2"], epoch=5, lr_factor=0.1)
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        layers: list[str],
        epoch: int,
        lr_factor: float = 0.1,
        train_batch_norm: bool = False,
        module: str = "student",
    ) -> None:
        self.layers = list(layer_tuple(layers, "layers"))
        self.epoch = check_whole("epoch", epoch)
        if self.epoch < 1:
            raise ValueError(
                f"epoch must be at least 1, not {epoch}; a layer that trains from the start needs no Unfreeze."
            )
        self.lr_factor = check_number("lr_factor", lr_factor, above=0)
        self.train_batch_norm = check_flag("train_batch_norm", train_batch_norm)
        if not isinstance(module, str):  # "" is the LightningModule itself
            raise wrong_type("module", module, "give the network's name in the LightningModule, such as 'student'.")
        self.module = module
        self._joined = False
        self._parameters: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    @property
    def state_key(self) -> str:
        return self._generate_state_key(layers=self.layers, epoch=self.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"joined": self._joined}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._joined = state_dict["joined"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._check(trainer)
        self._joined = False
        self._freeze(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._joined:  # in the checkpoint that a run continues from; the optimizer's state is loaded after this
            self._join(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end = fit_length(trainer)
        if self.epoch >= end and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            warn(
                f"Unfreeze trains {', '.join(self.layers)} from epoch {self.epoch} on, and the fit ends at epoch {end:g}: they "
                "stay frozen."
            )
        if not self._joined:
            for norm in self._norms:
                norm.eval()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._joined and trainer.current_epoch >= self.epoch:
            self._joined = True
            self._join(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not self._joined:
            self._thaw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not self._joined:
            self._thaw()

    def _check(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            raise ValueError(
                "Unfreeze works in one process: DDP does not keep parameters equal that were frozen when it started."
            )
        epochs = [callback.epoch for callback in trainer.callbacks if isinstance(callback, Unfreeze)]  # type: ignore[attr-defined]
        if epochs != sorted(epochs):
            raise ValueError(f"list the Unfreeze callbacks in the order of their epochs; they have {epochs}.")

    def _freeze(self, pl_module: LightningModule) -> None:
        try:
            network = pl_module.get_submodule(self.module)
        except AttributeError as error:
            known = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"no network {self.module!r} in the {type(pl_module).__name__}; it has {known}."
            ) from error
        modules = dict(network.named_modules())
        owner = f"the {self.module or 'module'} {type(network).__name__}"
        names = [name for layer in self.layers for name in match_layers(layer, modules, owner)]
        inner = {id(module): module for name in names for module in modules[name].modules()}
        norms = [module for module in inner.values() if isinstance(module, _BatchNorm)]
        kept = {id(norm) for norm in norms} if self.train_batch_norm else set()
        own = [module.parameters(recurse=False) for key, module in inner.items() if key not in kept]
        self._norms = [] if self.train_batch_norm else [norm for norm in norms if norm.training]
        self._parameters = [p for parameters in own for p in parameters if p.requires_grad]
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise ValueError(
                f"Unfreeze freezes everything that would train ({', '.join(self.layers)}); leave some layers out."
            )

    def _join(self, trainer: Trainer) -> None:
        self._thaw()
        optimizer = trainer.optimizers[0]
        first = optimizer.param_groups[0]
        settings = {key: value for key, value in first.items() if key != "params"}
        settings |= {key: first[key] * self.lr_factor for key in _RATES if key in first}
        optimizer.add_param_group({**settings, "params": self._parameters})
        for config in trainer.lr_scheduler_configs:
            self._add_group(config.scheduler, optimizer)

    def _thaw(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        for norm in self._norms:
            norm.train()

    def _add_group(self, scheduler: Any, optimizer: Optimizer) -> None:
        """Add an entry to a scheduler for the new group of its optimizer."""
        for inner in getattr(scheduler, "_schedulers", ()):  # of one that chains others
            self._add_group(inner, optimizer)
        if getattr(scheduler, "optimizer", None) is not optimizer:
            return
        for name in _LISTS:
            values = getattr(scheduler, name, None)
            if values:
                values.append(values[0] * self.lr_factor)
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])
