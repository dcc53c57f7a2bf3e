"""CVAT for images 1.1: annotations.xml with polygons and masks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np

from bisenetv2_ros.labels import Colour
from bisenetv2_ros.training.label_forms.common import (
    SPLITS,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    Paint,
    Pixels,
    add_name,
    check_points,
    class_of,
    fill,
    list_files,
    safe_name,
    stated_size,
)


def read(root: Path, images: ImageFinder) -> Export:
    """CVAT for images 1.1: annotations.xml with polygons, masks, boxes."""
    paths = [root] if root.is_file() else [p for p in list_files(root) if p.suffix == ".xml"]
    export = Export("CVAT", [])
    for path in paths:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise LabelImportError(f"{path}: defines entities, expected CVAT's plain XML")
        try:
            tree = ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            raise LabelImportError(f"{path}: not XML: {error}") from error
        if tree.tag != "annotations":
            continue
        for label in tree.iter("label"):
            name = label.findtext("name")
            if name is None:
                continue
            add_name(export, name)
            colour = _hex(label.findtext("color") or "")
            if colour:
                export.colours[name] = colour
        for image in tree.iter("image"):
            name = image.get("name", "")
            file = images.find(name)
            if file is None:
                export.left_out["frames whose image is missing"] += 1
                continue
            shapes = [shape for shape in image if shape.tag != "tag"]
            if not shapes:
                export.left_out["frames without a label"] += 1
                continue
            for shape in shapes:
                add_name(export, shape.get("label", ""))
            shapes.sort(key=lambda shape: int(shape.get("z_order", "0")))
            split = SPLITS.get(image.get("subset", "").lower(), "")
            size = stated_size(image.get("width"), image.get("height"))
            paint = _cvat(shapes, path)
            export.frames.append(LabelledFrame(file, safe_name(name, path), split, paint, size))
        if tracks := len(list(tree.iter("track"))):
            export.left_out["tracks of CVAT for video, expected its form for images"] += tracks
    return export


def _cvat(shapes: list[ElementTree.Element], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for shape in shapes:
            value = class_of(shape.get("label", ""), index, str(path))
            if shape.tag == "polygon":
                pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
                fill(label, check_points(pairs, str(path)), value, left_out, str(path))
            elif shape.tag == "mask":
                _paint_cvat_mask(label, shape, value, path)
            else:
                left_out[f"{shape.tag} shapes, which outline no region"] += 1
        return label

    return paint


def _paint_cvat_mask(label: Pixels, shape: ElementTree.Element, value: int, path: Path) -> None:
    """CVAT's mask: run lengths of off and on, row by row in a box."""
    try:
        counts = [int(count) for count in shape.get("rle", "").split(",")]
        left, top, width, height = (
            int(float(shape.get(key, ""))) for key in ("left", "top", "width", "height")
        )
    except ValueError as error:
        raise LabelImportError(f"{path}: a mask without rle, left, top, width, height") from error
    if sum(counts) != width * height or min(counts) < 0 or min(left, top) < 0:
        raise LabelImportError(f"{path}: mask of {sum(counts)} pixels, expected {width}x{height}")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    box = label[top : top + height, left : left + width]
    box[inside[: box.shape[0], : box.shape[1]]] = value


def _hex(text: str) -> Colour | None:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
