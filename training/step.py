"""Computes the gradients of one batch."""

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
from bisenetv2_ros.training.samples import Batch, BatchPlan
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
    """Accumulate the gradients of one batch, in micro batches.

    Gradients are means over micro batches and processes, each of which takes its own mean over its
    pixels.

    Args:
        recipe, place: what to compute, and on which device.
        network: the network as wrapped for this run.
        state: has the loss scale.
        batches: the process's micro batches, positioned at `step`.
        ignore_index: label value without a class.

    Returns:
        Losses by head, scalars on the device, means over this process's micro batches; and how many
        damaged samples were skipped.
    """
    torch.manual_seed(hash((recipe.seed, 3, step, place.rank)) & 0x7FFF_FFFF)  # dropout
    network.train()
    parts = BatchPlan(recipe, place, step).parts
    summed: dict[str, Tensor] = {}
    damaged = 0
    for part in range(parts):
        image, label, skipped = next(batches)
        damaged += int(skipped.sum())
        x = normalize(image.to(place.device, non_blocking=True), recipe)
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


def normalize(image: Tensor, recipe: Recipe) -> Tensor:
    """Normalize (N, H, W, 3) uint8 RGB to (N, 3, H, W) float32 in channels-last memory."""
    mean, std = _constant(recipe.mean, image.device), _constant(recipe.std, image.device)
    # Permuting a channels-last image gives a channels-last tensor: no copy.
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@functools.lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copy to the device once, because each copy waits for all pending work of a GPU."""
    return torch.tensor(values, device=device)


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of the recipe's precision on this device."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.precision))
