"""labelme's JSON files, one a frame."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bisenetv2_ros.training.label_forms.common import (
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
    read_json,
    split_of,
    stated_size,
)

# labelme's shapes, and those of tools that write its format
RECTANGLES = ("rectangle", "oriented_rectangle", "rotation")


def read(root: Path, images: ImageFinder) -> Export:
    """Read labelme's JSON files, one per frame."""
    export = Export("labelme", [])
    paths = [root] if root.is_file() else [p for p in list_files(root) if p.suffix == ".json"]
    for path in paths:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            continue
        name = str(content.get("imagePath") or f"{path.stem}.*")
        file = images.find(name, path.parent) or images.find(f"{path.stem}.*", path.parent)
        embedded = b"" if file else _image_data(content, path)
        if file is None and not embedded:
            export.left_out["frames whose image is missing"] += 1
            continue
        if not content["shapes"]:
            export.left_out["frames without a label"] += 1
            continue
        for shape in content["shapes"]:
            if not isinstance(shape, dict):
                raise LabelImportError(f"{path}: a shape is {str(shape)[:40]!r}")
            add_name(export, str(shape.get("label")))
        split = split_of(path, root)
        size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
        paint = _labelme(content["shapes"], path)
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


def _labelme(shapes: list[dict[str, Any]], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for shape in shapes:
            kind = str(shape.get("shape_type") or "polygon")
            value = class_of(str(shape.get("label")), index, str(path))
            points = check_points(shape.get("points") or [], str(path))
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
                fill(label, points, value, left_out, str(path))
            elif kind == "mask":
                _paint_labelme_mask(label, shape, value, path)
            else:
                left_out[f"{kind} shapes, which outline no region"] += 1
        return label

    return paint


def _paint_labelme_mask(label: Pixels, shape: dict[str, Any], value: int, path: Path) -> None:
    try:
        data = np.frombuffer(base64.b64decode(shape["mask"], validate=True), np.uint8)
        (left, top), _ = ((int(x), int(y)) for x, y in shape["points"])
        inside = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        assert inside is not None and min(left, top) >= 0
    except (KeyError, TypeError, ValueError, binascii.Error, cv2.error, AssertionError) as error:
        raise LabelImportError(f"{path}: a mask that is no PNG at a place in the frame") from error
    box = label[top : top + inside.shape[0], left : left + inside.shape[1]]
    box[inside[: box.shape[0], : box.shape[1]] > 0] = value
