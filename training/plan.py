"""Completes a recipe for a run, and reports the plan before the first step.

The network's keys come from the starting weights. With `adapt: true`, sizes, batch and schedule
come from the frames and the machine. Keys given on the command line stay.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import math
import os
from pathlib import Path
from typing import Any

import torch

from bisenetv2_ros.training.checks import check_classes, check_fit
from bisenetv2_ros.training.datasets import Dataset, read_some
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.outlook import Outlook, measure
from bisenetv2_ros.training.recipe import Recipe, recipe_from_dict
from bisenetv2_ros.training.run_record import Say, duration
from bisenetv2_ros.training.starting_weights import settings_of

LOOKED_AT = 20  # frames whose size is looked at
# Pixels of the network's input. Smaller frames are enlarged, for thin things; larger ones shrunk.
FEWEST_PIXELS, MOST_PIXELS = 480 * 360, 640 * 480
MOST_ENLARGED = 2.0
SCALES = (0.75, 1.5)  # of the random resize, around the network's input
CPU_CROP = 0.75  # side of the training crop over the network's input, on a CPU
STEPS, STEPS_FRAMES = 300, 40  # steps for so many frames; for n times as many, sqrt(n) times
FEWEST_STEPS = 100
WARMUP = 0.05  # fraction of the steps
LOOKS = 10  # checkpoints and validations in a run
CPU_MINUTES = 20.0  # duration of training on a CPU


def plan(
    recipe: Recipe,
    given: set[str],
    training: Dataset,
    validation: Dataset,
    place: Place,
    start: Path | None,
    say: Say,
    done: int = 0,
) -> Recipe:
    """Complete a recipe, measure a few steps of it, and log what the run will take.

    Args:
        recipe: the recipe with the overrides of the command line.
        given: keys given on the command line, such as `model.depth`; these stay.
        training, validation: the dataset's splits.
        place: device and processes.
        start: starting weights, if any.
        say: receives each message.
        done: steps done before the run is resumed; if any, the recipe is left unchanged.

    Raises:
        TrainingError: if the recipe does not fit the data, the device or its memory.
        DatasetError, CheckpointError, ValueError: if data or weights cannot be read.
    """
    if not done:
        if start:
            recipe = _changed(recipe, given, settings_of(start), say, f"from {start}")
        if recipe.adapt:
            recipe = _changed(recipe, given, adapted(recipe, training, place))
            size = "{}x{}".format(*frame_size(training)[0])
            say(
                f"data: {len(training)} frames of {size} to train on, {len(validation)} to "
                f"validate on; classes {', '.join(training.labels.names)}"
            )
        else:
            classes = {"model": {"num_classes": len(training.labels)}}
            recipe = _changed(recipe, given, classes, say, "from the dataset")
    check_fit(recipe, place)
    check_classes(recipe, training)
    outlook = measure(recipe, training, place)
    if recipe.adapt and not done:
        by_time = place.device.type == "cpu" and place.processes == 1
        steps = recipe.iterations if "iterations" in given else wanted_steps(len(training))
        if by_time and not given & {"iterations", "minutes"}:
            recipe = dataclasses.replace(recipe, minutes=CPU_MINUTES)
        fitting = int(60 * recipe.minutes / outlook.seconds) if recipe.minutes else steps
        if fitting < steps:
            say(
                f"steps: about {fitting}, for {recipe.minutes:g} minutes on this machine; "
                f"iterations={steps} would suit {len(training)} frames better"
            )
        changes = {**schedule(max(1, min(steps, fitting))), "iterations": steps}
        recipe = _changed(recipe, given, changes)
    say(_forecast(recipe, outlook, len(validation), done))
    return recipe


def hold_out(recipe: Recipe) -> Recipe:
    """Return a recipe that validates on the last fifth of the training frames.

    In the order of their names, because neighbors of one recording are nearly the same frame.
    """
    return dataclasses.replace(recipe, train_split="train:..80%", val_split="train:80%..")


def _changed(
    recipe: Recipe, given: set[str], changes: dict[str, Any], say: Say | None = None, why: str = ""
) -> Recipe:
    """Change keys of a recipe that are not given on the command line; logs the changes."""
    values = recipe.to_dict()
    model = changes.get("model", {})
    flat = [(values, key, key, value) for key, value in changes.items() if key != "model"]
    flat += [(values["model"], key, f"model.{key}", value) for key, value in model.items()]
    changed = []
    for target, key, name, value in flat:
        if name not in given and target[key] != value:
            changed.append(f"{name} = {value} (recipe: {target[key]})")
            target[key] = value
    if changed and say:
        say(f"{why}: {', '.join(changed)}")
    return recipe_from_dict(values, recipe.name)


def _forecast(recipe: Recipe, outlook: Outlook, validation: int, done: int) -> str:
    """Describe steps, time, memory, and the expected end in one line."""
    left = recipe.iterations - done
    # A forward pass is about a third of a step; a frame is validated at the network's size.
    frame = outlook.seconds / recipe.batch_size / 3
    frame *= math.prod(recipe.input_size) / math.prod(recipe.crop)
    looks = left // recipe.validate_every if recipe.validate_every else 1
    seconds = left * outlook.seconds + looks * validation * frame
    if recipe.minutes and seconds > 60 * recipe.minutes:
        left = int(left * 60 * recipe.minutes / seconds)
        seconds = 60 * recipe.minutes
    end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    return (
        f"{left} steps of {outlook.seconds:.2f} s (measured), {outlook.memory / 1e9:.1f} GB of "
        f"{outlook.free / 1e9:.1f} GB free memory; done in about {duration(seconds)}, "
        f"{end:%a %H:%M}"
    )


def adapted(recipe: Recipe, training: Dataset, place: Place) -> dict[str, Any]:
    """Return the keys that follow from frames and machine, without the schedule.

    Raises:
        DatasetError: if no frame can be read.
    """
    on_gpu = place.device.type == "cuda"
    frame, same_size = frame_size(training)
    input_size = network_size(frame)
    # Scales are relative to the frame if all have one size; otherwise frames are first resized to
    # the network's size.
    factor = math.sqrt(math.prod(input_size) / math.prod(frame)) if same_size else 1.0
    side = 1.0 if on_gpu else CPU_CROP
    has_precision = not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "model": {"num_classes": len(training.labels)},
        "input_size": input_size,
        "train_size": None if same_size else input_size,
        "scales": tuple(round(factor * scale, 3) for scale in SCALES),
        "crop": tuple(max(32, 8 * round(side * pixels / 8)) for pixels in input_size),
        "batch_size": (16 if on_gpu else 8) * place.processes,
        "workers": min(8, max(1, (os.cpu_count() or 2) // 2 // place.processes)),
        "precision": recipe.precision if has_precision else "float16",
    }


def schedule(steps: int) -> dict[str, int]:
    """Return the keys that follow from the number of steps: warm-up, validations, checkpoints."""
    every = max(1, steps // LOOKS)
    return {
        "iterations": steps,
        "warmup": round(WARMUP * steps),
        "validate_every": every,
        "checkpoint_every": every,
    }


def wanted_steps(frames: int) -> int:
    """Return the optimizer steps for a number of training frames, ignoring time."""
    return max(FEWEST_STEPS, round(STEPS * math.sqrt(frames / STEPS_FRAMES)))


def frame_size(dataset: Dataset) -> tuple[tuple[int, int], bool]:
    """Return the most common (width, height) of some frames, and whether all of them have it.

    Raises:
        DatasetError: if none of them can be read.
    """
    shapes = (sample.label.shape for sample in read_some(dataset, LOOKED_AT))
    sizes = collections.Counter((width, height) for height, width in shapes)
    return sizes.most_common(1)[0][0], len(sizes) == 1


def network_size(frame: tuple[int, int]) -> tuple[int, int]:
    """Return the network's (width, height) for frames of a size: its shape, multiples of 8."""
    pixels = math.prod(frame)
    factor = min(math.sqrt(min(MOST_PIXELS, max(pixels, FEWEST_PIXELS)) / pixels), MOST_ENLARGED)
    width, height = (max(32, 8 * round(factor * side / 8)) for side in frame)
    return width, height
