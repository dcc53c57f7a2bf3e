"""Predicts the time and memory of a run by measuring steps before its first one.

The measured steps are real ones, with another network than the run's. They leave nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from dataclasses import dataclass

import torch

from bisenetv2_ros.system.memory import available_memory
from bisenetv2_ros.system.process_usage import resident_memory
from bisenetv2_ros.training.datasets import Dataset
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.failures import out_of_memory
from bisenetv2_ros.training.loop import backward
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.samples import BatchPlan, make_batches
from bisenetv2_ros.training.state import TrainingError, TrainingState

MEASURED_STEPS = 3
PROBE_FRAMES = 2  # the fewest that a batch norm takes
SAMPLING = 0.005  # seconds between samples of the memory in use


@dataclass(frozen=True)
class Outlook:
    """The measured cost of a run."""

    seconds: float  #: per step
    memory: int  #: bytes that it takes at most
    free: int  #: bytes that were available for it


def measure(recipe: Recipe, training: Dataset, place: Place) -> Outlook:
    """Take a few steps of a recipe on this process's device.

    Starts with a batch that fits nearly everywhere, and tries the recipe's own only if the first
    one shows that it will fit.

    Raises:
        TrainingError: if it does not fit into memory; says how many frames would.
        DatasetError, DataLoadingError: if a sample cannot be read.
    """
    free = _free(place)
    micro = BatchPlan(recipe, place, 0).micro
    with _PeakMemory(place) as peak:
        network = BiSeNetV2(recipe.model).to(place.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        state = TrainingState(recipe, network, place)
        try:
            if micro > PROBE_FRAMES:
                _steps(_small(recipe, place), training, place, state, 1)
                expected = peak.bytes * micro // PROBE_FRAMES
                if expected > free:
                    raise TrainingError(_too_large(recipe, place, expected, free))
            seconds = _steps(recipe, training, place, state, MEASURED_STEPS)
        except torch.OutOfMemoryError as error:
            raise TrainingError(out_of_memory(recipe, place, error)) from error
    return Outlook(seconds, peak.bytes, free)


def _small(recipe: Recipe, place: Place) -> Recipe:
    return dataclasses.replace(
        recipe, batch_size=PROBE_FRAMES * place.processes, micro_batch=0, workers=0, compile=False
    )


def _steps(
    recipe: Recipe, training: Dataset, place: Place, state: TrainingState, count: int
) -> float:
    """Take `count` steps after a first one; returns the mean seconds of each."""
    short = dataclasses.replace(recipe, iterations=count + 1, warmup=0, compile=False)
    state.set_rate(0.0)
    with contextlib.closing(make_batches(training, short, place, 0)) as batches:
        start = 0.0
        for step in range(count + 1):
            if step == 1:
                _wait(place)
                start = time.monotonic()
            backward(short, place, state.network, state, batches, None, step)
            state.step(step)
        _wait(place)
    return (time.monotonic() - start) / count


def _wait(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)


def _free(place: Place) -> int:
    if place.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place.device)
        return free
    return available_memory() // place.processes


def _too_large(recipe: Recipe, place: Place, expected: int, free: int) -> str:
    plan = BatchPlan(recipe, place, 0)
    fitting = [
        n
        for n in range(PROBE_FRAMES, plan.micro)
        if plan.per_process % n == 0 and expected * n <= free * plan.micro
    ]
    advice = f"micro_batch={fitting[-1]}" if fitting else "a smaller crop"
    return (
        f"{plan.micro} frames of {recipe.crop[0]}x{recipe.crop[1]} at once take about "
        f"{expected / 1e9:.1f} GB on {place.device}, {free / 1e9:.1f} GB are free: expected less, "
        f"such as {advice}"
    )


class _PeakMemory:
    """Measures the peak memory since it was entered, on a CPU by sampling."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._most = 0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    @property
    def bytes(self) -> int:
        """The most so far."""
        if self._place.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._place.device)
        return max(self._most, resident_memory()) - self._before

    def __enter__(self) -> _PeakMemory:
        if self._place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._place.device)
        self._before = self._most = resident_memory()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLING):
            self._most = max(self._most, resident_memory())
