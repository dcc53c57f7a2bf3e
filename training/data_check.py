"""Finds faults of single frames of a dataset (size, depth, EXIF), beyond unreadable files.

Each split is read once. What many frames show together (numbering, pairing, color order,
overlapping splits) is judged at the end, from the thumbnails kept here (`split_check.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.encoded import ImageError, decode, upright
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.opencv import resize
from bisenetv2_ros.training.datasets import (
    Dataset,
    DatasetError,
    FileDataset,
    Sample,
    read_label,
    white_of,
)

SMALL = (32, 24)  # size of thumbnails, pixels
TINY = (16, 12)  # for similarity only
BLOCK, MAX_THUMBS = 50, 1500  # large sets keep thumbnails of this many frames in a row
MIN_FLATNESS = 1.0  # standard deviation below which a thumbnail is blank
MIN_PIXELS = 50  # labeled pixels of a thumbnail below which its fit is not used
MIN_FIT = 0.05  # of the variance of the colors; below, labels do not explain the image
# Measured on CamVid as it is: 2 % of the comparisons lost, no two frames beaten by STRONG.
MARGIN = 1.02  # by which one fit must be better than another to count


class Thumb(NamedTuple):
    """A shrunk frame, (24, 32, 3) RGB, and its label, (24, 32) class indices, 255 = ignored."""

    path: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


@dataclass
class SplitFacts:
    """Statistics of a split."""

    name: str
    labels: LabelSet
    #: (256,) number of pixels by class index
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    #: number of pixels by value in the label files; empty if they hold colors
    values: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  #: frames by (width, height)
    paths: list[str] = field(default_factory=list)  #: file of each frame
    tiny: list[NDArray[np.uint8]] = field(default_factory=list)  #: each frame, (12, 16, 3) RGB
    thumbs: list[Thumb] = field(default_factory=list)  #: of some frames
    digests: dict[str, list[str]] = field(default_factory=dict)  #: frames by hash of their pixels
    samples: list[Sample] = field(default_factory=list)  #: for the contact sheet
    notes: list[str] = field(default_factory=list)  #: suspicious, but no fault

    def absent(self) -> list[str]:
        """List the classes without a pixel."""
        return [n for n, pixels in zip(self.labels.names, self.pixels, strict=False) if not pixels]

    def fractions(self) -> NDArray[np.float64]:
        """Return the fraction of each class in the labeled pixels, (C,)."""
        counts = self.pixels[: len(self.labels)]
        return counts / max(1, counts.sum())


def find_faults(
    dataset: Dataset, facts: SplitFacts | None = None, samples: int = 0
) -> Iterator[str | None]:
    """Read every sample, yielding its fault or None for each; then labels without a frame.

    Args:
        dataset: the split.
        facts: receives the statistics.
        samples: number of samples, spread over the split, to keep for a contact sheet.
    """
    facts = facts or SplitFacts("", dataset.labels)
    wanted = {i * len(dataset) // samples for i in range(samples)} if samples else set()
    used: dict[Path, Path] = {}
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
            fault = _look_at(dataset, index, sample, facts, used)
        except DatasetError as error:
            yield str(error)
            continue
        if index in wanted:
            facts.samples.append(sample)
        yield fault
    if isinstance(dataset, FileDataset):
        for path in dataset.lone_labels():
            yield f"{path}: a label without a frame"


def _look_at(
    dataset: Dataset, index: int, sample: Sample, facts: SplitFacts, used: dict[Path, Path]
) -> str | None:
    facts.pixels += np.bincount(sample.label.ravel(), minlength=256)
    height, width = sample.label.shape
    facts.sizes[width, height] += 1
    path = str(dataset.pairs[index][0]) if isinstance(dataset, FileDataset) else sample.name
    tiny = resize(sample.image, TINY, cv2.INTER_AREA)
    facts.paths.append(path)
    facts.tiny.append(tiny)
    if index // BLOCK % max(1, len(dataset) // MAX_THUMBS) == 0:
        label = _thumb_label(sample.label, dataset.labels.ignore_index)
        facts.thumbs.append(Thumb(path, _thumb(sample.image), label))
    if not isinstance(dataset, FileDataset):
        return None
    frame, label_path = dataset.pairs[index]
    data = frame.read_bytes()
    if shows_something(tiny):
        pixels = sample.image.tobytes()  # a rewritten file has other bytes
        facts.digests.setdefault(hashlib.sha256(pixels).hexdigest(), []).append(str(frame))
    if dataset.values is not None:
        values, counts = np.unique(
            read_label(label_path, white=white_of(dataset.values)), return_counts=True
        )
        facts.values.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    if label_path in used:
        return f"{label_path}: the label of two frames, {used[label_path]} and {frame}"
    used[label_path] = frame
    return _frame_fault(frame, data, sample, dataset.labels.ignore_index)


def _frame_fault(frame: Path, data: bytes, sample: Sample, ignore: int) -> str | None:
    """Describe what training reads differently from what the file contains."""
    try:
        pixels, header = decode(data)
    except ImageError as error:
        raise DatasetError(f"{frame}: {error}") from error
    if pixels.dtype != np.uint8:
        return (
            f"{frame}: {8 * pixels.itemsize} bits a channel, training sees 8: its largest value "
            f"{int(pixels.max())} becomes {int(sample.image.max())} of 255, expected 8 bits"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
        return f"{frame}: has transparent pixels, of which training sees the color, expected RGB"
    if header.orientation != 1:
        stored = pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        if stored.shape[:2] == sample.label.shape:
            label = _thumb_label(sample.label, ignore)
            turned = fit(_thumb(upright(stored, header.orientation)), label)
            as_stored = fit(_thumb(stored), label)
            if as_stored > MIN_FIT and as_stored > turned * MARGIN:
                return (
                    f"{frame}: EXIF says that it is turned (orientation {header.orientation}), and "
                    "its label is not: the label fits the pixels as they are stored"
                )
    return None


def shows_something(image: NDArray[np.uint8]) -> bool:
    """Return whether an image has more than one color."""
    return float(image.std(axis=(0, 1)).max()) >= MIN_FLATNESS


def _thumb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return resize(image[..., :3], SMALL, cv2.INTER_AREA)


def _thumb_label(label: NDArray[np.uint8], ignore: int) -> NDArray[np.uint8]:
    small = np.array(cv2.resize(label, SMALL, interpolation=cv2.INTER_NEAREST))
    small[small == ignore] = 255
    return small


def fit(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> float:
    """Return the fraction of an image's color variance that its label explains, 0..1, or NaN.

    A label that belongs to the image follows its edges, so colors within a class vary less.
    """
    return float(fits_of([Thumb("", image, label)])[0, 0])


def fits_of(thumbs: list[Thumb]) -> NDArray[np.float32]:
    """Return `fit` of each image (row) with each label (column), (n, n)."""
    colors = np.stack(
        [cv2.cvtColor(thumb.image, cv2.COLOR_RGB2LAB).reshape(-1, 3) for thumb in thumbs], axis=1
    ).astype(np.float32)
    fits = np.full((len(thumbs), len(thumbs)), np.nan, np.float32)
    for column, thumb in enumerate(thumbs):
        known = thumb.label.ravel() < 255
        classes = thumb.label.ravel()[known]
        if len(classes) < MIN_PIXELS:
            continue
        pixels = colors[known].reshape(len(classes), -1)
        pixels -= pixels.mean(axis=0)
        used, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
        members = np.zeros((len(used), len(classes)), np.float32)
        members[places, np.arange(len(classes))] = 1
        between = ((members @ pixels) ** 2 / counts[:, None]).sum(axis=0)
        by_image = np.stack([between, (pixels**2).sum(axis=0)]).reshape(2, -1, 3).sum(axis=2)
        flat = by_image[1] < MIN_FLATNESS * len(classes)
        fits[~flat, column] = by_image[0][~flat] / by_image[1][~flat]
    return fits
