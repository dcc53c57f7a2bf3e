"""Pascal VOC: SegmentationClass in colors of labelmap.txt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from bisenetv2_ros.labels import Colour
from bisenetv2_ros.training.datasets import read_label
from bisenetv2_ros.training.label_forms.common import (
    BACKGROUND,
    IGNORED,
    SPLITS,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    Paint,
    Pixels,
    add_name,
    class_of,
    list_files,
)


def read(root: Path, images: ImageFinder) -> Export:
    """SegmentationClass in colors of labelmap.txt; also CVAT's "Segmentation mask 1.1"."""
    export = Export("Pascal VOC", [])
    folders = sorted({p.parent for p in list_files(root) if p.parent.name == "SegmentationClass"})
    if not folders:
        raise LabelImportError(f"{root}: no folder SegmentationClass")
    for folder in folders:
        colours = _labelmap(folder.parent / "labelmap.txt")
        for name, colour in colours.items():
            if name not in BACKGROUND + IGNORED:
                add_name(export, name)
                export.colours[name] = colour
        splits = _voc_splits(folder.parent / "ImageSets" / "Segmentation")
        for path in list_files(folder):
            if path.suffix.lower() != ".png":
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            file = images.find(f"{name}.*", folder.parent / "JPEGImages")
            if file is None:
                export.left_out["labels whose image is missing"] += 1
                continue
            split = splits.get(name, "")
            export.frames.append(LabelledFrame(file, name, split, _voc(path, colours)))
    return export


def _labelmap(path: Path) -> dict[str, Colour]:
    """Colors by class of `labelmap.txt`; without it the 21 classes of the challenge."""
    if not path.is_file():
        return dict(zip(VOC_NAMES, _voc_palette(), strict=False)) | {"void": (224, 224, 192)}
    colours: dict[str, Colour] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.split(":")
        try:
            red, green, blue = (int(value) for value in rest[0].split(","))
        except (IndexError, ValueError) as error:
            raise LabelImportError(
                f"{path}: {line!r}, expected NAME:R,G,B:PARTS:ACTIONS"
            ) from error
        if name in colours or (red, green, blue) in colours.values():
            raise LabelImportError(f"{path}: {line!r}, expected each name and colour once")
        colours[name] = (red, green, blue)
    return colours


VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def _voc_palette() -> list[Colour]:
    """The challenge's colors: the bits of the number spread over red, green and blue."""

    def channel(number: int, offset: int) -> int:
        return sum(((number >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(256)]


def _voc_splits(folder: Path) -> dict[str, str]:
    """The split of each frame, by the lists in ImageSets/Segmentation."""
    splits: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        split = SPLITS.get(path.stem.lower(), "")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and split:
                splits[line.strip()] = split
    return splits


def _voc(path: Path, colours: dict[str, Colour]) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        return _by_colour(path, colours, index, start)

    return paint


def _by_colour(path: Path, colours: dict[str, Colour], index: dict[str, int], start: int) -> Pixels:
    """Convert an image in the colors of classes to a label map; black is unlabeled."""
    rgb = read_label(path, colours=True).astype(np.int32)
    packed = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    values = {0: start}
    for name, (red, green, blue) in colours.items():
        values[(red << 16) | (green << 8) | blue] = class_of(name, index, str(path))
    found, inverse = np.unique(packed, return_inverse=True)
    for value in found.tolist():
        if value not in values:
            colour = (value >> 16, (value >> 8) & 255, value & 255)
            raise LabelImportError(f"{path}: colour {colour}, expected one of labelmap.txt")
    table = np.array([values[value] for value in found.tolist()], np.uint8)
    return table[inverse.reshape(packed.shape)]
