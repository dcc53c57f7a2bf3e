"""The training loss: cross entropy of the main head and of each booster (paper, sections 3.2, 4.4).

Optionally adds the Dice loss of the main head.

Knows logits and label maps; nothing of the network or the dataset.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(
    outputs: list[Tensor],
    target: Tensor,
    *,
    ignore_index: int = 255,
    weights: Tensor | None = None,
    hard_threshold: float | None = None,
    hard_minimum: float = 1 / 16,
    dice_weight: float = 0.0,
    booster_weight: float = 1.0,
    booster_stride: int = 1,
    align_corners: bool = False,
) -> dict[str, Tensor]:
    """Return the losses of a batch to add up: `main`, `dice`, `booster0`, ...

    Args:
        outputs: `[main, *boosters]` logits (N, C, h, w) at any scale.
        target: (N, H, W) int64 class indices, or `ignore_index`.
        weights: (C,) weight of each class, or None.
        hard_threshold: if set, each head's loss is OHEM (as in CoinCheung/BiSeNet and
            mmsegmentation): the mean over the pixels whose true class has a probability below it,
            and over at least `hard_minimum` of the labeled pixels, the hardest.
        dice_weight: factor on the Dice loss of the main head (`_dice`); 0 leaves it out.
        booster_weight: factor on each booster's loss.
        booster_stride: booster losses are taken on every so-many-th pixel in both directions, the
            one in the middle of its cell; logits are enlarged to that grid only.
        align_corners: how logits are enlarged, as `ModelConfig.align_corners`.

    With class weights every mean is a weighted one, as in torch. A batch without a labeled pixel
    has a loss of 0, not NaN.
    """
    main = _upsample(outputs[0], target.shape[1:], align_corners)
    losses = {
        "main": _cross_entropy(main, target, ignore_index, weights, hard_threshold, hard_minimum)
    }
    if dice_weight:
        losses["dice"] = dice_weight * _dice(main, target, ignore_index)
    offset = booster_stride // 2
    coarse = target[:, offset::booster_stride, offset::booster_stride]
    for index, logits in enumerate(outputs[1:]):
        logits = _upsample(logits, coarse.shape[1:], align_corners)
        value = _cross_entropy(logits, coarse, ignore_index, weights, hard_threshold, hard_minimum)
        losses[f"booster{index}"] = booster_weight * value
    return losses


def _upsample(logits: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    # In float32: bfloat16 has 8 bits, too few to add up a loss. Channels first while it is small:
    # the softmax over classes wants them so, and would copy the large one.
    small = logits.float().contiguous()
    return F.interpolate(small, size=tuple(size), mode="bilinear", align_corners=align_corners)


def _cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    weights: Tensor | None,
    hard_threshold: float | None = None,
    hard_minimum: float = 0.0,
) -> Tensor:
    labelled = target != ignore_index
    counted = labelled.float()
    if weights is not None:
        counted = counted * weights[target.clamp(max=len(weights) - 1)]
    if hard_threshold is None:
        # the same as below with no pixel left out, in less memory
        total = F.cross_entropy(logits, target, weights, ignore_index=ignore_index, reduction="sum")
    else:
        values = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
        counted = counted * _hard_pixels(values, labelled, hard_threshold, hard_minimum)
        total = (values * counted).sum()
    return total / counted.sum().clamp(min=1e-6)


def _dice(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return 1 - the mean Dice coefficient of the batch's classes (V-Net, arXiv 1606.04797, 3).

    The coefficient is 2 * sum(p * y) / sum(p + y) over all labeled pixels of the batch (of the
    frames at once on one device), of the classes that occur in it. So a rare class counts as much
    as a frequent one, as in mIoU, where cross entropy counts pixels.
    """
    labelled = target != ignore_index
    index = target.masked_fill(~labelled, 0)
    probability = logits.softmax(1) * labelled[:, None]
    true = probability.gather(1, index[:, None]).flatten(0, 2)
    # Row by row first: one float32 to which millions of pixels are added one by one loses them.
    rows = index.flatten(0, 1)
    zeros = true.new_zeros(len(rows), logits.shape[1])
    common = zeros.scatter_add(1, rows, true).sum(0)
    pixels = zeros.scatter_add(1, rows, labelled.flatten(0, 1).to(true)).sum(0)
    present = pixels > 0
    dice = 2 * common / (probability.sum((0, 2, 3)) + pixels).clamp(min=1e-6)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


@torch.no_grad()
def _hard_pixels(values: Tensor, labelled: Tensor, threshold: float, minimum: float) -> Tensor:
    """Select the pixels that OHEM keeps, by their loss -log p (see `segmentation_loss`)."""
    candidates = values[labelled]
    keep = math.ceil(minimum * candidates.numel())
    limit = values.new_full((), -math.log(threshold) if threshold > 0 else math.inf)
    if keep:
        limit = torch.minimum(limit, torch.topk(candidates, keep).values[-1])
    return values >= limit
