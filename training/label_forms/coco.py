"""COCO's JSON, with polygons and run lengths."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.training.datasets import list_files
from bisenetv2_ros.training.label_forms.common import (
    NO_IMAGE,
    NO_LABEL,
    Canvas,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    read_json,
    safe_name,
    split_of,
    stated_size,
)


def read(root: Path, images: ImageFinder) -> Export:
    """Read every JSON file in COCO's format."""
    export = Export("COCO")
    panoptic: list[Path] = []
    for path in list_files(root, [".json"]):
        content = read_json(path)
        if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
            continue
        try:
            if any("segments_info" in annotation for annotation in content["annotations"]):
                panoptic.append(path)
                continue
            categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            used = {int(a["category_id"]) for a in content["annotations"]}
            by_image: dict[str, list[dict[str, Any]]] = {}  # some tools write ids as strings
            for annotation in content["annotations"]:
                by_image.setdefault(str(annotation["image_id"]), []).append(annotation)
            listed = [
                (str(i["id"]), str(i["file_name"]), stated_size(i.get("width"), i.get("height")))
                for i in content["images"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelImportError(f"{path}: not COCO's JSON: {error!r}") from error
        if unknown := sorted(used - set(categories)):
            raise LabelImportError(f"{path}: category {unknown[0]} is not in its categories")
        supers = {c.get("supercategory") for c in content["categories"]}
        for number, name in sorted(categories.items()):
            # Roboflow has a category that the others belong to and no annotation has
            if number in used or name not in supers:
                export.add_name(name)
        split = split_of(path, root)
        for image, name, size in listed:
            file = images.find(name, path.parent)
            annotations = by_image.pop(image, [])
            if file is None or not annotations:
                export.left_out[NO_LABEL if file else NO_IMAGE] += 1
            else:
                paint = partial(_paint, annotations, categories, path)
                export.frames.append(LabelledFrame(file, safe_name(name, path), split, paint, size))
        if by_image:
            orphans = sum(map(len, by_image.values()))
            export.left_out["annotations of images that are not listed"] += orphans
    if panoptic and not export.frames:
        raise LabelImportError(
            f"{panoptic[0]}: COCO's panoptic form, expected polygons or run lengths; a data set's "
            "YAML file takes it as `panoptic:` (docs/datasets.md)"
        )
    return export


def _paint(
    annotations: list[dict[str, Any]], categories: dict[int, str], path: Path, canvas: Canvas
) -> None:
    found = []
    for annotation in annotations:
        mask = _mask(annotation, path, canvas)
        if mask is None:
            canvas.left_out["boxes without a segmentation"] += 1
            continue
        name = categories[int(annotation["category_id"])]
        found.append((int(mask.sum()), canvas.index_of(name, path), mask))
    # if regions overlap, the smaller one is in front
    for _, value, mask in sorted(found, key=lambda entry: -entry[0]):
        canvas.label[mask > 0] = value


def _mask(annotation: dict[str, Any], path: Path, canvas: Canvas) -> NDArray[np.uint8] | None:
    """Return an annotation's pixels, (H, W) uint8 0 or 1, or None if it has no segmentation."""
    from pycocotools import mask as coco

    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    height, width = canvas.size
    where = f"{path}: annotation {annotation.get('id')}"
    try:
        if isinstance(segmentation, list):
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
            for polygon in segmentation:
                if len(polygon) < 6:
                    few = f"outlines of {len(polygon) // 2} points, expected 3 or more ({path})"
                    canvas.left_out[few] += 1
            if not polygons:
                return np.zeros(canvas.size, np.uint8)
            runs = coco.merge(coco.frPyObjects(polygons, height, width))
        else:
            if list(map(int, segmentation["size"])) != [height, width]:
                raise ValueError(f"size {segmentation['size']}, expected {[height, width]}")
            counts = segmentation["counts"]
            if isinstance(counts, list):
                if sum(counts) != height * width or min(counts) < 0:
                    raise ValueError(f"{sum(counts)} pixels, expected {height * width}")
                runs = coco.frPyObjects(segmentation, height, width)
            else:
                runs = {"size": [height, width], "counts": counts}
        return np.asarray(coco.decode(runs), np.uint8)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise LabelImportError(f"{where}: segmentation cannot be read: {error}") from error
