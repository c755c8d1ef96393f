"""SDD: scale decoupled distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_distill.batch.batch import IGNORED_LABEL, Inputs
from lit_distill.batch.labels import class_indices, need_classes
from lit_distill.capture.capture import Capture
from lit_distill.capture.pooled_maps import pooled_map
from lit_distill.criteria.base import Citation, FeatureCriterion
from lit_distill.criteria.layers import AUTO
from lit_distill.criteria.ops.divergence import softmax_kl
from lit_distill.criteria.ops.features import need_maps
from lit_distill.criteria.ops.labelled import need_labels
from lit_distill.criteria.ops.rows import check_same_classes
from lit_distill.criteria.ops.standardization import standardize as standardized
from lit_distill.outputs import Outputs, read_logits
from lit_distill.utils.arguments import (
    check_flag,
    check_network,
    check_number,
    check_numbers,
    check_temperature,
    check_whole,
)
from lit_distill.utils.copying import copied
from lit_distill.utils.names import hook_key


def sdd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    complementary: float = 2.0,
    standardize: bool = False,
) -> Tensor:
    r"""Return the scale decoupled loss of image regions ([Wei et al. 2024](https://arxiv.org/abs/2403.13512), section 3).

    $$ T^2\,\mathrm{mean}_{n,r}\; w_{nr}\,\mathrm{KL}(p^t_{nr} \| p^s_{nr}) $$

    The weight $w$ is ``complementary`` if the teacher's class for the region is right and that for the whole image is wrong,
    or the other way round, and 1 otherwise. The mean is over samples and regions, as in the authors' code for KD.

    Args:
        student: Logits of every region ``[B, R, C]``, in float32 or wider; the first region is the whole image.
        teacher: The same.
        target: Class indices ``[B]``; every weight is 1 for a label of -100.
        temperature: ``T`` above 0.
        complementary: The weight of regions that disagree with the whole.
        standardize: Whether to standardize each region's logits of both first.

    Raises:
        ValueError: The shapes differ, or there is only one class.

    Examples:
        >>> student, teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[3.0, 0.0], [0.0, 3.0]]])
        >>> sdd(student, teacher, torch.tensor([0]))
        tensor(0.6878)
    """
    need_classes(student)
    check_same_classes(student, teacher)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    losses = softmax_kl(student / temperature, teacher / temperature)
    right = teacher.argmax(-1) == target.unsqueeze(1)
    differs = (right != right[:, :1]) & (target != IGNORED_LABEL).unsqueeze(1)
    return temperature**2 * torch.where(differs, complementary * losses, losses).mean()


class RegionLogits(nn.Module):
    """Wraps a network to also classify the regions of its last map; the layer ``regions`` holds their logits.

    The map is average-pooled to 1x1, 2x2 and 4x4 (``scales``), and the network's own classifier runs on each position:
    ``[B, 21, C]``. The network's output and its training do not change; it is ``model``, and its layers are called ``model.…``.

    Args:
        model: The network, whose classifier takes the pooled map.
        layer: The last map, a layer reference; or ``auto``, found in the first forward pass as the last map whose mean the
            classifier takes.
        classifier: The path of the classifier, or of its last layer, in the network; or ``auto``, the last linear layer.
        scales: Number of rows of regions at each scale; 1, the whole image, comes first.

    Raises:
        ValueError: There is no such classifier, or the scales do not begin with 1; in the first forward pass, no map is found.

    Examples:
        >>> from lit_distill.models import resnet20
        >>> model = RegionLogits(resnet20())
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, model: nn.Module, layer: str = AUTO, classifier: str = AUTO, scales: tuple[int, ...] = (1, 2, 4)
    ) -> None:
        super().__init__()
        check_network("model", model)
        sizes = tuple(check_whole("scales", scale) for scale in check_numbers("scales", scales))
        if not sizes or sizes[0] != 1 or min(sizes) < 1:
            raise ValueError(f"scales must begin with 1, the whole image, not be {sizes}.")
        if classifier != AUTO and classifier not in dict(model.named_modules()):
            raise ValueError(f"no layer {classifier!r} in {type(model).__name__}; name its classifier.")
        self.model = model
        self.scales = sizes
        self.regions = nn.Identity()
        self._classifier, self._layer = classifier, layer
        self._capture = Capture(model)
        if layer != AUTO:
            self._read(layer)

    def _read(self, layer: str) -> None:
        self._capture.set_layers([layer])
        self._capture.store.clone.add(hook_key(layer))  # a later in-place operation may overwrite it
        self._layer = self._capture.layers[0]

    def _find(self, inputs: Inputs) -> None:
        """Find the layers that are to be found, in a forward pass of its own."""
        layer, classifier = pooled_map(copied(self.model), inputs)  # a copy, as hooks on this one read its calls
        if self._classifier == AUTO:
            self._classifier = classifier
        if self._layer == AUTO:
            self._read(layer)
        rank_zero_info(
            f"Regions of {type(self.model).__name__}: the map {self._layer}, the classifier {self._classifier}."
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the network's own logits, ``[B, C]``."""
        if AUTO in (self._layer, self._classifier):
            self._find(inputs)
        outputs = self._capture.run(inputs)
        feature = outputs.features[self._layer]
        need_maps("RegionLogits", feature)
        pooled = torch.cat([F.adaptive_avg_pool2d(feature, scale).flatten(2) for scale in self.scales], dim=2)
        self.regions(self.model.get_submodule(self._classifier)(pooled.transpose(1, 2)))
        return read_logits(outputs.logits)


class SDD(FeatureCriterion):
    r"""Soft targets of the whole image and of its regions, those that disagree weighted more; the mean over pairs.

    $$ T^2\,\mathrm{mean}_r\; w_r\,\mathrm{KL}(p^t_r \| p^s_r) $$ ([Wei et al. 2024](https://arxiv.org/abs/2403.13512)), see
    ``sdd``.

    The logits of regions need both networks' classifiers on their own maps, so wrap both in ``RegionLogits``; the criterion
    reads its layer ``regions``. This is the paper's SD-KD, soft targets in each region. The labels' weight is 0.1. The
    authors' code turns a value that is not finite into 0; here every value is finite.

    Args:
        student_layer: The regions' logits ``[B, R, C]``, the whole image first; or ``auto``, those of ``RegionLogits``.
        teacher_layer: The teacher's.
        temperature: The softmax temperature, above 0; 4 in the paper.
        complementary: Weight of regions that disagree with the whole, at least 0; 2 in the paper.
        standardize: Whether to standardize each region's logits of both networks first (Sun et al. 2024).

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> student = Outputs(torch.zeros(1, 2), {"regions": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])})
        >>> teacher = Outputs(torch.zeros(1, 2), {"regions": torch.tensor([[[3.0, 0.0], [0.0, 3.0]]])})
        >>> SDD()(student, teacher, torch.tensor([0]))
        tensor(0.6878)
    """

    citation = Citation(
        "SDD",
        'Wei et al. 2024, "Scale Decoupled Distillation", CVPR',
        weight=0.9,
        url="https://arxiv.org/abs/2403.13512",
    )
    needs_target = True
    auto_stages = "regions"

    def __init__(
        self,
        student_layer: str = AUTO,
        teacher_layer: str = AUTO,
        temperature: float = 4.0,
        complementary: float = 2.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(student_layer, teacher_layer)
        self.temperature: float = check_temperature(temperature)
        self.complementary = check_number("complementary", complementary, least=0)
        self.standardize = check_flag("standardize", standardize)

    def pair(self, student: Outputs, teacher: Outputs) -> list[tuple[str, str]]:
        """Return the pairs of layers; ``regions`` of both networks if none are named or found."""
        return [("regions", "regions")] if self.needs_layers else super().pair(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        target = need_labels(target, "SDD")
        values = []
        for regions_s, regions_t in self.pair_features(student, teacher):
            check_same_classes(regions_s, regions_t)
            if regions_s.dim() != 3 or target.shape[:1] != regions_s.shape[:1]:
                raise ValueError(
                    f"SDD reads regions' logits [B, R, C] and labels [B], and they are {list(regions_s.shape)} and "
                    f"{list(target.shape)}; wrap both networks in RegionLogits."
                )
            labels = class_indices(target, regions_s[:, 0])
            values.append(sdd(regions_s, regions_t, labels, self.temperature, self.complementary, self.standardize))
        return torch.stack(values).mean()
