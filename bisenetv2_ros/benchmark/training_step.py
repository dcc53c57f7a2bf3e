"""The speed-up of a training step over a straightforward implementation, measured in one run.

The baseline: float32, channels first, the logits of the head and of every booster enlarged to the
label's full size, default memory allocation. Both take complete steps (forward, losses, backward,
SGD) of the same network on the same frames, in separate processes and in turns, so that other load
on the machine affects both.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bisenetv2_ros.benchmark.worker import worker
from bisenetv2_ros.system.malloc import keep_freed_tensors
from bisenetv2_ros.training.distributed import Place, join_processes
from bisenetv2_ros.training.loop import backward
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe, load_recipe
from bisenetv2_ros.training.state import TrainingState, parameter_groups

WARM_UP = 2  # steps before timing starts: memory is allocated, kernels are chosen


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure for `bisenetv2 benchmark --training`.

    Args:
        args: `config`, the name or path of a recipe; `overrides` of it; `device`, '' for CUDA if
            present; `threads` of a CPU, 0 for torch's choice; `rounds`, timed steps of each kind.

    Returns:
        JSON values: recipe, device, batch size, crop, images per second of both, their ratio.

    Raises:
        ValueError: if the recipe, an override or the device is unknown.
    """
    recipe = load_recipe(args.config, args.overrides)
    if args.threads:
        torch.set_num_threads(args.threads)
    place = join_processes(args.device)
    threads = torch.get_num_threads()
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    with contextlib.ExitStack() as stack:
        timers = {
            kind: stack.enter_context(worker(kind, _Timer, kind, recipe, args.device, threads))
            for kind in seconds
        }
        for timer in timers.values():
            timer.answer()
        for _ in range(WARM_UP + args.rounds):
            for kind, timer in timers.items():
                seconds[kind].append(timer.ask("step"))
    speed = {kind: recipe.batch_size / median(t[WARM_UP:]) for kind, t in seconds.items()}
    on_gpu = place.device.type == "cuda"
    return {
        "recipe": recipe.name,
        "device": torch.cuda.get_device_name(place.device) if on_gpu else f"CPU, {threads} threads",
        "precision": recipe.precision,
        "batch_size": recipe.batch_size,
        "crop": list(recipe.crop),
        "rounds": args.rounds,
        "images_per_second": speed["ours"],
        "plain_images_per_second": speed["plain"],
        "ratio": speed["ours"] / speed["plain"],
    }


class _Timer:
    """Training steps of one kind, in their process."""

    def __init__(self, kind: str, recipe: Recipe, device: str, threads: int) -> None:
        if kind == "ours":
            keep_freed_tensors()
        torch.set_num_threads(threads)
        self._device = (place := join_processes(device)).device
        torch.manual_seed(recipe.seed)
        width, height = recipe.crop
        shape = (recipe.batch_size, height, width)
        images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
        labels = torch.randint(0, recipe.model.num_classes, shape, dtype=torch.uint8)
        self._step = (_our_step if kind == "ours" else _plain_step)(recipe, place, images, labels)

    def step(self) -> float:
        """The seconds of one step."""
        begin = time.perf_counter()
        self._step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - begin


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
