"""The training run, from sample to loss to last checkpoint: READ THIS FIRST.

An optimizer step depends only on the recipe, the weights and the step number: samples,
augmentation, dropout masks and learning rate all follow from these. A run that was killed and
resumed therefore ends bit-identical, on a CPU, to one that was not, without saved generator state.
The exception is a recipe with `minutes`, whose learning rate follows the clock (`schedule.py`).

Started alone, it trains on one device; started by torchrun, on one device per process. Knows
nothing of the command line, or of how a network becomes a model file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bisenetv2_ros.training.checkpoint import list_checkpoints, save_checkpoint
from bisenetv2_ros.training.distributed import Place, StopRequest, join_processes, leave_processes
from bisenetv2_ros.training.failures import check_finite, explaining_failures
from bisenetv2_ros.training.loss import segmentation_loss
from bisenetv2_ros.training.prepare import Prepared, prepare
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.run_record import RunLog, Say
from bisenetv2_ros.training.samples import Batch, BatchPlan, make_batches, normalize
from bisenetv2_ros.training.state import TrainingState
from bisenetv2_ros.training.validation import validate


def train(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    start: Path | None = None,
    device: str = "",
    say: Say = tqdm.write,
) -> Path:
    """Train by a recipe and leave checkpoints, logs, a report and the last weights in `run`.

    Args:
        recipe: the settings of the run.
        data: folder of the dataset.
        run: folder of the run; must be new or empty unless `resume`.
        resume: continue from the newest intact checkpoint. Without one, start at step 0 from the
            weights that the run in the folder was started from.
        start: weights to start from, a run or a float32 model file (`starting_weights.py`); ignored
            if there is a checkpoint to resume from.
        device: `cpu`, `cuda`, `cuda:1`; empty picks CUDA if present.
        say: receives each line meant for a person.

    Returns:
        The newest checkpoint folder; after SIGTERM or SIGINT, of the step it stopped at. On a host
        without the first process's disk, `run`.

    Raises:
        TrainingError: if a loss is not finite, a GPU runs out of memory, a disk is full, a data
            worker or another process dies, or the run folder is in use. Checkpoints stay.
        DatasetError, CheckpointError, ValueError: if the input does not fit; names file or key.
    """
    place = join_processes(device)
    say = say if place.is_first else lambda _: None
    with explaining_failures(recipe, place, run):
        ready = prepare(recipe, data, run, resume, start, place, say)
        _take_steps(recipe, ready, run, place, say)
    leave_processes(place)
    saved = list_checkpoints(run)
    return saved[-1] if saved else run


def _take_steps(recipe: Recipe, ready: Prepared, run: Path, place: Place, say: Say) -> None:
    training, state, schedule = ready.training, ready.state, ready.state.schedule
    network, weights, ignore_index = ready.network, ready.weights, training.labels.ignore_index
    first_step = saved = schedule.done
    damaged, stopping = 0, False
    with (
        StopRequest(place.processes) as stop,
        contextlib.closing(make_batches(training, recipe, place, first_step)) as batches,
        contextlib.ExitStack() as stack,
    ):
        log = stack.enter_context(RunLog(run, first_step, recipe, say)) if place.is_first else None
        while not (schedule.over or stopping):
            step = schedule.done
            rate = recipe.learning_rate_at(step, schedule.progress)
            state.set_rate(rate)
            means, skipped = backward(
                recipe, place, network, state, batches, weights, step, ignore_index
            )
            damaged += skipped
            state.step(step)  # before reading the losses, so that a GPU does not wait
            losses = place.mean(means)
            check_finite(losses, step, rate, run)
            stopping = place.any(bool(stop.asked))
            schedule.advance()
            if recipe.minutes:  # all ranks use the first one's clock
                schedule.progress = place.from_first(schedule.progress)
            done, last = schedule.done, schedule.over
            if log:
                log.step(done, losses, rate, schedule.steps_left())
                if last or _due(done, recipe.checkpoint_every):
                    save_checkpoint(run, state.capture())
                    saved = done
                if not stopping and (last or _due(done, recipe.validate_every)):
                    report = run if last else None
                    validate(recipe, state, ready.validation, stop, log, done, report)
        if log and saved < schedule.done:  # stopped
            save_checkpoint(run, state.capture())
    if damaged:
        say(f"{damaged} damaged samples were skipped; `bisenetv2 check-data` names them")
    done = schedule.done
    if not schedule.over:
        by = stop.asked or "another process"
        say(f"stopped by {by} after step {done}; continue with --resume")
    elif done == first_step:
        say(f"{run} is complete: {done} steps")
    elif 2 * done < recipe.iterations:
        say(
            f"{recipe.minutes:g} minutes were enough for {done} steps of {recipe.iterations}: "
            "train longer with another value of minutes, on a machine that does nothing else"
        )


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


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
        state: has the precision and the loss scale.
        batches: the process's micro batches, positioned at `step`.
        weights: loss weight of each class, (C,) float32.
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
            with state.autocast():
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
