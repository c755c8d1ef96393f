"""A network's last layer teaches its earlier ones.

Zhang, Song, Gao, Chen, Bao and Ma 2019, "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via
Self Distillation", section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.batch.labels import Task
from lit_distill.criteria.about import About
from lit_distill.criteria.base import Criterion, at_least_float32, check_class_task, expand_layers
from lit_distill.criteria.hard_target import label_loss
from lit_distill.criteria.hint import hint
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.projectors import Projector
from lit_distill.criteria.soft_target import soft_target, soft_target_bernoulli
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number, check_share, check_temperature, check_text, layer_tuple


def own_teacher(
    early: Tensor,
    deepest: Tensor,
    target: Tensor,
    alpha: float = 0.3,
    temperature: float = 3.0,
    task: Task = "multiclass",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """``(1 - α) CE(q_i, y) + α T² KL(q_C || q_i)`` of one early exit; the deepest exit is cut from its graph.

    Args:
        early: The exit's logits, ``[B, C]``; ``[B]`` or ``[B, 1]`` for a binary task.
        deepest: The network's own logits, the same shape.
        target: As in ``HardTarget``.
        alpha: The deepest exit's share, in [0, 1].
        temperature: Above 0, of both exits in the second term.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        sample_weight: How much each sample's labels count, ``[B]``; None where all count alike.
    """
    divergence = soft_target if task == "multiclass" else soft_target_bernoulli
    hard = label_loss(Outputs(early, sample_weight=sample_weight), early, target, task)
    return (1 - alpha) * hard + alpha * divergence(early, deepest.detach(), temperature)


class OwnTeacher(Criterion):
    """Early exits that learn from the labels and from the network's own last layer; the sum over exits, as in the paper.

    An exit is average pooling and a linear layer, sized from the data. Exits train and are saved with the criterion; they
    are no part of the student, which leaves training as it came. Beside ``HardTarget``, which trains the last layer; the
    module's teacher is None.

    The paper's exits have a bottleneck of convolutions before the pooling, and its feature term is the squared norm of
    the difference; here it is ``hint``'s mean over elements. The authors' code leaves T² out.

    Args:
        student_layer: Where the exits are: a layer reference, a glob or a list of them; the last layer is none of them.
        deepest_layer: The deepest feature, for the exits' features to match through a projector; none match where None.
        alpha: The last layer's share of an exit's loss, in [0, 1]; the labels have the rest. The paper's code has 0.3.
        temperature: Above 0; the paper's code has 3.
        feature_weight: λ, of the feature term beside an exit's loss, at least 0; 0.03 is the usual setting.
        task: ``multiclass``, ``binary`` or ``multilabel``.

    Raises:
        ValueError: An argument is out of range.
    """

    about = About(
        "BYOT",
        'Zhang et al. 2019, "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self '
        'Distillation", ICCV',
        weight=1.0,
    )
    needs_target = True
    needs_teacher = False

    def __init__(
        self,
        student_layer: str | list[str],
        deepest_layer: str | None = None,
        alpha: float = 0.3,
        temperature: float = 3.0,
        feature_weight: float = 0.03,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        check_class_task("OwnTeacher", task)
        self._exit_layers = layer_tuple(student_layer, "student_layer")
        if deepest_layer is not None:
            check_text("deepest_layer", deepest_layer, "a layer's name, such as 'layer4'")
        self.deepest_layer = deepest_layer
        self.alpha = check_number("alpha", alpha, least=0, most=1)
        self.temperature = check_temperature(temperature)
        self.feature_weight = check_share("feature_weight", feature_weight)
        self.task: Task = task
        self.exits = nn.ModuleList()
        self.projectors = nn.ModuleList()
        self.layers: list[str] = []

    @property
    def student_layers(self) -> tuple[str, ...]:
        return self._exit_layers if self.deepest_layer is None else (*self._exit_layers, self.deepest_layer)

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size an exit for each layer, and a projector where features are matched.

        Raises:
            ValueError: The logits are not of whole samples, or a feature cannot meet the deepest.
        """
        if student.logits.dim() > 2:
            raise ValueError(
                f"early exits classify whole samples, logits [B, C]; these are {list(student.logits.shape)}."
            )
        self.layers = expand_layers(self._exit_layers, student, "student")
        if self.exits:
            return
        outputs = student.logits[0].numel()
        widths = [pooled(student.features[name]).shape[-1] for name in self.layers]
        if self.deepest_layer is not None:  # first, as it may be refused
            deepest = self._deepest(student).shape
            self.projectors = nn.ModuleList(Projector(student.features[name].shape, deepest) for name in self.layers)
        self.exits = nn.ModuleList(nn.Linear(width, outputs) for width in widths)

    def _deepest(self, student: Outputs) -> Tensor:
        names = expand_layers([self.deepest_layer or ""], student, "student")
        if len(names) > 1 or names[0] in self.layers:
            raise ValueError(f"deepest_layer must name one layer that is no exit; {self.deepest_layer!r} is {names}.")
        return student.features[names[0]]

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        if target is None:
            raise ValueError("OwnTeacher needs labels, and the batch has none.")
        if not self.layers:
            self.build(student, teacher)
        deepest = at_least_float32(student.logits)
        terms = [
            own_teacher(
                self._exit(index, student),
                deepest,
                target,
                self.alpha,
                self.temperature,
                self.task,
                student.sample_weight,
            )
            for index in range(len(self.layers))
        ]
        if self.deepest_layer is not None:
            terms.append(self.feature_weight * self._match_features(student))
        return torch.stack(terms).sum()

    def _exit(self, index: int, student: Outputs) -> Tensor:
        """An exit's logits, in the shape of the student's."""
        feature = pooled(at_least_float32(student.features[self.layers[index]]), student.mask)
        linear = self.exits[index]
        assert isinstance(linear, nn.Linear)
        return at_least_float32(linear(feature.to(linear.weight.dtype))).reshape(student.logits.shape)

    def _match_features(self, student: Outputs) -> Tensor:
        """The sum over exits of how far their features are from the deepest, which is cut from its graph."""
        deepest = at_least_float32(self._deepest(student)).detach()
        features = [at_least_float32(student.features[name]) for name in self.layers]
        projected = [
            projector(feature, deepest.shape) for projector, feature in zip(self.projectors, features, strict=True)
        ]
        return torch.stack([hint(at_least_float32(feature), deepest) for feature in projected]).sum()
