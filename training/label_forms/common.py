"""The content of an annotation tool's export, and what all readers share."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import SUFFIXES
from bisenetv2_ros.files.paths import natural_key
from bisenetv2_ros.labels import Colour
from bisenetv2_ros.training.datasets import DatasetError, composed, list_files

BACKGROUND = ("background", "_background_", "__background__")  # unlabeled pixels
IGNORED = ("__ignore__", "ignore", "void")  # labelme's name, and others with its meaning
SPLITS = {"training": "train", "valid": "val", "validation": "val"}
SPLITS |= {split: split for split in ("train", "val", "test")}
NO_IMAGE, NO_LABEL = "frames whose image is missing", "frames without a label"

Points = list[tuple[float, float]]


class LabelImportError(DatasetError):
    """An export cannot be used; the message names the file and what was expected."""


@dataclass
class Canvas:
    """The label map of a frame while its labels are painted onto it."""

    label: NDArray[np.uint8]  #: (H, W) class indices; at first, every pixel is unlabeled
    index: dict[str, int]  #: class indices by name
    left_out: Counter[str]  #: what cannot be painted

    @property
    def size(self) -> tuple[int, int]:
        """The frame's (height, width)."""
        height, width = self.label.shape
        return height, width

    def index_of(self, name: str, where: Path) -> int:
        """Return a class's index. Raises LabelImportError if the export does not list it."""
        if name not in self.index:
            raise LabelImportError(f"{where}: class {name!r} is not in the export's list")
        return self.index[name]

    def fill(self, points: Points, value: int, where: Path) -> None:
        """Paint a polygon and its outline, as labelme and CVAT do; count one of too few points."""
        from PIL import Image, ImageDraw

        if len(points) < 3:
            self.left_out[f"outlines of {len(points)} points, expected 3 or more ({where})"] += 1
            return
        mask = Image.new("1", self.label.shape[::-1])
        ImageDraw.Draw(mask).polygon(points, outline=1, fill=1)
        self.label[np.array(mask)] = value

    def stamp(self, mask: NDArray[np.bool_], left: int, top: int, value: int) -> None:
        """Paint the pixels of a mask whose corner is at `left`, `top`; the frame may cut it off."""
        box = self.label[top : top + mask.shape[0], left : left + mask.shape[1]]
        box[mask[: box.shape[0], : box.shape[1]]] = value


Paint = Callable[[Canvas], None]


@dataclass(frozen=True)
class LabelledFrame:
    """One frame of an export."""

    image: Path
    name: str  #: path in the new dataset, without suffix
    split: str  #: `train`, `val`, `test`, or '' if the export has none
    paint: Paint  #: paints the labels
    size: tuple[int, int] | None = None  #: (width, height) of the labeled image, if stated
    embedded: bytes = b""  #: content of the image, if it is not in a file


@dataclass
class Export:
    """The content of an export."""

    form: str  #: name of the tool, for messages
    names: list[str] = field(default_factory=list)  #: the classes, without background
    colours: dict[str, Colour] = field(default_factory=dict)  #: stated colors, by class
    frames: list[LabelledFrame] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  #: what is not imported
    notes: list[str] = field(default_factory=list)  #: about what the export does not state

    def add_name(self, name: str) -> None:
        """Add a class, unless it is listed already or is the background."""
        if name and name not in (*BACKGROUND, *IGNORED, *self.names):
            self.names.append(name)


class ImageFinder:
    """Finds images by their names in exports."""

    def __init__(self, roots: list[Path]) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for root in roots:
            if not root.is_dir():
                raise LabelImportError(f"{root}: no such folder of images")
            for path in list_files(root, SUFFIXES):
                for name in (path.name, f"{path.stem}.*"):
                    self._by_name.setdefault(composed(name), []).append(path)

    def every(self) -> list[Path]:
        """All images, by path; the numbers in it count as numbers."""
        unique = {path for paths in self._by_name.values() for path in paths}
        return sorted(unique, key=lambda path: natural_key(str(path)))

    def find(self, name: str, near: Path | None = None) -> Path | None:
        """Return the image named `a.png`, `front/a.png`, or `a.*`, or None if there is none.

        If several folders have one, prefers the folder `near`, then the most similar path.
        """
        parts = Path(name.replace("\\", "/")).parts
        if not parts:
            return None
        found = [
            path
            for path in self._by_name.get(composed(parts[-1]), [])
            if not {"SegmentationClass", "SegmentationObject"} & set(path.parts)
        ]

        def fit(path: Path) -> tuple[bool, int]:
            shared = 0
            for ours, theirs in zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False):
                if ours != theirs:
                    break
                shared += 1
            return (near is not None and path.parent == near, shared)

        return max(found, key=fit) if found else None


def check_points(values: Any, where: Path) -> Points:
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


def split_of(path: Path, root: Path) -> str:
    """Return the split in a file's name or folders, as in `train/_annotations.coco.json`, or ''."""
    parts = path.relative_to(root).parts if path != root else (path.name,)
    for word in re.findall(r"[a-z]+", " ".join(parts).lower()):
        if word in SPLITS:
            return SPLITS[word]
    return ""


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises LabelImportError if it is invalid."""
    try:
        # Windows programs write a byte order mark
        return json.loads(path.read_text(encoding="utf-8-sig"))
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
