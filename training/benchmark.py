"""How much faster a step of ours is than the plain way to write it, measured in one run.

The plain way: float32, channels first, the logits of the head and of every booster enlarged to the
full size of the label. Both do a whole step (forward, losses, backward, SGD) of the same network on
the same frames, in turn, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bisenetv2_ros.training.loop import TrainingState, backward, parameter_groups
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.processes import Place, join_processes
from bisenetv2_ros.training.recipe import Recipe, load_recipe

WARM_UP = 2  # steps before the clock starts: memory is allocated, kernels are chosen


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure for `bisenetv2 benchmark --training`.

    Args:
        args: `config`, the name or path of a recipe; `overrides` of it; `device`, '' for CUDA where
            present; `threads` of a CPU, 0 for torch's choice; `rounds`, timed steps of each kind.

    Returns:
        JSON values: recipe, device, batch size, crop, images per second of both, their ratio.

    Raises:
        ValueError: no such recipe, override or device.
    """
    recipe = load_recipe(args.config, args.overrides)
    if args.threads:
        torch.set_num_threads(args.threads)
    return compare_steps(recipe, join_processes(args.device), args.rounds)


def compare_steps(recipe: Recipe, place: Place, rounds: int) -> dict[str, Any]:
    """Time `rounds` steps of both kinds in turn; see `run` for the result."""
    torch.manual_seed(recipe.seed)
    width, height = recipe.crop
    images = torch.randint(0, 256, (recipe.batch_size, height, width, 3), dtype=torch.uint8)
    labels = torch.randint(
        0, recipe.model.num_classes, (recipe.batch_size, height, width), dtype=torch.uint8
    )
    steps = {
        "ours": _our_step(recipe, place, images, labels),
        "plain": _plain_step(recipe, place, images, labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP + rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if place.device.type == "cuda":
                torch.cuda.synchronize(place.device)
            seconds[name].append(time.perf_counter() - begin)
    speed = {name: recipe.batch_size / median(t[WARM_UP:]) for name, t in seconds.items()}
    on_gpu = place.device.type == "cuda"
    return {
        "recipe": recipe.name,
        "device": torch.cuda.get_device_name(place.device)
        if on_gpu
        else f"CPU, {torch.get_num_threads()} threads",
        "precision": recipe.precision,
        "batch_size": recipe.batch_size,
        "crop": list(recipe.crop),
        "rounds": rounds,
        "images_per_second": speed["ours"],
        "plain_images_per_second": speed["plain"],
        "ratio": speed["ours"] / speed["plain"],
    }


def _our_step(recipe: Recipe, place: Place, images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = BiSeNetV2(recipe.model).to(place.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.compile:
        network.compile()
    state = TrainingState(recipe, network, place)
    micro = recipe.micro_batch or recipe.batch_size
    skipped = torch.zeros(micro, dtype=torch.int64)
    parts = zip(images.split(micro), labels.split(micro), itertools.repeat(skipped))
    batches = itertools.cycle(list(parts))

    def step() -> None:
        backward(recipe, place, network, state, batches, None, 0)
        state.step(0)

    return step


def _plain_step(recipe: Recipe, place: Place, images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = BiSeNetV2(recipe.model).to(place.device).train()
    optimizer = torch.optim.SGD(
        parameter_groups(network, recipe.weight_decay), recipe.learning_rate, recipe.momentum
    )
    mean = torch.tensor(recipe.mean, device=place.device).view(1, 3, 1, 1)
    std = torch.tensor(recipe.std, device=place.device).view(1, 3, 1, 1)

    def step() -> None:
        x = images.to(place.device).permute(0, 3, 1, 2).float().contiguous()
        target = labels.to(place.device).long()
        loss = torch.zeros((), device=place.device)
        for logits in network((x / 255 - mean) / std):
            full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
            loss = loss + F.cross_entropy(full, target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
