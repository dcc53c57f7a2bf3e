"""Gradients of one batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.loss import segmentation_loss
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.samples import (
    Batch,
    BatchPlan,
)
from bisenetv2_ros.training.state import TrainingState


def backward(
    recipe: Recipe,
    place: Place,
    network: nn.Module,
    state: TrainingState,
    batches: Iterator[Batch],
    weights: Tensor | None,
    step: int,
    ignore_index: int = 255,
) -> tuple[dict[str, Tensor], int]:
    """Gradients of one batch, in micro batches -> losses by head, damaged samples passed over.

    The gradients are means over the micro batches and processes, each of which has taken its own
    mean over its pixels. The losses, scalars on the device, are means over this process's micro
    batches.
    """
    torch.manual_seed(hash((recipe.seed, 3, step, place.rank)) & 0x7FFF_FFFF)  # dropout
    network.train()
    parts = BatchPlan(recipe, place, step).parts
    summed: dict[str, Tensor] = {}
    damaged = 0
    for part in range(parts):
        image, label, skipped = next(batches)
        damaged += int(skipped.sum())
        x = normalise(image.to(place.device, non_blocking=True), recipe)
        target = label.to(place.device, non_blocking=True).long()
        with contextlib.ExitStack() as stack:
            if part + 1 < parts and isinstance(network, nn.parallel.DistributedDataParallel):
                stack.enter_context(network.no_sync())  # gradients meet on the last part
            with autocast(recipe, place.device):
                outputs = network(x)
            losses = segmentation_loss(
                outputs,
                target,
                ignore_index=ignore_index,
                weights=weights,
                hard_threshold=recipe.ohem_threshold if recipe.loss == "ohem" else None,
                hard_minimum=recipe.ohem_minimum,
                dice_weight=recipe.dice_weight,
                booster_weight=recipe.booster_weight,
                booster_stride=recipe.booster_stride,
                align_corners=recipe.model.align_corners,
            )
            loss = torch.stack(list(losses.values())).sum() / parts
            state.scaler.scale(loss).backward()
        for name, value in losses.items():
            summed[name] = summed.get(name, torch.zeros_like(value)) + value.detach() / parts
    return summed, damaged


def normalise(image: Tensor, recipe: Recipe) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 in channels-last memory."""
    mean, std = _constant(recipe.mean, image.device), _constant(recipe.std, image.device)
    # the permutation of a channels-last picture is a channels-last tensor: no copy
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@functools.lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied to the device once: each such copy waits for all that a GPU has still to do."""
    return torch.tensor(values, device=device)


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The recipe's arithmetic on this device."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.precision))
