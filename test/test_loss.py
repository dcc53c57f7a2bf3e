"""The loss against values worked out by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from bisenetv2_ros.training.loss import segmentation_loss  # noqa: E402


def logits_of(probabilities) -> torch.Tensor:
    """Logits (1, C, 1, W) whose softmax is the given list over pixels of class probabilities."""
    return torch.tensor(probabilities).log().T[None, :, None, :]


# the true classes 0, 0, 1, 1 have probabilities 0.9, 0.5, 0.2, 0.8
PIXELS = logits_of([[0.9, 0.1], [0.5, 0.5], [0.8, 0.2], [0.2, 0.8]])
TARGET = torch.tensor([[[0, 0, 1, 1]]])
LOSSES = [-math.log(p) for p in (0.9, 0.5, 0.2, 0.8)]


def main_loss(logits=PIXELS, target=TARGET, **options) -> float:
    return float(segmentation_loss([logits], target, **options)["main"])


def test_cross_entropy_by_hand():
    assert main_loss() == pytest.approx(sum(LOSSES) / 4)


def test_ignored_pixels_do_not_count():
    target = torch.tensor([[[0, 255, 1, 255]]])
    assert main_loss(target=target) == pytest.approx((LOSSES[0] + LOSSES[2]) / 2)
    assert main_loss(target=torch.tensor([[[0, 7, 1, 7]]]), ignore_index=7) == main_loss(
        target=target
    )


def test_class_weights_make_a_weighted_mean():
    weights = torch.tensor([1.0, 3.0])
    expected = (LOSSES[0] + LOSSES[1] + 3 * LOSSES[2] + 3 * LOSSES[3]) / 8
    assert main_loss(weights=weights) == pytest.approx(expected)
    assert main_loss(weights=weights / 1000) == pytest.approx(expected), "only ratios matter"


def test_ohem_keeps_the_pixels_below_the_threshold():
    # 0.5 and 0.2 are below 0.7
    kept = (LOSSES[1] + LOSSES[2]) / 2
    assert main_loss(hard_threshold=0.7, hard_minimum=0) == pytest.approx(kept)


def test_ohem_keeps_a_minimum_of_the_hardest():
    assert main_loss(hard_threshold=0.01, hard_minimum=0.25) == pytest.approx(LOSSES[2])
    hardest_three = (LOSSES[1] + LOSSES[2] + LOSSES[3]) / 3
    assert main_loss(hard_threshold=0.01, hard_minimum=0.75) == pytest.approx(hardest_three)
    # of the labelled pixels: half of two is one
    target = torch.tensor([[[0, 0, 255, 255]]])
    assert main_loss(target=target, hard_threshold=0.01, hard_minimum=0.5) == pytest.approx(
        LOSSES[1]
    )


def test_ohem_with_class_weights():
    weights = torch.tensor([1.0, 3.0])
    kept = (LOSSES[1] + 3 * LOSSES[2]) / 4
    assert main_loss(weights=weights, hard_threshold=0.7, hard_minimum=0) == pytest.approx(kept)


def dice_loss(logits, target) -> float:
    return float(segmentation_loss([logits], target, dice_weight=2.0)["dice"])


def test_dice_by_hand():
    # class 0: 0.9 + 0.5 of (0.9 + 0.5 + 0.8 + 0.2) and 2 pixels; class 1: 0.2 + 0.8 likewise
    first, second = 2 * 1.4 / (2.4 + 2), 2 * 1.0 / (1.6 + 2)
    assert dice_loss(PIXELS, TARGET) == pytest.approx(2 * (1 - (first + second) / 2))
    assert "dice" not in segmentation_loss([PIXELS], TARGET)


def test_dice_leaves_out_ignored_pixels_and_absent_classes():
    target = torch.tensor([[[0, 0, 255, 255]]])
    assert dice_loss(PIXELS, target) == pytest.approx(2 * (1 - 2 * 1.4 / (1.4 + 2)))
    three = logits_of([[0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    assert dice_loss(three, target) == pytest.approx(dice_loss(PIXELS, target))


def test_dice_of_millions_of_pixels():
    """Added up one by one, float32 stands still long before."""
    pixels = torch.tensor([0.95, 0.05]).log().view(1, 2, 1, 1).expand(2, 2, 1024, 1024)
    target = torch.zeros(2, 1024, 1024, dtype=torch.long)
    assert dice_loss(pixels, target) == pytest.approx(2 * (1 - 1.9 / 1.95), abs=1e-4)


@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize("weights", [None, torch.ones(2)])
def test_a_batch_without_labels_has_no_loss_and_no_gradient(threshold, weights):
    logits = PIXELS.clone().requires_grad_()
    target = torch.full_like(TARGET, 255)
    losses = segmentation_loss(
        [logits, logits], target, weights=weights, hard_threshold=threshold, dice_weight=1.0
    )
    sum(losses.values()).backward()
    assert {k: v.item() for k, v in losses.items()} == {"main": 0, "dice": 0, "booster0": 0}
    assert not logits.grad.any()


def test_logits_are_enlarged_to_the_label():
    """A pixel a quarter of the way between two logits gets three quarters of the nearer one."""
    logits = torch.tensor([[[[0.0, 4.0]], [[0.0, 0.0]]]])
    target = torch.zeros(1, 1, 4, dtype=torch.long)
    expected = [math.log1p(math.exp(-x)) for x in (0.0, 1.0, 3.0, 4.0)]
    assert main_loss(logits, target) == pytest.approx(sum(expected) / 4)


def test_logits_are_enlarged_as_the_network_does_it():
    logits = torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]]]])
    target = torch.zeros(1, 1, 4, dtype=torch.long)
    losses = segmentation_loss([logits, logits], target, align_corners=True)
    expected = [math.log1p(math.exp(-x)) for x in (0.0, 1.0, 2.0, 3.0)]
    assert float(losses["main"]) == float(losses["booster0"]) == pytest.approx(sum(expected) / 4)


def test_boosters_are_named_weighted_and_summed_up_by_the_caller():
    losses = segmentation_loss([PIXELS, PIXELS, PIXELS], TARGET, booster_weight=0.5)
    assert list(losses) == ["main", "booster0", "booster1"]
    assert float(losses["booster1"]) == pytest.approx(0.5 * float(losses["main"]))


def test_boosters_have_ohem_as_the_main_head_has():
    losses = segmentation_loss([PIXELS, PIXELS], TARGET, hard_threshold=0.7, hard_minimum=0)
    assert float(losses["booster0"]) == pytest.approx((LOSSES[1] + LOSSES[2]) / 2)


def test_booster_stride_takes_the_middle_of_each_cell():
    target = torch.full((1, 8, 8), 255)
    target[0, 2, 2], target[0, 6, 2] = 0, 1  # middles of the cells (0, 0) and (1, 0)
    target[0, 0, 5] = 1  # not a middle
    probabilities = torch.tensor([[0.9, 0.3], [0.5, 0.5]])  # of class 0, by cell
    logits = torch.stack([probabilities.log(), (1 - probabilities).log()])[None]
    losses = segmentation_loss([logits, logits], target, booster_stride=4)
    # the label of cell (1, 0) is class 1, whose probability is 0.5
    assert float(losses["booster0"]) == pytest.approx((-math.log(0.9) - math.log(0.5)) / 2)


def test_half_precision_logits_are_summed_in_full():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 32, 32)
    target = torch.randint(0, 2, (1, 256, 256))
    half = segmentation_loss([logits.bfloat16()], target)["main"]
    assert half.dtype == torch.float32
    exact = segmentation_loss([logits.bfloat16().float()], target)["main"]
    assert float(half) == float(exact)
