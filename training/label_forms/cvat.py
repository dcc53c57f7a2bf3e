"""CVAT for images 1.1: annotations.xml with polygons and masks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import numpy as np

from bisenetv2_ros.training.datasets import list_files
from bisenetv2_ros.training.label_forms.common import (
    NO_IMAGE,
    NO_LABEL,
    SPLITS,
    Canvas,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    check_points,
    safe_name,
    stated_size,
)


def read(root: Path, images: ImageFinder) -> Export:
    """Read every annotations.xml of CVAT for images."""
    export = Export("CVAT")
    for path in list_files(root, [".xml"]):
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
            name, colour = label.findtext("name"), label.findtext("color") or ""
            if name is None:
                continue
            export.add_name(name)
            if re.fullmatch("#[0-9a-fA-F]{6}", colour):
                red, green, blue = bytes.fromhex(colour[1:])
                export.colours[name] = red, green, blue
        for image in tree.iter("image"):
            name = image.get("name", "")
            file = images.find(name)
            shapes = [shape for shape in image if shape.tag != "tag"]
            if file is None or not shapes:
                export.left_out[NO_LABEL if file else NO_IMAGE] += 1
                continue
            for shape in shapes:
                export.add_name(shape.get("label", ""))
            shapes.sort(key=lambda shape: int(shape.get("z_order", "0")))
            split = SPLITS.get(image.get("subset", "").lower(), "")
            size = stated_size(image.get("width"), image.get("height"))
            paint = partial(_paint, shapes, path)
            export.frames.append(LabelledFrame(file, safe_name(name, path), split, paint, size))
        if tracks := len(list(tree.iter("track"))):
            export.left_out["tracks of CVAT for video, expected its form for images"] += tracks
    return export


def _paint(shapes: list[ElementTree.Element], path: Path, canvas: Canvas) -> None:
    for shape in shapes:
        value = canvas.index_of(shape.get("label", ""), path)
        if shape.tag == "polygon":
            pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
            canvas.fill(check_points(pairs, path), value, path)
        elif shape.tag == "mask":
            _paint_mask(shape, value, path, canvas)
        else:
            canvas.left_out[f"{shape.tag} shapes, which outline no region"] += 1


def _paint_mask(shape: ElementTree.Element, value: int, path: Path, canvas: Canvas) -> None:
    """Paint run lengths of off and on, row by row in a box."""
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
    canvas.stamp(inside, left, top, value)
