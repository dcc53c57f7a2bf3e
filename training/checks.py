"""Checks that recipe, dataset and device fit, before the first step."""

from __future__ import annotations

import torch

from bisenetv2_ros.training.datasets import Dataset
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.state import TrainingError


def check_fit(recipe: Recipe, place: Place) -> None:
    """Raise TrainingError if the recipe cannot run on this device or number of processes."""
    per_process, rest = divmod(recipe.batch_size, place.processes)
    if rest:
        raise TrainingError(
            f"batch_size is {recipe.batch_size}, expected a multiple of {place.processes} processes"
        )
    micro = recipe.micro_batch or per_process
    if per_process % micro:
        raise TrainingError(
            f"micro_batch is {micro}, expected a divisor of the {per_process} frames a process has"
        )
    synchronised = place.processes > 1 and place.device.type == "cuda"
    if micro == 1 and recipe.model.branches != "detail" and not synchronised:
        raise TrainingError(
            "one frame at once on a device, expected 2 or more: the context embedding normalizes "
            "one value a frame over the batch"
        )
    if recipe.precision == "float16" and place.device.type != "cuda":
        raise TrainingError(
            f"precision is float16 on {place.device}, expected bfloat16 or float32 without CUDA"
        )
    if (
        recipe.precision == "bfloat16"
        and place.device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise TrainingError(
            f"precision is bfloat16 on {torch.cuda.get_device_name(place.device)}, which only "
            "emulates it, expected float16 or float32"
        )


def check_classes(recipe: Recipe, training: Dataset) -> None:
    """Raise TrainingError if the recipe's classes are not those of the dataset."""
    labels, faults = training.labels, []
    if recipe.model.num_classes != len(labels):
        received, expected = recipe.model.num_classes, f"{len(labels)} for {labels.name}"
        faults.append(f"model.num_classes is {received}, expected {expected}")
    if recipe.synthetic and labels.name != "camvid11":
        faults.append(
            f"synthetic is {recipe.synthetic}, expected 0 for {labels.name}: the rendered "
            "scenes have CamVid's classes"
        )
    if faults:
        raise TrainingError("; ".join(faults))
