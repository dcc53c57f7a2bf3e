"""The training run, from recipe to last checkpoint: READ THIS FIRST.

An optimizer step depends only on the recipe, the weights and the step number: samples,
augmentation, dropout masks and learning rate all follow from these. A run that was killed and
resumed therefore ends bit-identical, on a CPU, to one that was not, without saved generator state.
The exception is a recipe with `minutes`, whose learning rate follows the clock (`schedule.py`).

Started alone, it trains on one device; started by torchrun, on one device per process. Knows
nothing of the command line, or of how a network becomes a model file.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from bisenetv2_ros.training.checkpoint import (
    list_checkpoints,
    save_checkpoint,
    write_run_header,
)
from bisenetv2_ros.training.checks import check_classes, check_fit
from bisenetv2_ros.training.dataset_layouts import load_dataset, same_files
from bisenetv2_ros.training.datasets import check_labels
from bisenetv2_ros.training.distributed import Place, StopRequest, join_processes, leave_processes
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.outlook import out_of_memory
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.resume import (
    find_checkpoint,
    how_to_resume,
    start_again,
    start_from_weights,
)
from bisenetv2_ros.training.run_record import RunLog, Say, run_header
from bisenetv2_ros.training.samples import (
    DataLoadingError,
    class_weights,
    make_batches,
)
from bisenetv2_ros.training.schedule import Schedule
from bisenetv2_ros.training.state import TrainingError, TrainingState
from bisenetv2_ros.training.step import backward
from bisenetv2_ros.training.validation import Damaged, validate


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
    if not place.is_first:
        say = _say_nothing
    try:
        _train(recipe, data, run, resume, start, place, say)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{out_of_memory(recipe, place, error)}; {how_to_resume(run)}"
        ) from error
    except DataLoadingError as error:
        raise TrainingError(f"data loading failed: {error}; {how_to_resume(run)}") from error
    except OSError as error:
        raise TrainingError(
            f"{run}: {error.strerror or error} ({error.filename or 'while writing'}); "
            f"{how_to_resume(run)}"
        ) from error
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        if reason.startswith("DataLoader worker"):
            # raised by torch's handler of SIGCHLD, wherever the run is at that moment
            raise TrainingError(
                f"data loading failed: a data worker was lost: {reason}; {how_to_resume(run)}"
            ) from error
        if place.processes == 1 or isinstance(error, TrainingError):
            raise
        raise TrainingError(
            f"process {place.rank} of {place.processes} failed, or lost another one: {reason}; "
            f"{how_to_resume(run)}"
        ) from error
    leave_processes(place)
    saved = list_checkpoints(run)
    return saved[-1] if saved else run


def _say_nothing(_: str) -> None:
    pass


def _train(
    recipe: Recipe,
    data: Path,
    run: Path,
    resume: bool,
    start: Path | None,
    place: Place,
    say: Say,
) -> None:
    check_fit(recipe, place)
    if list_checkpoints(run) and not resume:
        raise TrainingError(f"{run} holds a run already: add --resume, or choose another folder")
    training = load_dataset(recipe.dataset, data, recipe.train_split)
    validation = load_dataset(recipe.dataset, data, recipe.val_split)
    check_classes(recipe, training)
    if same_files(training, validation):
        say(
            f"training and validation are the same {len(training)} frames: the scores say nothing "
            "of any others"
        )

    # network and training state
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
        unusable.tell("labels", say)
    if start and not found:
        header["start"] = start_from_weights(network, recipe, training, start, say)
    elif again and not found:
        header["start"] = start_again(network, recipe, training, again, run, say)
    network.to(place.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState(recipe, network, place)
    first_step = 0
    if found:
        first_step = state.restore(found)
        say(f"resuming {run} at step {first_step} of {recipe.iterations}")
    elif place.is_first:
        write_run_header(run, header)

    left_out = Damaged(recipe)
    weights = class_weights(training, recipe.class_weights, left_out.note)
    left_out.tell("class_weights", say)
    weights = weights.to(place.device) if weights is not None else None
    stepped = _parallel(network, recipe, place, say)
    batches = make_batches(training, recipe, place, first_step)
    ignore_index = training.labels.ignore_index
    schedule = Schedule(recipe, first_step, found.state if found else None)
    done = saved = first_step
    damaged = 0

    def save() -> None:
        checkpoint = state.capture(done)
        checkpoint.state |= schedule.capture()
        save_checkpoint(run, checkpoint)

    with (
        StopRequest(place.processes) as stop,
        contextlib.closing(batches),
        contextlib.ExitStack() as stack,
    ):
        log = stack.enter_context(RunLog(run, first_step, recipe, say)) if place.is_first else None
        while not schedule.over:
            step = schedule.done
            rate = recipe.learning_rate_at(step, schedule.progress)
            state.set_rate(rate)
            means, skipped = backward(
                recipe, place, stepped, state, batches, weights, step, ignore_index
            )
            damaged += skipped
            state.step(step)  # before reading the losses, so that a GPU does not wait
            losses = place.mean(means)
            if not all(math.isfinite(value) for value in losses.values()):
                shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                raise TrainingError(
                    f"loss is not finite at step {step} ({shown}; learning rate {rate:.3g}); "
                    f"lower learning_rate or lengthen warmup; {how_to_resume(run)}"
                )
            stopping = place.any(bool(stop.asked))
            schedule.advance()
            if recipe.minutes:
                schedule.progress = place.from_first(
                    schedule.progress
                )  # all ranks use the first one's clock
            done, last = schedule.done, schedule.over
            if log:
                log.step(done, losses, rate, schedule.steps_left())
                if last or _due(done, recipe.checkpoint_every):
                    save()
                    saved = done
                if not stopping and (last or _due(done, recipe.validate_every)):
                    validate(recipe, state, validation, stop, log, done, run if last else None)
            if stopping:
                break
        if log and saved < done:  # stopped
            save()
    if damaged:
        say(f"{damaged} damaged samples were passed over; `bisenetv2 check-data` names them")
    if not schedule.over:
        say(f"stopped by {stop.asked or 'another process'} after step {done}; go on with --resume")
    elif done == first_step:
        say(f"{run} is complete: {done} steps")
    elif 2 * done < recipe.iterations:
        say(
            f"{recipe.minutes:g} minutes were enough for {done} steps of {recipe.iterations}: "
            "train longer with another value of minutes, on a machine that does nothing else"
        )


def _parallel(network: nn.Module, recipe: Recipe, place: Place, say: Say) -> nn.Module:
    """Wrap the network for the recipe and the number of processes."""
    if place.processes > 1:
        if place.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            say("batch norm sees each process's own frames: torch synchronises it on CUDA alone")
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


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
