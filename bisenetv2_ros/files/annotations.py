"""Writes label masks in the formats of annotation tools: classes.yaml, CVAT, labelme.

Knows nothing of how a mask is made.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from bisenetv2_ros.labels import LabelSet

MIN_PIXELS = 16  # smaller regions are noise of the network, and left out for labelme
TOLERANCE = 1.0  # pixels by which a polygon may deviate from a region's edge

Mask = np.ndarray  # (H, W) uint8 class index or ignore


def classes_text(labels: LabelSet) -> str:
    """The `classes.yaml` of a label set (docs/datasets.md)."""
    lines = [f"name: {json.dumps(labels.name)}", f"ignore_index: {labels.ignore_index}", "classes:"]
    lines += [
        f"  - {{name: {json.dumps(name, ensure_ascii=False)}, colour: {list(colour)}}}"
        for name, colour in zip(labels.names, labels.palette, strict=True)
    ]
    return "\n".join(lines) + "\n"


def write_cvat(
    path: Path, names: Iterable[str], read: Callable[[str], Mask], labels: LabelSet
) -> None:
    """Write masks as a zip file that CVAT imports as "Segmentation mask 1.1".

    Args:
        path: of the zip file.
        names: of the frames, without suffix, as CVAT has them.
        read: the mask of a frame, by name.
        labels: the classes; pixels that are none become CVAT's background.
    """
    table = labels.colour_table()
    taken = {tuple(colour) for colour in labels.palette}
    black = next(c for c in ((0, 0, 0), (1, 1, 1), (2, 2, 2)) if c not in taken)
    table[len(labels) :] = black
    entries = [("background", black), *zip(labels.names, labels.palette, strict=True)]
    names = list(names)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "labelmap.txt",
            "# label:color_rgb:parts:actions\n"
            + "".join(f"{name}:{','.join(map(str, colour))}::\n" for name, colour in entries),
        )
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{n}\n" for n in names))
        for name in names:
            done, data = cv2.imencode(".png", table[read(name)][..., ::-1])
            assert done, "OpenCV encodes every uint8 image as PNG"
            # each class is one object of the frame
            for folder in ("SegmentationClass", "SegmentationObject"):
                archive.writestr(f"{folder}/{name}.png", data.tobytes())


def labelme_shapes(mask: Mask, labels: LabelSet) -> tuple[list[dict[str, object]], int]:
    """The regions of a mask as labelme's polygons, and the number of those that were too small.

    Larger regions come first, so that a region in a hole of another is painted over it.
    """
    found = []
    dust = 0
    for index, name in enumerate(labels.names):
        # CCOMP gives the outer contour of every part, also of one inside a hole
        contours, tree = cv2.findContours(
            (mask == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        for contour, (*_, parent) in zip(contours, tree[0] if contours else (), strict=True):
            if parent >= 0:  # the edge of a hole
                continue
            area = (
                cv2.contourArea(contour) + len(contour) / 2 + 1
            )  # of pixels, not of their centers
            outline = cv2.approxPolyDP(contour, TOLERANCE, True)[:, 0]
            if area < MIN_PIXELS or len(outline) < 3:
                dust += 1
                continue
            found.append((area, name, outline.astype(float).tolist()))
    found.sort(key=lambda region: -region[0])
    shapes: list[dict[str, object]] = [
        {"label": name, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
        for _, name, points in found
    ]
    return shapes, dust


def write_labelme(path: Path, image_path: str, mask: Mask, labels: LabelSet) -> int:
    """Write a mask as labelme's JSON; returns how many regions were too small.

    image_path: of the frame, from the folder of `path`.
    """
    shapes, dust = labelme_shapes(mask, labels)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return dust
