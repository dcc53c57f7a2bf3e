"""Explains why a run failed, and how to go on from what it saved."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from bisenetv2_ros.training.checkpoint import list_checkpoints
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.samples import BatchPlan, DataLoadingError
from bisenetv2_ros.training.state import TrainingError


@contextlib.contextmanager
def explaining_failures(recipe: Recipe, place: Place, run: Path) -> Iterator[None]:
    """Raise TrainingError with cause and advice for errors of GPU, disk, workers and processes."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _cause(error, recipe, place, run)
        if not cause:
            raise
        raise TrainingError(f"{cause}; {how_to_resume(run)}") from error


def _cause(error: OSError | RuntimeError, recipe: Recipe, place: Place, run: Path) -> str:
    """Explain an error; '' if its own message is all there is to say."""
    if isinstance(error, torch.OutOfMemoryError):
        return out_of_memory(recipe, place, error)
    if isinstance(error, OSError):
        return f"{run}: {error.strerror or error} ({error.filename or 'while writing'})"
    if isinstance(error, DataLoadingError):
        return f"data loading failed: {error}"
    line = str(error).strip().partition("\n")[0]
    if line.startswith("DataLoader worker"):
        # raised by torch's handler of SIGCHLD, wherever the run is at that moment
        return f"data loading failed: a data worker was lost: {line}"
    if place.processes == 1 or isinstance(error, TrainingError):
        return ""
    return f"process {place.rank} of {place.processes} failed, or lost another one: {line}"


def check_finite(losses: dict[str, float], step: int, rate: float, run: Path) -> None:
    """Raise TrainingError if a loss of optimizer step `step` is not finite."""
    if not all(math.isfinite(value) for value in losses.values()):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        raise TrainingError(
            f"loss is not finite at step {step} ({shown}; learning rate {rate:.3g}); "
            f"lower learning_rate or lengthen warmup; {how_to_resume(run)}"
        )


def how_to_resume(run: Path) -> str:
    """Return advice for an error message."""
    saved = list_checkpoints(run)
    if not saved:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {saved[-1]}, continue with --resume"


def out_of_memory(recipe: Recipe, place: Place, error: Exception) -> str:
    """Describe what did not fit on a GPU, and how to use less memory."""
    plan = BatchPlan(recipe, place, 0)
    smaller = [n for n in range(2, plan.micro) if plan.per_process % n == 0]
    advice = [f"micro_batch={smaller[-1]}"] if smaller else []
    if recipe.precision == "float32":
        advice.append("precision=bfloat16")
    advice.append("more GPUs")
    reason = " ".join(str(error).split()).partition(" GPU ")[0].rstrip(".")
    return (
        f"{place.device} with {plan.micro} frames of {recipe.crop[0]}x{recipe.crop[1]} at once in "
        f"{recipe.precision}: {reason}; start anew with {' or '.join(advice)}"
    )
