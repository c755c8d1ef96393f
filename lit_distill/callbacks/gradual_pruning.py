"""Sets more and more of a student's weights to zero while it learns."""

from __future__ import annotations

import re
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import Optimizer

from lit_distill.utils.arguments import check_flag, check_number, check_text, check_whole, layer_tuple
from lit_distill.utils.names import layers_within
from lit_distill.utils.notices import warn
from lit_distill.utils.pruning_schedule import PruningSchedule, share_after

_KINDS = (nn.modules.conv._ConvNd, nn.Linear)
_PATTERN = re.compile(r"(\d+):(\d+)")


class GradualPruning(Callback):
    """Masks the smallest weights of a student's convolutions and linear layers, more at the start of each epoch.

    Masked weights are zero in every forward pass, get no gradient, and stay zero. Biases, BatchNorm, projectors and the teacher
    are left alone. Layers and parameters stay the same objects, so that the student is a plain module throughout, and its
    checkpoints load as usual. A fit goes on exactly, as checkpoints hold the masks.

    Masks make files smaller once they are compressed, and nothing faster, except ``2:4`` on GPUs that compute with it; to make
    a network faster, take whole channels out: ``lit_distill.compress.prune``.

    Args:
        amount: The share of each layer's weights that is zero in the end, in (0, 1); with ``pattern``, leave it out.
        pattern: ``n:m`` keeps the ``n`` largest of every ``m`` weights that are neighbours in the input channels: ``2:4``.
            Layers whose number of input channels is no multiple of ``m`` are left whole.
        start: The first epoch that prunes, from 0.
        end: The epoch at whose start all is pruned; two thirds of the fit if None. The rest of the fit is for recovery.
        schedule: ``cubic``, which takes most at first ([Zhu and Gupta 2017](https://arxiv.org/abs/1710.01878)), or ``linear``.
        global_pruning: Rank the weights of all layers together; ``amount`` is then the share of all of them.
        ignore: Layers to leave whole, by paths or globs: ``fc``, ``layer1.*``.
        module: Path of the network in the LightningModule: ``student`` in every module of this library.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range; in ``fit``: a layer is unknown, nothing can be pruned, or the fit is too short.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> callback = GradualPruning(amount=0.8, end=20, ignore=["classifier"])
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        amount: float | None = None,
        pattern: str | None = None,
        start: int = 0,
        end: int | None = None,
        schedule: PruningSchedule = "cubic",
        global_pruning: bool = False,
        ignore: list[str] | None = None,
        module: str = "student",
    ) -> None:
        if (amount is None) == (pattern is None):
            raise ValueError(
                "GradualPruning takes an amount, such as 0.8, or a pattern, such as '2:4': give one of the two."
            )
        self.group = _read_pattern(pattern) if pattern is not None else None
        kept, size = self.group or (0, 1)
        self.amount = 1 - kept / size if amount is None else check_number("amount", amount, above=0, below=1)
        self.start = check_whole("start", start, least=0)
        self.end = None if end is None else check_whole("end", end, least=self.start)
        share_after(self.amount, 0, 1, schedule)  # refuses another schedule
        self.schedule: PruningSchedule = schedule
        self.global_pruning = check_flag("global_pruning", global_pruning)
        if self.global_pruning and self.group is not None:
            raise ValueError(
                "global_pruning ranks the weights of all layers, and a pattern those of each group; choose one."
            )
        self.ignore = list(layer_tuple(ignore, "ignore")) if ignore else []
        self.module = check_text("module", module, "the network's name in the LightningModule, such as 'student'")
        self._last = self.start
        self._weights: dict[str, Tensor] = {}
        self._masks: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        return self._generate_state_key(module=self.module)

    @property
    def sparsity(self) -> float:
        """The share of the pruned layers' weights that is masked, from 0 to 1."""
        total = sum(mask.numel() for mask in self._masks.values())
        return sum(int((~mask).sum()) for mask in self._masks.values()) / max(total, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": {name: mask.cpu() for name, mask in self._masks.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._masks = dict(state_dict["masks"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._masks = {}  # of an earlier fit; a checkpoint's come after this
        self._last = self._last_epoch(trainer)
        self._weights = self._chosen(pl_module.get_submodule(self.module))

    def _last_epoch(self, trainer: Trainer) -> int:
        epochs = trainer.max_epochs
        if is_a_trial(trainer):
            return self.start if self.end is None else self.end
        if self.end is None and (epochs is None or epochs < 1):
            raise ValueError(
                "GradualPruning needs end, the epoch at whose start all is pruned, as the fit has no max_epochs."
            )
        last = self.end if self.end is not None else max(self.start, (epochs or 1) * 2 // 3 - 1)
        if epochs is not None and 0 < epochs <= last:
            raise ValueError(
                f"GradualPruning has pruned all at the start of epoch {last}, and the fit has {epochs} epochs."
            )
        return last

    def _chosen(self, network: nn.Module) -> dict[str, Tensor]:
        modules, owner = dict(network.named_modules()), f"the {self.module} {type(network).__name__}"
        ignored = layers_within(self.ignore, modules, owner)
        found: dict[str, Tensor] = {
            name: layer.weight for name, layer in modules.items() if isinstance(layer, _KINDS) and name not in ignored
        }
        size = self.group[1] if self.group is not None else 1
        odd = [name for name, weight in found.items() if weight.shape[1] % size]
        kept = {name: weight for name, weight in found.items() if name not in odd}
        if not kept:
            raise ValueError(
                f"GradualPruning finds no layer of {owner} to prune{f' by groups of {size}' if odd else ''}."
            )
        left = f"; whole, as their input channels are no multiple of {size}: {', '.join(odd)}" if odd else ""
        rank_zero_info(
            f"GradualPruning: {sum(weight.numel() for weight in kept.values()):,} weights in {len(kept)} layers of {owner}, "
            f"{self.amount:.0%} zero from epoch {self._last} on ({self.schedule}, from epoch {self.start}){left}."
        )
        return kept

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, weight in self._weights.items():
            mask = self._masks.get(name)
            self._masks[name] = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device)
        steps = self._last - self.start + 1
        done = min(max(trainer.current_epoch - self.start + 1, 0), steps)
        self._mask(share_after(self.amount, done, steps, self.schedule))
        self._apply()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for name, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self._masks[name])  # before it is clipped by its norm

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._apply()  # an optimizer with momentum moves weights without gradients as well

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("train/sparsity", self.sparsity)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch <= self._last and not is_a_trial(trainer):
            warn(
                f"the fit ended before GradualPruning did: {self.sparsity:.0%} of the weights are zero, and {self.amount:.0%} "
                f"would have been from epoch {self._last} on."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._weights = {}

    @torch.no_grad()
    def _apply(self) -> None:
        for name, weight in self._weights.items():
            weight.mul_(self._masks[name])

    @torch.no_grad()
    def _mask(self, share: float) -> None:
        """Let the masks grow to a share; what was masked stays so."""
        if self.group is not None:
            zeros = round(share * self.group[1])
            for name, weight in self._weights.items():
                self._masks[name] &= _largest_of_groups(weight, self._masks[name], self.group[1], zeros)
        elif self.global_pruning:
            flat = torch.cat([weight.abs()[self._masks[name]] for name, weight in self._weights.items()])
            total = sum(weight.numel() for weight in self._weights.values())
            kept = _without_smallest(flat, round(share * total) - (total - flat.numel()))
            counts = [int(self._masks[name].sum()) for name in self._weights]
            for name, part in zip(self._weights, torch.split(kept, counts), strict=True):
                self._masks[name].masked_scatter_(self._masks[name].clone(), part)
        else:
            for name, weight in self._weights.items():
                mask = self._masks[name]
                left = weight.abs()[mask]
                more = round(share * mask.numel()) - (mask.numel() - left.numel())
                mask.masked_scatter_(mask.clone(), _without_smallest(left, more))


def is_a_trial(trainer: Trainer) -> bool:
    """Return True for a few steps with ``fast_dev_run``, which end in the first epoch."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _without_smallest(left: Tensor, count: int) -> Tensor:
    """Return which of the weights that are left stay, when so many more go."""
    if count <= 0:
        return torch.ones_like(left, dtype=torch.bool)
    found: Tensor = prune.L1Unstructured(count).compute_mask(left, torch.ones_like(left))  # type: ignore[no-untyped-call]
    return found.bool()


def _largest_of_groups(weight: Tensor, mask: Tensor, size: int, zeros: int) -> Tensor:
    """Return True for all but the smallest ``zeros`` of each group of neighbours in the input channels, masked ones first."""
    scores = torch.where(mask, weight.abs(), -1.0).movedim(1, -1)
    groups = scores.reshape(-1, size)
    smallest = groups.argsort(dim=1, stable=True)[:, :zeros]
    found = torch.ones_like(groups, dtype=torch.bool).scatter_(1, smallest, False)
    return found.reshape(scores.shape).movedim(-1, 1)


def _read_pattern(pattern: str) -> tuple[int, int]:
    match = _PATTERN.fullmatch(check_text("pattern", pattern, "'2:4' keeps two of every four weights"))
    kept, size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < kept < size:
        raise ValueError(f"pattern must be n:m with 0 < n < m, such as '2:4', not {pattern!r}.")
    return kept, size
