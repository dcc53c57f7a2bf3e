"""Pascal VOC: SegmentationClass in colors of labelmap.txt."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from bisenetv2_ros.labels import Colour
from bisenetv2_ros.training.datasets import list_files, pack_rgb, read_label
from bisenetv2_ros.training.label_forms.common import (
    BACKGROUND,
    IGNORED,
    SPLITS,
    Canvas,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
)


def read(root: Path, images: ImageFinder) -> Export:
    """Read SegmentationClass in the colors of labelmap.txt; also CVAT's "Segmentation mask 1.1"."""
    export = Export("Pascal VOC")
    folders = sorted({p.parent for p in list_files(root) if p.parent.name == "SegmentationClass"})
    if not folders:
        raise LabelImportError(f"{root}: no folder SegmentationClass")
    for folder in folders:
        colours, numbered = _labelmap(folder.parent / "labelmap.txt")
        for name, colour in colours.items():
            if name not in BACKGROUND + IGNORED:
                export.add_name(name)
                export.colours[name] = colour
        splits = _voc_splits(folder.parent / "ImageSets" / "Segmentation")
        for path in list_files(folder):
            if path.suffix.lower() != ".png":
                export.left_out[f"{path.suffix} files in SegmentationClass, expected PNG"] += 1
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            file = images.find(f"{name}.*", folder.parent / "JPEGImages")
            if file is None:
                export.left_out["labels whose image is missing"] += 1
                continue
            split = splits.get(name, "")
            paint = partial(_paint, path, colours, numbered)
            export.frames.append(LabelledFrame(file, name, split, paint))
    return export


def _labelmap(path: Path) -> tuple[dict[str, Colour], bool]:
    """Read the colors by class of `labelmap.txt`; without the file, the challenge's 21 classes.

    A class without a color has the one at its index in the challenge's palette. Masks may then also
    contain class indices; the second value returned says so.
    """
    if not path.is_file():
        return dict(zip(VOC_NAMES, _voc_palette(), strict=False)), True
    colours: dict[str, Colour] = {}
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if lines and not any("".join(line.split(":")[1:2]).strip() for line in lines):
        names = (line.split(":")[0] for line in lines)
        return dict(zip(names, _voc_palette(), strict=False)), True
    for line in lines:
        name, *rest = line.split(":")
        try:
            red, green, blue = (int(value) for value in rest[0].split(","))
        except (IndexError, ValueError) as error:
            expected = "expected NAME:R,G,B:PARTS:ACTIONS"
            raise LabelImportError(f"{path}: {line!r}, {expected}") from error
        if name in colours or (red, green, blue) in colours.values():
            raise LabelImportError(f"{path}: {line!r}, expected each name and colour once")
        colours[name] = (red, green, blue)
    return colours, False


BORDER = (224, 224, 192)  # of objects, in the challenge's masks
VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def _voc_palette() -> list[Colour]:
    """Return the challenge's colors: the bits of the index spread over red, green and blue."""

    def channel(number: int, offset: int) -> int:
        return sum(((number >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(256)]


def _voc_splits(folder: Path) -> dict[str, str]:
    """Return the split of each frame, from the lists in ImageSets/Segmentation."""
    splits: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        split = SPLITS.get(path.stem.lower(), "")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and split:
                splits[line.strip()] = split
    return splits


def _paint(path: Path, colours: dict[str, Colour], numbered: bool, canvas: Canvas) -> None:
    """Convert an image in the colors of classes to a label map.

    Black is unlabeled, and the challenge's border color is ignored, unless they are classes.
    """
    rgb = read_label(path, colours=not numbered).astype(np.int32)
    if rgb.ndim == 2:
        rgb = np.array(_voc_palette(), np.int32)[rgb.clip(max=255)]
    packed = pack_rgb(rgb)
    values = {0: int(canvas.label[0, 0]), int(pack_rgb(BORDER)): canvas.index["__ignore__"]}
    for name, colour in colours.items():
        values[int(pack_rgb(colour))] = canvas.index_of(name, path)
    found, inverse = np.unique(packed, return_inverse=True)
    for value in found.tolist():
        if value not in values:
            shown = (value >> 16, (value >> 8) & 255, value & 255)
            raise LabelImportError(f"{path}: colour {shown}, expected one of labelmap.txt")
    table = np.array([values[value] for value in found.tolist()], np.uint8)
    canvas.label = table[inverse.reshape(packed.shape)]
