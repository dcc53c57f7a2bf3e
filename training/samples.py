"""From datasets to batches: the order of the samples, their augmentation and loading.

The stream is endless and random access: sample k is a pure function of recipe and k. So a resumed
run sees the same samples, whatever the number of processes and data workers. Knows nothing of
networks or losses.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Generator, Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bisenetv2_ros.files.images import raise_error
from bisenetv2_ros.opencv import resize
from bisenetv2_ros.training.datasets import Dataset, DatasetError, Sample, SceneDataset
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.transforms import Augmentation, Pixels, mix_classes

LOADER_TIMEOUT = 300  # seconds without a batch after which a data worker counts as dead

# The recipe's keys that are fields of `Augmentation`.
AUGMENTATION_KEYS = (
    *("crop", "scales", "scale_range", "flip", "jitter", "gamma", "blur", "shadow", "noise"),
)

# images (n, h, w, 3) uint8, labels (n, h, w) uint8, damaged samples skipped (n,) int64
Batch = tuple[Tensor, Tensor, Tensor]


class DataLoadingError(RuntimeError):
    """Data workers died or hang; the message has the cause if known."""


class TrainingStream(TorchDataset[Batch]):
    """The endless stream of augmented samples: sample k is a pure function of (recipe, k)."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.augment = Augmentation(
            fill=tuple(round(255 * m) for m in recipe.mean),  # type: ignore[arg-type]
            ignore_index=dataset.labels.ignore_index,
            **{key: getattr(recipe, key) for key in AUGMENTATION_KEYS},
        )

    def __getitem__(self, k: int) -> Batch:
        """Return image (h, w, 3) uint8, label (h, w) uint8, damaged samples skipped () int64.

        Raises DatasetError for a damaged sample, unless the recipe says to skip those.
        """
        rng = np.random.default_rng((self.recipe.seed, 1, k))
        image, label, damaged = self._augmented(k, rng)
        if self.recipe.class_mix and rng.random() < self.recipe.class_mix:
            other, other_label, more = self._augmented(int(rng.integers(2**31)), rng)
            image, label = mix_classes(
                image, label, other, other_label, self.augment.ignore_index, rng
            )
            damaged += more
        return torch.from_numpy(image), torch.from_numpy(label), torch.tensor(damaged)

    def _augmented(self, k: int, rng: np.random.Generator) -> tuple[Pixels, Pixels, int]:
        """Augment a rendered scene or sample k; also returns how many damaged ones were skipped."""
        damaged = 0
        if rng.random() < self.recipe.synthetic:
            sample = self.scenes[int(rng.integers(len(self.scenes)))]
        else:
            sample, damaged = self._read(k)
        return *self.augment(sample.image, sample.label, rng), damaged

    @functools.cached_property
    def scenes(self) -> SceneDataset:
        """Render a scene at the frames' size, to which the recipe's scales are relative."""
        size = self.recipe.train_size
        if size is None:
            height, width = self._read(0)[0].label.shape
            size = width, height
        return SceneDataset("train", size, self.recipe.scenes)

    def _read(self, k: int) -> tuple[Sample, int]:
        count = len(self.dataset)
        epoch, slot = divmod(k, count)
        order = epoch_order(self.recipe.seed, epoch, count)
        for damaged in range(count):
            try:
                sample = self.dataset[int(order[(slot + damaged) % count])]
            except DatasetError:
                if self.recipe.damaged == "fail":
                    raise
                continue
            size = self.recipe.train_size
            return (resize_sample(sample, size) if size else sample), damaged
        raise DatasetError(f"{self.dataset.labels.name}: every one of {count} samples is damaged")


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of a dataset's samples in an epoch."""
    return np.random.default_rng((seed, 2, epoch)).permutation(count)


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize a sample to (width, height): the frame by area or bilinear, the label by nearest."""
    shrinks = size[0] < sample.image.shape[1]
    image = resize(sample.image, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    label = cv2.resize(sample.label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return Sample(image, label, sample.name)


class BatchPlan:
    """This process's part of the samples of each micro batch, in order."""

    def __init__(self, recipe: Recipe, place: Place, first_step: int) -> None:
        self.recipe = recipe
        self.first_step = first_step
        self.per_process = recipe.batch_size // place.processes
        self.micro = recipe.micro_batch or self.per_process
        self.offset = place.rank * self.per_process

    @property
    def parts(self) -> int:
        """Micro batches per step."""
        return self.per_process // self.micro

    def __len__(self) -> int:
        return (self.recipe.iterations - self.first_step) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.recipe.iterations):
            start = step * self.recipe.batch_size + self.offset
            for part in range(start, start + self.per_process, self.micro):
                yield list(range(part, part + self.micro))


def make_batches(
    dataset: Dataset, recipe: Recipe, place: Place, first_step: int
) -> Generator[Batch, None, None]:
    """Yield this process's part of every micro batch from `first_step` on, in order.

    Iterating raises DatasetError for a damaged sample, DataLoadingError for a lost data worker.
    Must be closed, which ends the workers; they ignore all signals but SIGKILL.
    """
    workers = recipe.workers
    loader: DataLoader[Batch] = DataLoader(
        TrainingStream(dataset, recipe),
        batch_sampler=BatchPlan(recipe, place, first_step),
        num_workers=workers,
        worker_init_fn=_start_worker,
        # a forked worker shares the dataset with this process instead of receiving a copy
        multiprocessing_context="fork" if workers else None,
        pin_memory=place.device.type == "cuda",
        timeout=LOADER_TIMEOUT if workers else 0,
        prefetch_factor=4 if workers else None,
    )
    return _named_errors(iter(loader))


def normalize(image: Tensor, recipe: Recipe) -> Tensor:
    """Normalize (N, H, W, 3) uint8 RGB to (N, 3, H, W) float32 in channels-last memory."""
    mean, std = _constant(recipe.mean, image.device), _constant(recipe.std, image.device)
    # Permuting a channels-last image gives a channels-last tensor: no copy.
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@functools.lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copy to the device once, because each copy waits for all pending work of a GPU."""
    return torch.tensor(values, device=device)


def _named_errors(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    try:
        yield from batches
    except DatasetError as error:
        # a worker's error arrives with the worker's traceback before it
        raise DatasetError(str(error).rpartition("DatasetError: ")[2].strip()) from error
    except (RuntimeError, OSError, EOFError) as error:
        # DataLoader's messages for a worker that was killed or hangs
        words = " ".join(str(error).split()) or type(error).__name__
        raise DataLoadingError(f"a data worker was lost: {words}") from error


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    for number in (signal.SIGINT, signal.SIGTERM):  # the run decides when to stop
        signal.signal(number, signal.SIG_IGN)


def class_weights(
    dataset: Dataset, kind: str, on_damaged: Callable[[DatasetError], None] = raise_error
) -> Tensor | None:
    """Return the loss weight of each class (see `Recipe.class_weights`), (C,) float32.

    on_damaged: receives the error of each damaged sample, which is then left out.
    """
    if kind == "none":
        return None
    counts = np.zeros(len(dataset.labels), np.float64)
    for index in range(0, len(dataset), max(1, len(dataset) // 400)):
        try:
            label = dataset[index].label
        except DatasetError as error:
            on_damaged(error)
            continue
        counts += np.bincount(label.ravel(), minlength=256)[: len(counts)]
    weights = 1 / np.log(1.02 + counts / max(counts.sum(), 1))
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))
