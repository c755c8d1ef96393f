import math

import pytest
import torch
from torch import Tensor, nn

from lit_distill import Capture
from lit_distill.criteria import MiniLM
from lit_distill.outputs import Outputs
from tests.criteria.test_token_relation import draw, kl_by_hand


def by_hand(student: list[Tensor], teacher: list[Tensor], heads: int, mask: Tensor | None = None) -> float:
    """Section 3 of the paper in loops: sum over the three relations of the mean over heads and tokens."""
    total = 0.0
    for x_s, x_t in zip(student, teacher, strict=True):
        values = []
        for sample in range(len(x_s)):
            keep = [i for i in range(x_s.shape[1]) if mask is None or mask[sample, i]]
            for head in range(heads):
                rows = []
                for x in (x_s, x_t):
                    width = x.shape[-1] // heads
                    part = [x[sample, i, head * width : (head + 1) * width].tolist() for i in keep]
                    scale = math.sqrt(width)
                    rows.append([[sum(a * b for a, b in zip(p, q, strict=True)) / scale for q in part] for p in part])
                values.extend(kl_by_hand(s, t) for s, t in zip(*rows, strict=True))
        total += sum(values) / len(values)
    return total


def outputs(vectors: list[Tensor], mask: Tensor | None = None) -> Outputs:
    return Outputs(torch.zeros(1), dict(zip("qkv", vectors, strict=True)), mask)


def three(width: int, seed: int, batch: int = 3, tokens: int = 4) -> list[Tensor]:
    return [draw(batch, tokens, width, seed=seed + i) for i in range(3)]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_value_equals_a_hand_computation_at_other_widths(heads: int) -> None:
    student, teacher = three(4, 0), three(12, 10)
    found = MiniLM(["q", "k", "v"], ["q", "k", "v"], heads)(outputs(student), outputs(teacher), None)
    assert found.item() == pytest.approx(by_hand(student, teacher, heads), rel=1e-10)


def test_masked_tokens_are_neither_attended_to_nor_averaged() -> None:
    student, teacher = three(4, 0, tokens=5), three(6, 10, tokens=5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    criterion = MiniLM(["q", "k", "v"], ["q", "k", "v"], 2)
    student[0].requires_grad_()
    value = criterion(outputs(student, mask), outputs(teacher), None)
    value.backward()
    assert value.item() == pytest.approx(by_hand([x.detach() for x in student], teacher, 2, mask), rel=1e-10)
    assert student[0].grad is not None
    assert (student[0].grad[mask == 0] == 0).all()
    padded = [torch.where(mask.bool().unsqueeze(-1), x, 1e4) for x in teacher]
    torch.testing.assert_close(criterion(outputs(student, mask), outputs(padded), None), value)


def test_a_fused_layer_is_its_three_parts() -> None:
    student, teacher = three(4, 0), three(6, 10)
    fused_s, fused_t = torch.cat(student, -1), torch.cat(teacher, -1)
    expected = MiniLM(["q", "k", "v"], ["q", "k", "v"], 2)(outputs(student), outputs(teacher), None)
    one = Outputs(torch.zeros(1), {"qkv": fused_t})
    found = MiniLM(["q", "k", "v"], "qkv", 2)(outputs(student), one, None)
    torch.testing.assert_close(found, expected)
    found = MiniLM("qkv", "qkv", 2)(Outputs(torch.zeros(1), {"qkv": fused_s}), one, None)
    torch.testing.assert_close(found, expected)


def test_the_order_of_relation_heads_changes_nothing_for_the_student_alone_it_does() -> None:
    student, teacher = three(4, 0), three(4, 10)
    criterion = MiniLM(["q", "k", "v"], ["q", "k", "v"], 2)
    value = criterion(outputs(student), outputs(teacher), None)
    turned = [[x.roll(2, -1) for x in side] for side in (student, teacher)]
    torch.testing.assert_close(criterion(outputs(turned[0]), outputs(turned[1]), None), value)
    assert not torch.isclose(criterion(outputs(turned[0]), outputs(teacher), None), value)


def test_reads_bert_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")

    def bert(width: int, layers: int, heads: int) -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=8
        )
        model: nn.Module = transformers.BertForSequenceClassification(config).eval()
        return model

    torch.manual_seed(0)
    student, teacher = bert(8, 1, 2), bert(24, 2, 3)
    criterion = MiniLM("bert.encoder.layer.0.attention.self.[qkv]*", "bert.encoder.layer.1.attention.self.[qkv]*", 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    inputs = {"input_ids": torch.arange(8).reshape(2, 4), "attention_mask": mask}
    found_s = Capture(student, criterion.student_layers).run(inputs, mask)
    found_t = Capture(teacher, criterion.teacher_layers).run(inputs, mask).detach()
    names = [list(found.features) for found in (found_s, found_t)]
    assert [name.rpartition(".")[2] for name in names[0]] == ["query", "key", "value"]
    criterion.build(found_s, found_t)
    value = criterion(found_s, found_t, None)
    vectors = [[f.detach().double() for f in found.features.values()] for found in (found_s, found_t)]
    assert value.item() == pytest.approx(by_hand(*vectors, 4, mask), rel=1e-3)
    value.backward()
    assert student.bert.encoder.layer[0].attention.self.value.weight.grad.abs().sum() > 0


def test_reads_a_vision_transformer_of_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 3}
    student = timm.models.VisionTransformer(**sizes, embed_dim=12, depth=1, num_heads=2).eval()
    teacher = timm.models.VisionTransformer(**sizes, embed_dim=24, depth=2, num_heads=3).eval()
    criterion = MiniLM("blocks.0.attn.qkv", "blocks.1.attn.qkv", 6)
    images = draw(2, 3, 8, 8).float()
    found_s = Capture(student, criterion.student_layers).run(images)
    found_t = Capture(teacher, criterion.teacher_layers).run(images).detach()
    value = criterion(found_s, found_t, None)
    vectors = []
    for found in (found_s, found_t):
        qkv = next(iter(found.features.values())).detach().double()
        width = qkv.shape[-1] // 3
        vectors.append([qkv[..., i * width : (i + 1) * width] for i in range(3)])
    assert value.item() == pytest.approx(by_hand(*vectors, 6), rel=1e-3)
    value.backward()


@pytest.mark.parametrize(
    ("student", "teacher", "heads", "message"),
    [
        (
            {"q": (2, 4, 6)},
            {"q": (2, 4, 12)},
            3,
            "3 relation heads do not divide the student's width 2; choose a divisor of 2",
        ),
        ({"q": (2, 4, 7)}, {"q": (2, 4, 6)}, 1, "gives width 7, which is not three times a width"),
        ({"q": (2, 12)}, {"q": (2, 4, 12)}, 1, r"student's 'q' gives \[2, 12\], not tokens"),
        ({"q": (2, 4, 6)}, {"q": (2, 5, 6)}, 1, "the student has 4 tokens and the teacher 5"),
        ({"q": (2, 4, 6), "k": (2, 4, 6)}, {"q": (2, 4, 6)}, 1, r"must be three \(queries, keys, values\) or one"),
    ],
)
def test_layers_that_do_not_fit_are_refused_before_training(
    student: dict[str, tuple[int, ...]], teacher: dict[str, tuple[int, ...]], heads: int, message: str
) -> None:
    sides = [Outputs(torch.zeros(1), {n: draw(*shape) for n, shape in side.items()}) for side in (student, teacher)]
    with pytest.raises(ValueError, match=message):
        MiniLM(list(student), list(teacher), heads).build(*sides)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="relation_heads must be at least 1, not 0"):
        MiniLM("a", "a", 0)
    with pytest.raises(ValueError, match="student_layer names no layer"):
        MiniLM([], "a")
