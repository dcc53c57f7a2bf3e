"""Label Studio's JSON, with brushes and polygons, and its PNG export."""

from __future__ import annotations

import re
import urllib.parse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import SUFFIXES
from bisenetv2_ros.training.datasets import list_files, read_label
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
)

MAX_RLE_PIXELS = 1 << 28
#: A mask of the PNG export: task, annotation, who, the control's name, labels, number.
PNG_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-(\d+)\.png")


def read(root: Path, images: ImageFinder) -> Export:
    """Read Label Studio's JSON or, if there is none, its PNG export."""
    export = Export("Label Studio")
    has_tasks = False
    for path in list_files(root, [".json"]):
        content = read_json(path)
        if not isinstance(content, list):
            continue
        has_tasks = True
        for task in content:
            try:
                name = _studio_image(task["data"])
                results = [
                    result
                    for annotation in task.get("annotations") or task.get("completions") or []
                    if not annotation.get("was_cancelled")
                    for result in annotation["result"]
                ]
            except (KeyError, TypeError, AttributeError) as error:
                raise LabelImportError(f"{path}: not Label Studio's JSON: {error!r}") from error
            file = images.find(name) or images.find(re.sub(r"^[0-9a-f]{8}-", "", name))
            if file is None:
                export.left_out[NO_IMAGE] += 1
                continue
            regions = []
            for result in results:
                value = result.get("value") or {}
                kind = next((k for k in ("brushlabels", "polygonlabels") if value.get(k)), "")
                if kind:
                    export.add_name(str(value[kind][0]))
                    regions.append((str(value[kind][0]), value, result))
                else:
                    export.left_out[f"{result.get('type')} results, which outline no region"] += 1
            if not regions:
                export.left_out[NO_LABEL] += 1
                continue
            paint = partial(_paint, regions, path)
            export.frames.append(LabelledFrame(file, file.stem, "", paint))
    if not has_tasks and root.is_dir():
        _read_masks(root, images, export)
    export.names.sort()
    return export


def _read_masks(root: Path, images: ImageFinder, export: Export) -> None:
    """Read the masks of the PNG export: one for each label of each task.

    The export does not state the image of a task. Tasks are numbered in the order of upload, so
    they are paired with the images in the order of names, if there are as many.
    """
    tasks: dict[int, list[tuple[tuple[int, int], str, Path]]] = {}
    for path in list_files(root):
        if found := PNG_NAME.fullmatch(path.name):
            task, annotation, number = (int(found[group]) for group in (1, 2, 4))
            tasks.setdefault(task, []).append(((annotation, number), found[3], path))
    every = [path for path in images.every() if not PNG_NAME.fullmatch(path.name)]
    if tasks and len(every) != len(tasks):
        raise LabelImportError(
            f"{root}: Label Studio's PNG export, which does not say of which image a task is: "
            f"{len(tasks)} tasks and {len(every)} images, expected its JSON export, or as many "
            "images as tasks (--images DIR with the labeled ones alone)"
        )
    for (_, masks), image in zip(sorted(tasks.items()), every, strict=True):
        for _, name, _ in masks:
            export.add_name(name)
        paint = partial(_paint_masks, sorted(masks))
        export.frames.append(LabelledFrame(image, image.stem, "", paint))
    if len(tasks) > 1:
        first, last = min(tasks), max(tasks)
        export.notes.append(
            "the PNG export does not say of which image a task is: they are paired in order, from "
            f"task {first}, {every[0].name}, to task {last}, {every[-1].name}; look at "
            "`check-data --sheet`, or use the JSON export"
        )


def _paint_masks(masks: list[tuple[tuple[int, int], str, Path]], canvas: Canvas) -> None:
    height, width = canvas.size
    for _, name, path in masks:
        mask = read_label(path, white=255)
        if mask.shape != canvas.size:
            raise LabelImportError(
                f"{path}: a mask of {mask.shape[1]}x{mask.shape[0]}, expected the frame's "
                f"{width}x{height}"
            )
        canvas.label[mask > 0] = canvas.index_of(name, path)


def _studio_image(data: dict[str, Any]) -> str:
    """Return the file name in a task's data: of an upload, a local file or a web address."""
    names = []
    for text in (value for value in data.values() if isinstance(value, str)):
        parsed = urllib.parse.urlparse(text)
        local = urllib.parse.parse_qs(parsed.query).get("d", [])
        names.append(Path(urllib.parse.unquote(local[0] if local else parsed.path)).name)
    return next((name for name in names if Path(name).suffix.lower() in SUFFIXES), "")


def _paint(
    regions: list[tuple[str, dict[str, Any], dict[str, Any]]], path: Path, canvas: Canvas
) -> None:
    height, width = canvas.size
    for name, value, result in regions:
        number = canvas.index_of(name, path)
        labeled = result.get("original_width"), result.get("original_height")
        was = "{}x{}".format(*labeled)
        if "rle" in value:
            if labeled != (width, height):
                expected = f"expected the frame's {width}x{height}"
                raise LabelImportError(f"{path}: a brush of {was}, {expected}")
            canvas.label[decode_brush(value["rle"], canvas.size, path)] = number
        else:
            if labeled == (height, width) and width != height:
                raise LabelImportError(
                    f"{path}: outlines for {was}, the frame is {width}x{height}: it was turned"
                )
            points = check_points(value.get("points"), path)  # in percent
            points = [(x * (width / 100), y * (height / 100)) for x, y in points]
            canvas.fill(points, number, path)


def decode_brush(rle: Any, size: tuple[int, int], where: Path | str = "brush") -> NDArray[np.bool_]:
    """Decode a brush of Label Studio: bit-packed run lengths of RGBA pixels; alpha is the mask.

    The header has the number of values (32 bits), the width of a value minus one (5) and four
    widths of run lengths minus one (4 each). A run has a flag whether it repeats one value (1), the
    index of its width (2), its length minus one, then one value or as many as its length.
    """
    try:
        data = np.array(rle, np.int64)
        assert data.ndim == 1 and len(data) and data.min() >= 0 and data.max() < 256
    except (ValueError, TypeError, AssertionError) as error:
        raise LabelImportError(f"{where}: rle is {str(rle)[:40]}, expected bytes") from error
    bits = "".join(f"{byte:08b}" for byte in data.tolist())
    at = 0

    def take(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise LabelImportError(f"{where}: rle ends after {len(data)} bytes, in a run")
        value = int(bits[at : at + count], 2)
        at += count
        return value

    total, word = take(32), take(5) + 1
    if total != 4 * size[0] * size[1] or total > MAX_RLE_PIXELS:
        raise LabelImportError(f"{where}: rle of {total} values, expected {4 * size[0] * size[1]}")
    widths = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    place = 0
    while place < total:
        repeats = take(1)
        end = place + 1 + take(widths[take(2)])
        if end > total:
            raise LabelImportError(f"{where}: rle of more than {total} values")
        if repeats:
            values[place:end] = take(word)
        else:
            for i in range(place, end):
                values[i] = take(word)
        place = end
    return values.reshape(*size, 4)[..., 3] > 0
