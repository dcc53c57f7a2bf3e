"""Data sets as lists of (frame, label) pairs: where they lie, and what their label values mean.

A data set is a `LabelSet`, a list of file pairs and a way to turn label files into class indices.
It knows nothing of augmentation, tensors or training. `dataset_layouts.py` opens one by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import ImageFileError, read_image, read_label_map
from bisenetv2_ros.labels import CAMVID, LabelSet
from bisenetv2_ros.street.scene import StreetScene

Pixels = NDArray[np.uint8]


class DatasetError(ValueError):
    """A data set or one of its files that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Sample:
    """image (H, W, 3) uint8 RGB; label (H, W) uint8 class index or ignore; name for messages."""

    image: Pixels
    label: Pixels
    name: str


class Dataset(Protocol):
    """Samples by index, and what their labels mean."""

    labels: LabelSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


Decode = Callable[[Path], Pixels]


class FileDataset:
    """Frames and label maps in files, read when asked for.

    Attributes:
        labels: what the decoded values mean.
        pairs: frame and label file of each sample; whether they exist is seen on reading.
        decode: label file to (H, W) uint8 class indices.
        list_labels: lists every label file of the split, to find those without a frame; None if a
            folder holds the labels of other splits too.
    """

    def __init__(
        self,
        labels: LabelSet,
        pairs: list[tuple[Path, Path]],
        decode: Decode,
        list_labels: Callable[[], list[Path]] | None = None,
    ) -> None:
        self.labels = labels
        self.pairs = pairs
        self.decode = decode
        self.list_labels = list_labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair; DatasetError where it is damaged, of two sizes, or out of range."""
        image_path, label_path = self.pairs[index]
        try:
            image = read_image(image_path)
        except ImageFileError as error:
            raise DatasetError(str(error)) from error
        label = self.decode(label_path)
        if image.shape[:2] != label.shape[:2]:
            raise DatasetError(
                f"{label_path}: label is {label.shape[1]}x{label.shape[0]}, expected the frame's "
                f"{image.shape[1]}x{image.shape[0]} ({image_path})"
            )
        wrong = (label >= len(self.labels)) & (label != self.labels.ignore_index)
        if wrong.any():
            raise DatasetError(
                f"{label_path}: label value {int(label[wrong][0])}, expected 0.."
                f"{len(self.labels) - 1} or {self.labels.ignore_index}"
            )
        return Sample(image, label, image_path.stem)

    def lone_labels(self) -> list[Path]:
        """List the label files that belong to no frame."""
        paired = {label for _, label in self.pairs}
        every = self.list_labels() if self.list_labels else []
        return [path for path in every if path not in paired]


SCENE_SPLITS = {"train": (512, 100_000), "val": (50, 900_000), "test": (50, 950_000)}


class SceneDataset:
    """Rendered street scenes with exact labels; each sample is a moment in a street of its own.

    The splits share no street. What was rendered is kept: it takes longer than all else.

    Args:
        split: `train`, `val` or `test`.
        size: (width, height) of the scenes in pixels.
        count: how many scenes; by default 512 to train with, 50 to score on.
    """

    def __init__(
        self, split: str, size: tuple[int, int] = (480, 360), count: int | None = None
    ) -> None:
        if split not in SCENE_SPLITS:
            raise DatasetError(f"split {split!r}, expected one of {', '.join(SCENE_SPLITS)}")
        self.labels = CAMVID
        standard, self.first_seed = SCENE_SPLITS[split]
        self.count = standard if count is None else count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return _render_scene(self.first_seed + index, self.size)


@functools.cache
def _render_scene(seed: int, size: tuple[int, int]) -> Sample:
    moment = float(np.random.default_rng(seed).uniform(0, 60))
    image, label = StreetScene(seed, size).render(moment)
    return Sample(image, label, f"scene{seed}")


def find_faults(dataset: Dataset, pixels: NDArray[np.int64] | None = None) -> Iterator[str | None]:
    """Read every sample, yielding for each what is wrong with it, or None; then the lone labels.

    pixels: (256,), to which the number of pixels of each label value is added.
    """
    for index in range(len(dataset)):
        try:
            label = dataset[index].label
        except DatasetError as error:
            yield str(error)
            continue
        if pixels is not None:
            pixels += np.bincount(label.ravel(), minlength=256)
        yield None
    if isinstance(dataset, FileDataset):
        for path in dataset.lone_labels():
            yield f"{path}: a label without a frame"


def read_label(path: Path, colours: bool = False) -> NDArray[Any]:
    """Read a label map as `files.images.read_label_map` does; DatasetError if it cannot be used."""
    try:
        return read_label_map(path, colours)
    except ImageFileError as error:
        raise DatasetError(str(error)) from error
