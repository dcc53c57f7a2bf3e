"""Datasets as lists of (frame, label) pairs, with the meaning of label values.

A dataset is a `LabelSet`, a list of file pairs and a function from label files to class indices.
Knows nothing of augmentation, tensors or training. `dataset_layouts.py` opens one by name.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bisenetv2_ros.files.encoded import decode
from bisenetv2_ros.files.images import ImageFileError, read_image, read_label_map
from bisenetv2_ros.labels import CAMVID, LabelSet
from bisenetv2_ros.street.scene import StreetScene

Pixels = NDArray[np.uint8]


class DatasetError(ValueError):
    """A dataset or one of its files cannot be used; the message names the file."""


@dataclass(frozen=True)
class Sample:
    """image (H, W, 3) uint8 RGB; label (H, W) uint8 class index or ignore; name for messages."""

    image: Pixels
    label: Pixels
    name: str


class Dataset(Protocol):
    """Samples by index, and the meaning of their labels."""

    labels: LabelSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


Decode = Callable[[Path], Pixels]


@dataclass(eq=False)
class FileDataset:
    """Frames and label maps in files, read on access."""

    labels: LabelSet  #: meaning of the decoded values
    #: frame and label file of each sample; reading reports missing files
    pairs: list[tuple[Path, Path]]
    decode: Decode  #: label file to (H, W) uint8 class indices
    #: lists every label file of the split, to find those without a frame; None if a folder holds
    #: the labels of other splits too
    list_labels: Callable[[], list[Path]] | None = None
    values: list[list[int]] | None = None  #: label values of each class, if label files hold values
    absent: Collection[str] = ()  #: names of classes that no label of the dataset has

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read a pair. Raises DatasetError if it is damaged or does not fit together."""
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
                f"{_if_turned(image_path, label.shape)}"
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


class Part:
    """At most `count` samples of a dataset, spread evenly over it."""

    def __init__(self, whole: Dataset, count: int) -> None:
        self.whole, self.count = whole, min(count, len(whole))
        self.labels = whole.labels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.whole[index * len(self.whole) // self.count]


def read_some(dataset: Dataset, count: int) -> list[Sample]:
    """Read at most `count` samples, spread evenly; skips damaged ones.

    Raises DatasetError if none can be read.
    """
    part = Part(dataset, count)
    samples = []
    problem = DatasetError(f"{dataset.labels.name}: no frames")
    for index in range(len(part)):
        try:
            samples.append(part[index])
        except DatasetError as error:
            problem = error
    if not samples:
        raise problem
    return samples


SCENE_SPLITS = {"train": (512, 100_000), "val": (50, 900_000), "test": (50, 950_000)}


class SceneDataset:
    """Synthetic street scenes with exact labels; each sample is a moment in its own street.

    The splits share no street. Rendered scenes are cached, because rendering takes longest.

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


def check_labels(dataset: Dataset, on_damaged: Callable[[DatasetError], None]) -> None:
    """Read every label of a dataset on threads, so that a bad one does not end a run hours later.

    on_damaged: receives the error of each label that cannot be used.
    """
    if not isinstance(dataset, FileDataset):
        return

    def check(pair: tuple[Path, Path]) -> DatasetError | None:
        try:
            if not pair[0].is_file():
                raise DatasetError(f"{pair[0]}: no such frame")
            dataset.decode(pair[1])
        except DatasetError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        for error in pool.map(check, dataset.pairs):
            if error:
                on_damaged(error)


def _if_turned(frame: Path, label_shape: tuple[int, ...]) -> str:
    """Return the cause if EXIF's orientation makes a label differ in size from its frame, or ''."""
    pixels, header = decode(frame.read_bytes())
    if header.orientation == 1 or pixels.shape[:2] != label_shape:
        return ""
    return f"; EXIF turns the frame (orientation {header.orientation}), and the label is not turned"


def white_of(values: list[list[int]]) -> int | None:
    """Return the label value of white in a 1-bit mask: the only class value that is not 0.

    Returns None if there are several.
    """
    others = [value for of_class in values for value in of_class if value]
    return others[0] if len(others) == 1 else None


def read_label(path: Path, colours: bool = False, white: int | None = None) -> NDArray[Any]:
    """Read a label map by `files.images.read_label_map`. Raises DatasetError if it fails."""
    try:
        return read_label_map(path, colours, white)
    except ImageFileError as error:
        raise DatasetError(str(error)) from error


def pack_rgb(rgb: ArrayLike) -> NDArray[np.int64]:
    """Pack colors (..., 3) of 8 bits per channel into one integer each, 0xRRGGBB."""
    red, green, blue = np.moveaxis(np.asarray(rgb, np.int64), -1, 0)
    return np.asarray((red << 16) | (green << 8) | blue)


def list_files(root: Path, suffixes: Collection[str] = ()) -> list[Path]:
    """List the files below a folder, or the one file `root`, sorted; skips hidden ones.

    suffixes: those to list, in lower case; empty lists all.
    """
    return sorted(
        path
        for path in ([root] if root.is_file() else root.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and (path == root or not suffixes or path.suffix.lower() in suffixes)
    )


def composed(name: str) -> str:
    """Return a name with accents as single characters; macOS stores them as two."""
    return unicodedata.normalize("NFC", name)
