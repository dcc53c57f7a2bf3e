"""Loads the start of a run: its newest checkpoint, or other weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from bisenetv2_ros.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_newest,
    read_run_header,
    read_state,
)
from bisenetv2_ros.training.datasets import Dataset
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.run_record import Say, check_same_run
from bisenetv2_ros.training.samples import TrainingStream
from bisenetv2_ros.training.schedule import Schedule
from bisenetv2_ros.training.starting_weights import (
    STARTING_FRAMES,
    StartingWeightsError,
    start_from,
)


def is_complete(run: Path, recipe: Recipe) -> bool:
    """Return whether the newest checkpoint of a run is its last."""
    saved = list_checkpoints(run)
    try:
        state = read_state(saved[-1])
        return Schedule(recipe, state["step"], state).over
    except (IndexError, CheckpointError):
        return False  # loading reports the damage


def start_from_weights(
    network: BiSeNetV2, recipe: Recipe, training: Dataset, source: Path, say: Say
) -> dict[str, Any]:
    """Load starting weights into the network; returns where they are from, for the record."""
    stream = TrainingStream(training, recipe)
    images = torch.stack([stream[k][0] for k in range(STARTING_FRAMES)])
    start = start_from(network, recipe, training.labels, source, images)
    anew = dict.fromkeys(".".join(key.split(".")[:2]) for key in start.anew)
    say(f"starting from {source}; at random: {', '.join(anew) or 'nothing'}")
    return dataclasses.asdict(start)


def find_checkpoint(
    run: Path, header: dict[str, Any], say: Say
) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """Find the newest intact checkpoint, and what the run was started from as recorded.

    Raises:
        CheckpointError: if the folder holds another run.
    """
    found = load_newest(run, say)
    if not found:
        say(f"{run} has no checkpoint to resume from: starting at step 0")
        if not (run / "recipe.json").is_file():
            return None, None
    check_same_run(run, header)
    return found, read_run_header(run).get("start")


def start_again(
    network: BiSeNetV2,
    recipe: Recipe,
    training: Dataset,
    before: dict[str, Any],
    run: Path,
    say: Say,
) -> dict[str, Any]:
    """Load the starting weights of a run that ended before its first checkpoint once more.

    Raises:
        CheckpointError: if those weights are gone or have changed.
    """
    source = Path(before["source"])
    advice = "give --from again, or choose another output folder"
    try:
        start = start_from_weights(network, recipe, training, source, say)
    except (StartingWeightsError, CheckpointError) as error:
        raise CheckpointError(
            f"{run}: it was started from {source}, which cannot be used now ({error}); {advice}"
        ) from error
    if start["sha256"] != before["sha256"]:
        raise CheckpointError(
            f"{run}: it was started from {source} with sha256 {before['sha256'][:12]}, that file "
            f"has {start['sha256'][:12]} now; {advice}"
        )
    return start
