"""BYOT: be your own teacher, a network's last layer teaches its earlier ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_distill.batch.labels import Task
from lit_distill.criteria.base import (
    Citation,
    Criterion,
    at_least_float32,
    check_class_task,
    in_own_type,
)
from lit_distill.criteria.hard_target import label_loss
from lit_distill.criteria.hint import hint
from lit_distill.criteria.layers import AUTO, checked_layers, expand_layers
from lit_distill.criteria.ops.features import pooled
from lit_distill.criteria.ops.labelled import need_labels
from lit_distill.criteria.projectors import Projector
from lit_distill.criteria.soft_target import soft_target, soft_target_bernoulli
from lit_distill.outputs import Outputs
from lit_distill.utils.arguments import check_number, check_share, check_temperature, check_text


def own_teacher(
    early: Tensor,
    deepest: Tensor,
    target: Tensor,
    alpha: float = 0.3,
    temperature: float = 3.0,
    task: Task = "multiclass",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Return the loss of one early exit ([Zhang et al. 2019](https://arxiv.org/abs/1905.08094), section 3).

    $$ (1 - \alpha)\,\mathrm{CE}(q_i, y) + \alpha T^2\,\mathrm{KL}(q_C \| q_i) $$

    Args:
        early: The exit's logits, ``[B, C]``; ``[B]`` or ``[B, 1]`` for a binary task.
        deepest: The network's own logits, which give $q_C$: the same shape; detached here.
        target: Class indices ``[B]`` or probabilities ``[B, C]``; 0, 1 or probabilities for ``binary`` and ``multilabel``.
        alpha: The deepest exit's share, in [0, 1].
        temperature: The softmax temperature of both exits in the second term, above 0.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        sample_weight: How much each sample's labels count, ``[B]``; None if all count alike.

    Examples:
        >>> own_teacher(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
        tensor(1.2555)
    """
    divergence = soft_target if task == "multiclass" else soft_target_bernoulli
    hard = label_loss(Outputs(early, sample_weight=sample_weight), early, target, task)
    return (1 - alpha) * hard + alpha * divergence(early, deepest.detach(), temperature)


class OwnTeacher(Criterion):
    r"""Early exits that learn from the labels and from the network's own last layer; the sum over exits.

    $$ \sum_i (1 - \alpha)\,\mathrm{CE}(q_i, y) + \alpha T^2\,\mathrm{KL}(q_C \| q_i)
    + \lambda\,\mathrm{mean}\,(P(f_i) - f_C)^2 $$
    ([Zhang et al. 2019](https://arxiv.org/abs/1905.08094)), see ``own_teacher``.

    An exit is average pooling and a linear layer, sized from the data. Exits are trained and saved with the criterion,
    outside the student. Use it next to ``HardTarget``, which trains the last layer; the module's teacher is None. The
    paper's exits have a bottleneck of convolutions before the pooling, and its feature term is the squared norm of the
    difference; here it is ``hint``'s mean over elements. The authors' code leaves T² out.

    Args:
        student_layer: The positions of the exits: a layer reference, a glob or a list of them, without the last layer; or
            ``auto``, the ends of all stages but the last.
        deepest_layer: The deepest feature, which the exits' features match through projectors; if None, they do not.
        alpha: The last layer's share of an exit's loss, in [0, 1]; the labels have the rest. The paper's code has 0.3.
        temperature: The softmax temperature, above 0; the paper's code has 3.
        feature_weight: λ, the weight of the feature term, at least 0; 0.03 is the usual setting.
        task: ``multiclass``, ``binary`` or ``multilabel``.

    Raises:
        ValueError: An argument is out of range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> student = Outputs(torch.tensor([[3.0, 1.0, 0.0]]), {"layer1": torch.zeros(1, 4)})
        >>> round(OwnTeacher("layer1")(student, Outputs.nothing(), torch.tensor([0])).item(), 1)
        1.2
    """

    citation = Citation(
        "BYOT",
        'Zhang et al. 2019, "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self '
        'Distillation", ICCV',
        weight=1.0,
        url="https://arxiv.org/abs/1905.08094",
    )
    needs_target = True
    needs_teacher = False
    auto_stages = "exits"

    def __init__(
        self,
        student_layer: str | list[str] = AUTO,
        deepest_layer: str | None = None,
        alpha: float = 0.3,
        temperature: float = 3.0,
        feature_weight: float = 0.03,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        check_class_task("OwnTeacher", task)
        self._exit_layers = checked_layers(student_layer, "student_layer")
        if deepest_layer is not None:
            check_text("deepest_layer", deepest_layer, "a layer's name, such as 'layer4'")
        if deepest_layer == AUTO:
            raise ValueError("deepest_layer is 'auto', and only the exits are found: name a layer, or leave it out.")
        self.deepest_layer = deepest_layer
        self.alpha = check_number("alpha", alpha, least=0, most=1)
        self.temperature: float = check_temperature(temperature)
        self.feature_weight = check_share("feature_weight", feature_weight)
        self.task: Task = task
        self.exits = nn.ModuleList()
        self.projectors = nn.ModuleList()
        self.layers: list[str] = []

    @property
    def student_layers(self) -> tuple[str, ...]:
        exits = self._exit_references
        return exits if self.deepest_layer is None else (*exits, self.deepest_layer)

    @property
    def _exit_references(self) -> tuple[str, ...]:
        return self._exit_layers if self.found_layers is None else self.found_layers[0]

    def build(self, student: Outputs, teacher: Outputs) -> None:
        """Size an exit per layer, and a projector if features are matched; refuse logits that are not of whole samples."""
        if student.logits.dim() > 2:
            raise ValueError(
                f"early exits classify whole samples, logits [B, C]; these are {list(student.logits.shape)}."
            )
        self.layers = expand_layers(self._exit_references, student, "student")
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
            raise ValueError(
                f"deepest_layer must name one layer that is not an exit; {self.deepest_layer!r} is {names}."
            )
        return student.features[names[0]]

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        labels = need_labels(target, "OwnTeacher")
        if not self.layers:
            self.build(student, teacher)
        deepest = at_least_float32(student.logits)
        settings = (self.alpha, self.temperature, self.task, student.sample_weight)
        exits = [self._exit(index, student) for index in range(len(self.layers))]
        terms = [own_teacher(logits, deepest, labels, *settings) for logits in exits]
        if self.deepest_layer is not None:
            terms.append(self.feature_weight * self._match_features(student))
        return torch.stack(terms).sum()

    def _exit(self, index: int, student: Outputs) -> Tensor:
        """Return an exit's logits, in the shape of the student's."""
        feature = pooled(at_least_float32(student.features[self.layers[index]]), student.mask)
        return in_own_type(self.exits[index], feature).reshape(student.logits.shape)

    def _match_features(self, student: Outputs) -> Tensor:
        """Return the distance of the exits' features from the deepest, which is detached; the sum over exits."""
        deepest = at_least_float32(self._deepest(student)).detach()
        features = [at_least_float32(student.features[name]) for name in self.layers]
        pairs = zip(self.projectors, features, strict=True)
        return torch.stack([hint(in_own_type(head, feature, deepest.shape), deepest) for head, feature in pairs]).sum()
