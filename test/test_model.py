"""The network: its size and cost against published figures, its shapes, its ablations."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch")

from bisenetv2_ros.training.loss import segmentation_loss  # noqa: E402
from bisenetv2_ros.training.model import BiSeNetV2, count_cost  # noqa: E402
from bisenetv2_ros.training.model_config import NETWORKS, ModelConfig  # noqa: E402

SMALL = ModelConfig(num_classes=3, head_channels=8, booster_channels=8)


def giga_multiply_adds(unit: float = 1e9, **changes) -> float:
    return count_cost(ModelConfig(**changes), 1024, 512).multiply_adds / unit


@pytest.mark.parametrize(
    ("head_channels", "mega_parameters", "giga"), [(1024, 3.36, 24.6), (128, 2.31, 16.0)]
)
def test_cost_of_the_public_layout(head_channels, mega_parameters, giga):
    cost = count_cost(ModelConfig(head_channels=head_channels), 1024, 512)
    assert cost.parameters / 1e6 == pytest.approx(mega_parameters, abs=0.005)
    assert cost.multiply_adds / 1e9 == pytest.approx(giga, abs=0.05)
    double = count_cost(ModelConfig(head_channels=head_channels), 2048, 1024)
    # four times the pixels; the context embedding's 1x1 sees one pixel whatever the size
    assert double.multiply_adds == pytest.approx(4 * cost.multiply_adds, rel=1e-5)


def test_cost_of_the_semantic_ratio_ablation():
    """λ of 1/2 and 1/8 against 1/4, for both readings of the gather-and-expansion layer."""
    base = giga_multiply_adds()
    assert giga_multiply_adds(semantic_ratio=1 / 2) - base == pytest.approx(1.66, abs=0.005)
    assert giga_multiply_adds(semantic_ratio=1 / 8) - base == pytest.approx(-0.45, abs=0.005)
    # the paper's own deltas are +4.69 and -1.22 GFLOPs
    base = giga_multiply_adds(2**30, expand_with="conv")
    wide = giga_multiply_adds(2**30, expand_with="conv", semantic_ratio=1 / 2)
    narrow = giga_multiply_adds(2**30, expand_with="conv", semantic_ratio=1 / 8)
    assert wide - base == pytest.approx(4.71, abs=0.005)
    assert narrow - base == pytest.approx(-1.21, abs=0.005)


def test_the_papers_network_has_the_papers_cost():
    """21.15 GFlops at 1024x512, and the λ ablation's +4.69 and -1.22."""
    paper = NETWORKS["paper"]
    base = giga_multiply_adds(2**30, **paper)
    assert base == pytest.approx(21.15, abs=0.005)
    for ratio, delta in ((1 / 2, 4.69), (1 / 8, -1.22)):
        cost = giga_multiply_adds(2**30, **paper, semantic_ratio=ratio)
        assert cost - base == pytest.approx(delta, abs=0.02)


def test_large_widens_and_deepens():
    """α = 2, d = 3: 83.1 G here, where the paper says 118.5 and nobody knows for what."""
    large = ModelConfig(width=2, depth=3)
    assert large.detail_widths == (128, 128, 256)
    assert large.semantic_widths == (32, 64, 128, 256)
    network = BiSeNetV2(dataclasses.replace(large, head_channels=8, boosters=()))
    assert [len(stage) for stage in (network.semantic.s3, network.semantic.s4)] == [4, 4]
    assert len(network.semantic.s5) == 10
    assert giga_multiply_adds(width=2, depth=3) == pytest.approx(83.1, abs=0.05)


def test_shapes_in_training_and_evaluation():
    network = BiSeNetV2(SMALL)
    x = torch.rand(2, 3, 96, 64)
    main, *boosters = network.train()(x)
    assert main.shape == (2, 3, 12, 8)
    assert [tuple(b.shape[2:]) for b in boosters] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    logits = network.eval()(x)
    assert logits.shape == (2, 3, 12, 8)
    assert network.enlarge(logits).shape == (2, 3, 96, 64)


def test_sizes_that_are_no_multiple_of_32():
    """CamVid's own 960x720 is none: 720 = 22.5 * 32."""
    network = BiSeNetV2(SMALL).eval()
    assert network(torch.rand(1, 3, 80, 96)).shape == (1, 3, 10, 12)
    with pytest.raises(ValueError, match="input is 100x96, expected multiples of 8"):
        network(torch.rand(1, 3, 96, 100))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"branches": "detail"},
        {"branches": "semantic"},
        {"aggregation": "sum"},
        {"aggregation": "concat"},
        {"boosters": ()},
        {"boosters": ("s3", "s5")},
        {"expand_with": "conv"},
        {"context_norm": False, "relu_after_depthwise": False, "aggregation_relu": False},
        {"aggregation_upsample": "nearest", "aggregation_bias": False},
        {"align_corners": True},
        {"head_shuffle": 8},
        {"semantic_ratio": 1 / 16},
        {"depth": 2},
    ],
    ids=str,
)
def test_every_variant_runs_and_every_parameter_gets_gradient(change):
    config = dataclasses.replace(SMALL, **change)
    torch.manual_seed(0)
    network = BiSeNetV2(config).train()
    outputs = network(torch.rand(2, 3, 64, 64))
    stages = () if config.branches == "detail" else config.boosters
    assert len(outputs) == 1 + len(stages)
    assert outputs[0].shape[2] == 8 * config.head_shuffle
    assert all(output.isfinite().all() for output in outputs)
    sum(output.square().sum() for output in outputs).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # a shift of the global average is taken out again by the batch norm that follows
    assert without <= {"semantic.context.norm.bias"}


def test_boosters_take_no_part_in_evaluation():
    torch.manual_seed(0)
    network = BiSeNetV2(SMALL).eval()
    x = torch.rand(1, 3, 64, 64)
    before = network(x)
    for parameter in network.boosters.parameters():
        parameter.data.fill_(torch.nan)
    assert torch.equal(network(x), before)


def test_pixel_shuffle_layout():
    """Value i * f + j of a class is its logit at row i, column j of the f x f cell."""
    network = BiSeNetV2(dataclasses.replace(SMALL, head_shuffle=2)).eval()
    conv = network.head[2]
    torch.nn.init.zeros_(conv.weight)
    conv.bias.data = torch.arange(12.0)
    cell = network(torch.rand(1, 3, 64, 64))[0, 1, :2, :2]
    assert cell.tolist() == [[4, 5], [6, 7]]


def test_initialisation_is_kaiming_normal():
    torch.manual_seed(0)
    weight = BiSeNetV2(SMALL).detail[2][0][0].weight  # 3x3, 64 to 128
    assert weight.detach().std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("classes", [3, 11, 19])
@pytest.mark.parametrize("shuffle", [1, 2])
def test_first_losses_are_those_of_a_guess(classes, shuffle):
    """ln C for each head; classifiers with large first logits made it several times that."""
    torch.manual_seed(0)
    network = BiSeNetV2(ModelConfig(num_classes=classes, head_shuffle=shuffle)).train()
    target = torch.randint(classes, (4, 64, 96))
    losses = segmentation_loss(network(torch.randn(4, 3, 64, 96)), target)
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(math.log(classes), rel=0.2), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 0),
        ("aggregation", "mean"),
        ("boosters", ("s6",)),
        ("head_shuffle", 3),
        ("width", 0.01),
        ("dropout", 1.0),
    ],
)
def test_impossible_choices_are_named(field, value):
    with pytest.raises(ValueError, match=field if field != "width" else "stage widths"):
        ModelConfig(**{field: value})
