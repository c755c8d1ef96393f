import copy
import io

import pytest
import torch
from torch import Tensor, nn

from lit_distill.criteria.projectors import OrthogonalMap, Projector, ProjectorEnsemble
from lit_distill.utils.grids import feature_kind, map_to_tokens, resize_map, split_grid, tokens_to_map

PAIRS = {
    "map, equal size, more channels": ((4, 3, 4, 4), (4, 6, 4, 4)),
    "map, fewer channels": ((4, 6, 4, 4), (4, 3, 4, 4)),
    "map, smaller": ((4, 3, 8, 8), (4, 6, 4, 4)),
    "map, larger": ((4, 3, 4, 4), (4, 6, 8, 8)),
    "map, uneven": ((4, 3, 7, 5), (4, 6, 3, 2)),
    "map, taller and narrower": ((4, 3, 4, 8), (4, 6, 8, 4)),
    "vector, wider": ((4, 5), (4, 7)),
    "vector, narrower": ((4, 7), (4, 5)),
    "tokens, same count": ((4, 9, 5), (4, 9, 7)),
    "tokens, same count with class token": ((4, 10, 5), (4, 10, 7)),
    "tokens, other count": ((4, 6, 5), (4, 11, 7)),
    "tokens, other grid with class token": ((4, 17, 5), (4, 10, 7)),
    "map to tokens": ((4, 5, 4, 4), (4, 9, 7)),
    "map to tokens with class token": ((4, 5, 4, 4), (4, 10, 7)),
    "map to tokens that are no grid": ((4, 5, 2, 3), (4, 15, 7)),
    "tokens to map": ((4, 16, 5), (4, 7, 2, 2)),
    "tokens with class token to map": ((4, 17, 5), (4, 7, 4, 4)),
    "map to vector": ((4, 5, 3, 3), (4, 7)),
    "tokens to vector": ((4, 6, 5), (4, 7)),
    "volume, smaller": ((4, 3, 4, 6, 8), (4, 6, 2, 3, 4)),
    "volume, larger": ((4, 3, 2, 2, 2), (4, 6, 4, 4, 4)),
    "volume to vector": ((4, 5, 2, 3, 3), (4, 7)),
    "volume to tokens": ((4, 5, 2, 3, 3), (4, 9, 7)),
    "tokens to volume": ((4, 18, 5), (4, 7, 2, 3, 3)),
    "one token to a map": ((4, 1, 5), (4, 7, 3, 3)),
}
pairs = pytest.mark.parametrize(("student", "teacher"), PAIRS.values(), ids=PAIRS.keys())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def passed_on(student: tuple[int, ...], teacher: tuple[int, ...], feature: Tensor) -> Tensor:
    """What the projector makes of a feature where its width is the teacher's: the spatial part alone."""
    projector = Projector(student, teacher)
    assert not list(projector.parameters())
    found: Tensor = projector(feature)
    return found


def numbered_map(batch: int, channels: int, side: int) -> Tensor:
    return torch.arange(float(batch * channels * side * side)).reshape(batch, channels, side, side)


@pairs
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_every_pair_reaches_the_teachers_shape_and_every_parameter_learns(
    student: tuple[int, ...], teacher: tuple[int, ...], norm: str
) -> None:
    projector = Projector(student, teacher, norm)  # type: ignore[arg-type]
    feature = draw(*student).requires_grad_()
    found = projector(feature)
    assert found.shape == teacher
    (found * draw(*teacher, seed=1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters())
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0


@pairs
def test_another_batch_size_is_accepted(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    assert Projector(student, teacher)(draw(7, *student[1:])).shape == (7, *teacher[1:])


@pairs
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_of_another_type_meet_float32_weights(
    student: tuple[int, ...], teacher: tuple[int, ...], dtype: torch.dtype
) -> None:
    projector = Projector(student, teacher)
    feature = draw(*student).to(dtype)
    found = projector(feature)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, projector(feature.float()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shape", [(2, 5), (2, 9, 5), (2, 10, 5), (2, 5, 3, 4)])
def test_equal_shapes_pass_unchanged_without_parameters(shape: tuple[int, ...]) -> None:
    feature = draw(*shape)
    assert torch.equal(passed_on(shape, shape, feature), feature)


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm)])
def test_a_norm_keeps_the_linear_map_without_a_bias_even_at_equal_shapes(norm: str, kind: type[nn.Module]) -> None:
    projector = Projector((2, 5, 4, 4), (2, 5, 4, 4), norm)  # type: ignore[arg-type]
    assert isinstance(projector.norm, kind)
    assert projector.linear.bias is None
    assert projector.linear.weight.shape == (5, 5, 1, 1)


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 3), (8, 5)), ((8, 4, 3), (8, 4, 5)), ((8, 3, 2, 2), (8, 5, 2, 2))]
)
def test_norms_give_mean_zero_and_variance_one(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    channel = 1 if len(teacher) == 4 else len(teacher) - 1
    batch = Projector(student, teacher, "batch")(draw(*student))
    over = [d for d in range(len(teacher)) if d != channel]
    torch.testing.assert_close(batch.mean(over), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.var(over, correction=0), torch.ones(5), atol=1e-2, rtol=0)
    layer = Projector(student, teacher, "layer")(draw(*student))
    over = [1, 2, 3] if len(teacher) == 4 else [channel]
    torch.testing.assert_close(layer.mean(over), torch.zeros_like(layer.mean(over)), atol=1e-5, rtol=0)


def test_a_linear_map_acts_on_channels_at_each_position() -> None:
    projector = Projector((2, 3, 2, 2), (2, 5, 2, 2))
    feature = draw(2, 3, 2, 2)
    weight, bias = projector.linear.weight[:, :, 0, 0], projector.linear.bias
    expected = torch.einsum("oc,bchw->bohw", weight, feature) + bias[:, None, None]
    torch.testing.assert_close(projector(feature), expected)


def test_maps_are_pooled_by_averaging_blocks() -> None:
    feature = numbered_map(1, 1, 4)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    assert torch.equal(passed_on((1, 1, 4, 4), (1, 1, 2, 2), feature), expected)


def test_maps_are_interpolated_bilinearly() -> None:
    found = passed_on((1, 1, 1, 2), (1, 1, 1, 4), torch.tensor([[[[0.0, 4.0]]]]))
    assert torch.equal(found, torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))


def test_resizing_keeps_the_mean_of_a_constant_map() -> None:
    for size in ((2, 2), (9, 9), (3, 8), (8, 3)):
        torch.testing.assert_close(resize_map(torch.full((1, 2, 5, 5), 3.0), size), torch.full((1, 2, *size), 3.0))


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 12, 5)])
def test_a_vector_is_the_mean_over_positions(shape: tuple[int, ...]) -> None:
    feature = draw(*shape)
    columns = feature.flatten(2).transpose(1, 2) if len(shape) == 4 else feature
    expected = sum(columns[:, i] for i in range(12)) / 12
    torch.testing.assert_close(passed_on(shape, (2, 5), feature), expected)


def test_map_and_tokens_keep_the_order_of_the_grid() -> None:
    grid = numbered_map(2, 3, 4)
    tokens = passed_on((2, 3, 4, 4), (2, 16, 3), grid)
    assert torch.equal(tokens[1, 6], grid[1, :, 1, 2])
    assert torch.equal(passed_on((2, 16, 3), (2, 3, 4, 4), tokens), grid)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5, 8])
def test_map_to_tokens_and_back_is_the_identity(prefix: int) -> None:
    grid = draw(2, 3, 6, 6)
    tokens = map_to_tokens(grid, 36 + prefix)
    assert tokens.shape == (2, 36 + prefix, 3)
    assert torch.equal(tokens_to_map(tokens), grid)
    for token in tokens[:, :prefix].unbind(1):
        torch.testing.assert_close(token, grid.mean((2, 3)))


def test_a_class_token_is_dropped_on_the_way_to_a_map() -> None:
    tokens = draw(2, 17, 3)
    changed = tokens.clone()
    changed[:, 0] = 1e6
    found = passed_on((2, 17, 3), (2, 3, 2, 2), tokens)
    assert torch.equal(found, passed_on((2, 17, 3), (2, 3, 2, 2), changed))
    corner = tokens[:, 1:].reshape(2, 4, 4, 3)[:, :2, :2].mean((1, 2))
    torch.testing.assert_close(found[:, :, 0, 0], corner)


def test_tokens_with_class_tokens_are_resized_as_grids() -> None:
    tokens = draw(2, 17, 3)
    found = passed_on((2, 17, 3), (2, 5, 3), tokens)
    blocks = tokens[:, 1:].reshape(2, 2, 2, 2, 2, 3).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(found[:, 1:], blocks)
    torch.testing.assert_close(found[:, 0], tokens[:, 1:].mean(1))


def test_sequences_are_resized_along_their_length() -> None:
    found = passed_on((1, 3, 1), (1, 6, 1), torch.tensor([[[0.0], [4.0], [8.0]]]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 1.0, 3.0, 5.0, 7.0, 8.0]))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (4, (0, 2)),
        (5, (1, 2)),
        (16, (0, 4)),
        (197, (1, 14)),
        (198, (2, 14)),
        (201, (5, 14)),
        (257, (1, 16)),
        (58, None),
    ],
)
def test_token_counts_read_as_prefix_and_grid(tokens: int, expected: tuple[int, int] | None) -> None:
    assert split_grid(tokens) == expected


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_too_few_tokens_are_no_grid(tokens: int) -> None:
    assert split_grid(tokens) is None


@pytest.mark.parametrize("target", [(2, 5), (2, 9, 5), (2, 10, 5), (2, 5, 2, 2)])
def test_memory_formats_give_the_same_value(target: tuple[int, ...]) -> None:
    feature = draw(2, 3, 4, 4)
    wide = draw(2, 3, 4, 8)
    wide[..., ::2] = feature
    projector = Projector((2, 3, 4, 4), target)
    for other in (feature.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        torch.testing.assert_close(projector(other), projector(feature))


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 3), "vector"), ((2, 3, 4), "tokens"), ((2, 3, 4, 5), "map"), ((2, 3, 4, 5, 6), "volume")]
)
def test_feature_kinds(shape: tuple[int, ...], kind: str) -> None:
    assert feature_kind(shape) == kind


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4, 5, 6, 7)])
def test_other_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"neither a vector \[B, D\], tokens \[B, N, D\], a map"):
        Projector(shape, (2, 3))


@pytest.mark.parametrize(("teacher", "kind"), [((2, 9, 5), "tokens"), ((2, 5, 3, 3), "map")])
def test_a_vector_cannot_fill_positions(teacher: tuple[int, ...], kind: str) -> None:
    with pytest.raises(ValueError, match=rf"student vector \[2, 5\] cannot fill a teacher {kind}.*earlier layer"):
        Projector((2, 5), teacher)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm must be 'none', 'batch' or 'layer', not 'group'"):
        Projector((2, 5), (2, 5), "group")  # type: ignore[arg-type]


def test_tokens_that_are_no_grid_cannot_become_a_map() -> None:
    with pytest.raises(ValueError, match="58 tokens are no square grid"):
        Projector((2, 58, 5), (2, 5, 2, 2))(draw(2, 58, 5))


def orthogonal_error(projector: Projector) -> float:
    """How far the shorter side's vectors are from orthonormal."""
    matrix = projector.linear.matrix().double()
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return (tall.T @ tall - torch.eye(tall.shape[1], dtype=torch.float64)).abs().max().item()


@pairs
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_an_orthogonal_map_stays_orthogonal_as_it_learns_under_weight_decay(
    student: tuple[int, ...], teacher: tuple[int, ...], norm: str
) -> None:
    projector = Projector(student, teacher, norm, "orthogonal")  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = projector.linear.matrix().detach().clone()
    for step in range(5):
        optimizer.zero_grad()
        found = projector(draw(*student, seed=step))
        assert found.shape == teacher
        (found - draw(*teacher, seed=step + 10)).square().mean().backward()
        optimizer.step()
    assert orthogonal_error(projector) < 1e-5
    assert (projector.linear.matrix() - before).abs().max() > 1e-4


@pytest.mark.parametrize(("student", "teacher"), [((6, 3), (6, 5)), ((6, 4), (6, 4)), ((6, 2, 3, 3), (6, 4, 3, 3))])
def test_an_orthogonal_map_to_a_larger_space_keeps_inner_products(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    feature = draw(*student)
    found = Projector(student, teacher, kind="orthogonal")(feature)
    rows = [f.movedim(1, -1).flatten(0, -2) for f in (feature, found)]
    torch.testing.assert_close(rows[0] @ rows[0].T, rows[1] @ rows[1].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("teacher", [(6, 5), (6, 3), (6, 2)])
def test_an_orthogonal_projector_is_copied_averaged_and_restored(teacher: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    projector, feature = Projector((6, 3), teacher, kind="orthogonal"), draw(6, 3)
    averaged = torch.optim.swa_utils.AveragedModel(
        projector, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    twin = copy.deepcopy(projector)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.1)
    for _ in range(3):
        projector(feature).square().mean().add(projector(feature).sum()).backward()
        optimizer.step()
        averaged.update_parameters(projector)
    assert orthogonal_error(averaged.module) < 1e-5
    assert not torch.equal(twin(feature), projector(feature))
    file = io.BytesIO()
    torch.save(projector.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(twin(feature), projector(feature))
    fresh = Projector((6, 3), teacher, kind="orthogonal")
    fresh.load_state_dict(projector.state_dict())
    assert torch.equal(fresh(feature), projector(feature))


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (4, 4), (5, 2)])
def test_an_orthogonal_map_is_pytorchs_cayley_map(inputs: int, outputs: int) -> None:
    reference = nn.utils.parametrizations.orthogonal(nn.Linear(inputs, outputs, bias=False), orthogonal_map="cayley")
    ours, step = OrthogonalMap(inputs, outputs), 0.3 * draw(max(inputs, outputs), min(inputs, outputs))
    parametrised = reference.parametrizations.weight
    with torch.no_grad():
        parametrised.original.copy_(step.T if inputs > outputs else step)
        ours.skew.copy_(step)
        ours.base.copy_(parametrised[0].base)
    torch.testing.assert_close(ours.matrix(), reference.weight, rtol=0, atol=1e-6)
    feature = draw(7, inputs)
    torch.testing.assert_close(ours(feature), reference(feature), rtol=0, atol=1e-6)


def test_an_orthogonal_projector_works_in_half_precision() -> None:
    projector = Projector((4, 3), (4, 5), kind="orthogonal").to(torch.bfloat16)
    found = projector(draw(4, 3))
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in projector.parameters())


@pairs
def test_an_ensemble_is_the_mean_of_rectified_projectors(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    ensemble, feature = ProjectorEnsemble(student, teacher, 4), draw(*student)
    members = list(ensemble.members)
    expected = sum(projector(feature).clamp(min=0) for projector in members) / 4
    found = ensemble(feature)
    assert found.shape == teacher
    torch.testing.assert_close(found, expected)
    assert not torch.equal(members[0](feature), members[1](feature))


def test_an_ensemble_maps_at_equal_widths_too() -> None:
    assert len(list(ProjectorEnsemble((2, 5), (2, 5), 3).parameters())) == 6
    assert len(list(Projector((2, 5), (2, 5), kind="linear").parameters())) == 2


@pytest.mark.parametrize(
    ("source", "target", "now", "wanted"),
    [
        ((4, 5, 8), (4, 5, 6), (3, 9, 8), (3, 9, 6)),
        ((4, 5, 8), (4, 5, 6), (3, 7, 8), (3, 11, 6)),
        ((4, 8, 4, 4), (4, 6, 4, 4), (2, 8, 9, 7), (2, 6, 3, 3)),
        ((4, 8, 4, 4), (4, 16, 6), (2, 8, 9, 9), (2, 81, 6)),
        ((4, 8, 2, 4, 4), (4, 6, 2, 4, 4), (2, 8, 4, 9, 7), (2, 6, 3, 3, 3)),
    ],
)
@pytest.mark.parametrize("make", [Projector, ProjectorEnsemble])
def test_positions_are_those_of_the_teachers_feature_at_hand(
    source: tuple[int, ...],
    target: tuple[int, ...],
    now: tuple[int, ...],
    wanted: tuple[int, ...],
    make: type[Projector],
) -> None:
    projector = make(source, target)
    assert projector(draw(*now), wanted).shape == wanted
    assert projector(draw(*source)).shape == target


def test_maps_and_volumes_have_no_positions_in_common() -> None:
    with pytest.raises(ValueError, match="no positions in common"):
        Projector((2, 3, 4, 4), (2, 3, 4, 4, 4))


def test_an_oblong_grid_of_tokens_keeps_its_places() -> None:
    """As of a person's image of 16 x 8 patches behind a class token: 129 is 8 more than a square, too."""
    grid = draw(2, 3, 16, 8)
    tokens = map_to_tokens(grid, 129)
    assert torch.equal(tokens[:, 1:], grid.flatten(2).mT)
    assert torch.equal(tokens_to_map(tokens, (16, 8)), grid)
    assert torch.equal(passed_on((2, 129, 3), (2, 3, 16, 8), tokens), grid)
