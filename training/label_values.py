"""Converts label files to class indices, by the values or colors of a dataset's YAML file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.training.dataset_files import DatasetFile
from bisenetv2_ros.training.datasets import (
    DatasetError,
    Decode,
    Pixels,
    pack_rgb,
    read_label,
    white_of,
)

NEAR = 12  # maximum difference per channel between a color and its JPEG version
UNKNOWN = 254  # in lookup tables: a value that is neither a class nor ignored


def make_decoder(content: DatasetFile, encoding: str, panoptic: Path | None = None) -> Decode:
    """Make a function from a label file to its (H, W) uint8 class indices.

    It raises DatasetError for a value or color that is neither a class nor ignored.
    """
    labels = content.labels
    if encoding == "colours":
        return _colour_decoder(content)
    values = [[i] for i in range(len(labels))] if encoding == "index" else content.values()
    ignored = {255} if encoding == "index" else content.ignored_values()
    table = np.full(65536, UNKNOWN, np.uint8)
    known = np.zeros(65536, bool)
    for i, of_class in enumerate(values):
        table[of_class] = i
        known[of_class] = True
    table[list(ignored)] = labels.ignore_index
    known[list(ignored)] = True
    white = white_of(values)
    segments = _panoptic_segments(panoptic) if panoptic else None

    def decode(path: Path) -> Pixels:
        if segments:
            label = segments(path)
        else:
            label = _read_matlab(path) if path.suffix == ".mat" else read_label(path, white=white)
        if label.ndim == 3:
            raise DatasetError(f"{path}: label map is in colours, expected grey, one byte a pixel")
        wrong = ~known[label]
        if wrong.any():
            first = labels.ignore_index
            others = sorted(ignored - {first})
            raise DatasetError(
                f"{path}: label value {int(label[wrong][0])}, expected "
                f"{_ranges(v for of_class in values for v in of_class)}"
                + (f" or {first}" if first in ignored else "")
                + (f", or {_ranges(others)} (ignored)" if others else "")
            )
        return table[label]

    return decode


def _colour_decoder(content: DatasetFile) -> Decode:
    try:
        content.check_colours()
    except ValueError as error:
        raise DatasetError(f"{content.name}: {error}") from error
    colours: dict[int, int] = {}
    for ignored in content.ignored:
        if isinstance(ignored, tuple):
            colours[int(pack_rgb(ignored))] = content.labels.ignore_index
    for index, entry in enumerate(content.kept):
        for colour in entry.label_colours:
            packed = int(pack_rgb(colour))
            other = colours.setdefault(packed, index)
            if other not in (index, content.labels.ignore_index):
                raise DatasetError(
                    f"{content.name}: colour {colour} is that of classes "
                    f"{content.kept[other].name!r} and {entry.name!r}, expected one class"
                )
            colours[packed] = index
    keys = np.array(sorted(colours), np.int64)
    classes = np.array([colours[key] for key in keys.tolist()], np.uint8)

    def decode(path: Path) -> Pixels:
        rgb = read_label(path, colours=True)
        packed = pack_rgb(rgb)
        where = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        wrong = keys[where] != packed
        if wrong.any():
            colour = tuple(int(v) for v in rgb[wrong][0])
            raise DatasetError(
                f"{path}: colour {colour}, expected one of the {len(keys)} of {content.name}; one "
                f"that means nothing belongs under `ignored:`{_if_near(colour, content)}"
            )
        return classes[where]

    return decode


def _if_near(colour: tuple[int, ...], content: DatasetFile) -> str:
    """Return the likely cause of a color close to a class's color, or '' if it is not close."""
    for entry in content.kept:
        for own in entry.label_colours:
            if max(abs(a - b) for a, b in zip(colour, own, strict=True)) <= NEAR:
                return (
                    f"; it is nearly that of {entry.name!r}: a mask that was a JPEG, or was "
                    "resized with smooth edges, has lost its values"
                )
    return ""


def _panoptic_segments(path: Path) -> Callable[[Path], NDArray[np.uint16]]:
    """Make a function from a file of segment numbers (COCO's panoptic format) to label values."""
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        segments = {
            str(a["file_name"]): {int(s["id"]): int(s["category_id"]) for s in a["segments_info"]}
            for a in annotations
        }
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: expected annotations in COCO's panoptic format") from error

    def read(label: Path) -> NDArray[np.uint16]:
        if label.name not in segments:
            raise DatasetError(f"{label}: not among the annotations of {path}")
        number = pack_rgb(read_label(label, colours=True)[..., ::-1])
        category = segments[label.name]
        used, inverse = np.unique(number, return_inverse=True)
        missing = [int(n) for n in used if n and int(n) not in category]
        if missing:
            raise DatasetError(f"{label}: segment {missing[0]} is not in {path}")
        values = np.array([category.get(int(n), 0) for n in used], np.uint16)
        return values[inverse.reshape(number.shape)]

    return read


def _read_matlab(path: Path) -> NDArray[Any]:
    """Read the label map `S` of one of COCO-Stuff 10k's MATLAB files."""
    try:
        from scipy.io import loadmat

        return np.asarray(loadmat(path)["S"]).astype(np.uint16)
    except ModuleNotFoundError as error:
        raise DatasetError(f"{path}: MATLAB files need scipy: `pip install scipy`") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"{path}: not a MATLAB file with a label map S: {error}") from error


def _ranges(values: Iterable[int]) -> str:
    """Format values as 0..3, 7, 9..10."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(f"{a}..{b}" if a < b else f"{a}" for a, b in parts)
