"""labelme's JSON files, one a frame."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bisenetv2_ros.training.datasets import list_files
from bisenetv2_ros.training.label_forms.common import (
    NO_IMAGE,
    NO_LABEL,
    Canvas,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    check_points,
    read_json,
    split_of,
    stated_size,
)

# labelme's shapes, and those of tools that write its format
RECTANGLES = ("rectangle", "oriented_rectangle", "rotation")


def read(root: Path, images: ImageFinder) -> Export:
    """Read labelme's JSON files, one per frame."""
    export = Export("labelme")
    for path in list_files(root, [".json"]):
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            continue
        name = str(content.get("imagePath") or f"{path.stem}.*")
        file = images.find(name, path.parent) or images.find(f"{path.stem}.*", path.parent)
        embedded = b"" if file else _image_data(content, path)
        has_image = bool(file or embedded)
        if not has_image or not content["shapes"]:
            export.left_out[NO_LABEL if has_image else NO_IMAGE] += 1
            continue
        for shape in content["shapes"]:
            if not isinstance(shape, dict):
                raise LabelImportError(f"{path}: a shape is {str(shape)[:40]!r}")
            export.add_name(str(shape.get("label")))
        split = split_of(path, root)
        size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
        paint = partial(_paint, content["shapes"], path)
        image = file or path.with_suffix(".jpg" if embedded.startswith(b"\xff\xd8") else ".png")
        export.frames.append(LabelledFrame(image, path.stem, split, paint, size, embedded))
    export.names.sort()  # their order in the files has no meaning
    return export


def _image_data(content: dict[str, Any], path: Path) -> bytes:
    """Return the embedded image file, or b''."""
    try:
        return base64.b64decode(content.get("imageData") or "", validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise LabelImportError(f"{path}: imageData is no image in base64") from error


def _paint(shapes: list[dict[str, Any]], path: Path, canvas: Canvas) -> None:
    for shape in shapes:
        kind = str(shape.get("shape_type") or "polygon")
        value = canvas.index_of(str(shape.get("label")), path)
        points = check_points(shape.get("points") or [], path)
        # two opposite corners; newer versions and rotated rectangles have all four
        if kind == "rectangle" and len(points) == 2:
            (a, b), (c, d) = points
            points = [(a, b), (c, b), (c, d), (a, d)]
        elif kind == "circle" and len(points) == 2:
            (a, b), (c, d) = points
            radius = float(np.hypot(c - a, d - b))
            turn = np.linspace(0, 2 * np.pi, 128, endpoint=False)
            around = zip(a + radius * np.cos(turn), b + radius * np.sin(turn), strict=True)
            points = list(around)
        if kind in ("polygon", "circle", *RECTANGLES):
            canvas.fill(points, value, path)
        elif kind == "mask":
            _paint_mask(shape, value, path, canvas)
        else:
            canvas.left_out[f"{kind} shapes, which outline no region"] += 1


def _paint_mask(shape: dict[str, Any], value: int, path: Path, canvas: Canvas) -> None:
    try:
        data = np.frombuffer(base64.b64decode(shape["mask"], validate=True), np.uint8)
        (left, top), _ = ((int(x), int(y)) for x, y in shape["points"])
        inside = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        assert inside is not None and min(left, top) >= 0
    except (KeyError, TypeError, ValueError, binascii.Error, cv2.error, AssertionError) as error:
        raise LabelImportError(f"{path}: a mask that is no PNG at a place in the frame") from error
    canvas.stamp(inside > 0, left, top, value)
