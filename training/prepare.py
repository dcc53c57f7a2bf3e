"""Prepares a run up to its first step: splits, checks, network, starting weights or checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bisenetv2_ros.training.checkpoint import list_checkpoints, write_run_header
from bisenetv2_ros.training.checks import check_classes, check_fit
from bisenetv2_ros.training.dataset_layouts import load_splits, same_files
from bisenetv2_ros.training.datasets import Dataset, check_labels
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.resume import find_checkpoint, start_again, start_from_weights
from bisenetv2_ros.training.run_record import Say, run_header
from bisenetv2_ros.training.samples import class_weights
from bisenetv2_ros.training.state import TrainingError, TrainingState
from bisenetv2_ros.training.validation import Damaged


class Prepared(NamedTuple):
    """A run before its next step. `network` is the state's, wrapped for precision and processes."""

    training: Dataset
    validation: Dataset
    state: TrainingState
    network: nn.Module
    weights: Tensor | None  #: loss weight of each class, (C,) float32


def prepare(
    recipe: Recipe,
    data: Path,
    run: Path,
    resume: bool,
    start: Path | None,
    place: Place,
    say: Say,
) -> Prepared:
    """Open the data, build the network and load what the run continues or starts from.

    Arguments and errors are those of `loop.train`.
    """
    check_fit(recipe, place)
    if list_checkpoints(run) and not resume:
        raise TrainingError(f"{run} holds a run already: add --resume, or choose another folder")
    training, validation = load_splits(recipe, data)
    check_classes(recipe, training)
    if same_files(training, validation):
        say(
            f"training and validation are the same {len(training)} frames: the scores say nothing "
            "about other frames"
        )

    torch.manual_seed(recipe.seed)
    network = BiSeNetV2(recipe.model)
    header = {**run_header(recipe, training, place), "data_folder": str(data.resolve())}
    shared = f", {place.processes} processes" if place.processes > 1 else ""
    say(f"device: {header['device']}{shared}")
    found, again = find_checkpoint(run, header, say) if resume and place.is_first else (None, None)
    found, again = place.from_first((found, again))
    if place.is_first:  # so that a bad label does not end the run hours later
        unusable = Damaged(recipe)
        for split in (training, validation):
            check_labels(split, unusable.note)
        unusable.report("labels", say)
    if start and not found:
        header["start"] = start_from_weights(network, recipe, training, start, say)
    elif again and not found:
        header["start"] = start_again(network, recipe, training, again, run, say)
    network.to(place.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState(recipe, network, place)
    if found:
        state.restore(found)
        say(f"resuming {run} at step {found.step} of {recipe.iterations}")
    elif place.is_first:
        write_run_header(run, header)

    left_out = Damaged(recipe)
    weights = class_weights(training, recipe.class_weights, left_out.note)
    left_out.report("class_weights", say)
    weights = weights.to(place.device) if weights is not None else None
    return Prepared(training, validation, state, _wrapped(network, recipe, place, say), weights)


def _wrapped(network: nn.Module, recipe: Recipe, place: Place, say: Say) -> nn.Module:
    """Wrap the network for the recipe and the number of processes."""
    if place.processes > 1:
        if place.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            say("batch norm per process: torch synchronizes batch norm only on CUDA")
    if recipe.compile:
        network.compile()
    if place.processes > 1:
        on_gpu = place.device.type == "cuda"
        network = nn.parallel.DistributedDataParallel(
            network,
            device_ids=[place.device] if on_gpu else None,
            broadcast_buffers=not on_gpu,  # synchronized statistics are equal already
        )
    return network
