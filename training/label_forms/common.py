"""The content of an annotation tool's export, and helpers of all readers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import SUFFIXES
from bisenetv2_ros.labels import Colour
from bisenetv2_ros.training.datasets import DatasetError

BACKGROUND = ("background", "_background_", "__background__")  # unlabeled pixels
IGNORED = ("__ignore__", "ignore", "void")  # labelme's name, and others with its meaning
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test"}

Pixels = NDArray[np.uint8]
Paint = Callable[[tuple[int, int], dict[str, int], int, Counter[str]], Pixels]


class LabelImportError(DatasetError):
    """An export cannot be used; the message names the file and what was expected."""


@dataclass(frozen=True)
class LabelledFrame:
    """One frame of an export.

    Attributes:
        image: its file.
        name: path in the new dataset without suffix, may have folders.
        split: `train`, `val`, `test`, or '' if the export has none.
        paint: makes the label map: (height, width), class index by name, value of pixels without a
            label, counter of what is left out -> (H, W) uint8.
        size: (width, height) of the image that was labelled, if the export states it.
        embedded: content of the image's file, if the export holds it and there is no such file.
    """

    image: Path
    name: str
    split: str
    paint: Paint
    size: tuple[int, int] | None = None
    embedded: bytes = b""


@dataclass
class Export:
    """The content of an export.

    Attributes:
        form: of which tool, for people.
        names: the classes in its order, without background.
        colors: those that it states, by name.
        frames: the labeled frames.
        left_out: what was not taken, with its number.
        notes: lines for people, on what the export does not state.
    """

    form: str
    names: list[str]
    colours: dict[str, Colour] = field(default_factory=dict)
    frames: list[LabelledFrame] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def _composed(name: str) -> str:
    """Return a name with accents as single characters; macOS stores them as two."""
    return unicodedata.normalize("NFC", name)


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them, whatever their length."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class ImageFinder:
    """Finds images by their names in exports."""

    def __init__(self, roots: list[Path]) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for root in roots:
            if not root.is_dir():
                raise LabelImportError(f"{root}: no such folder of images")
            for path in list_files(root):
                if path.suffix.lower() in SUFFIXES:
                    self._by_name.setdefault(_composed(path.name), []).append(path)
                    self._by_name.setdefault(_composed(f"{path.stem}.*"), []).append(path)

    def every(self) -> list[Path]:
        """All images, by path; the numbers in it count as numbers."""
        unique = {path for paths in self._by_name.values() for path in paths}
        return sorted(unique, key=lambda path: by_number(str(path)))

    def find(self, name: str, near: Path | None = None) -> Path | None:
        """The image of a name such as `a.png`, `front/a.png`, or `a.*`; None if it is not there.

        near: preferred if several folders have one; else the one that shares most of the path.
        """
        parts = Path(name.replace("\\", "/")).parts
        if not parts:
            return None
        found = [
            path
            for path in self._by_name.get(_composed(parts[-1]), [])
            if not any(
                folder in ("SegmentationClass", "SegmentationObject") for folder in path.parts
            )
        ]

        def fit(path: Path) -> tuple[bool, int]:
            shared = 0
            for ours, theirs in zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False):
                if ours != theirs:
                    break
                shared += 1
            return (near is not None and path.parent == near, shared)

        return max(found, key=fit) if found else None


def fill(
    label: Pixels,
    points: list[tuple[float, float]],
    value: int,
    left_out: Counter[str],
    where: str,
) -> None:
    """Paint a polygon and its outline, as labelme and CVAT do; count those of too few points."""
    from PIL import Image, ImageDraw

    if len(points) < 3:
        left_out[f"outlines of {len(points)} points, expected 3 or more ({where})"] += 1
        return
    mask = Image.new("1", label.shape[::-1])
    ImageDraw.Draw(mask).polygon(points, outline=1, fill=1)
    label[np.array(mask)] = value


def check_points(values: Any, where: str) -> list[tuple[float, float]]:
    """Convert points to (x, y). Raises LabelImportError unless they are finite numbers."""
    try:
        points = [(float(x), float(y)) for x, y in values]
    except (TypeError, ValueError) as error:
        raise LabelImportError(f"{where}: points {str(values)[:40]}, expected x and y") from error
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e6:
        raise LabelImportError(f"{where}: points {str(values)[:40]}, expected some in the frame")
    return points


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return the (width, height) stated in an export, or None."""
    try:
        size = int(width), int(height)
    except (TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


def class_of(name: str, index: dict[str, int], where: str) -> int:
    """The index of a class. Raises LabelImportError if the export does not list it."""
    if name not in index:
        raise LabelImportError(f"{where}: class {name!r} is not in the export's list")
    return index[name]


def split_of(path: Path, root: Path) -> str:
    """The split in a file's name or folders, as in `train/_annotations.coco.json`."""
    parts = path.relative_to(root).parts if path != root else (path.name,)
    for word in re.findall(r"[a-z]+", " ".join(parts).lower()):
        if word in SPLITS:
            return SPLITS[word]
    return ""


def add_name(export: Export, name: str) -> None:
    """Add a class to the export's list, unless it is there or is the background."""
    if name and name not in (*BACKGROUND, *IGNORED, *export.names):
        export.names.append(name)


def list_files(root: Path) -> list[Path]:
    """Files below a folder, sorted; skips hidden ones."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises LabelImportError if it is invalid."""
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig")
        )  # Windows programs write a byte order mark
    except (OSError, ValueError, RecursionError) as error:
        raise LabelImportError(f"{path}: not JSON: {error}") from error


def safe_name(name: str, path: Path) -> str:
    """Return a frame's name as a path below the dataset, without suffix.

    Of an absolute path, only the file name is used.
    """
    relative = Path(name.replace("\\", "/"))
    if relative.is_absolute() or re.match("[A-Za-z]:", name):
        relative = Path(relative.name)
    if ".." in relative.parts or not relative.name:
        raise LabelImportError(f"{path}: frame {name!r} leads out of the export")
    return relative.with_suffix("").as_posix()
