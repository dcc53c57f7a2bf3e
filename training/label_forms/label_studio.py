"""Label Studio's JSON, with brushes and polygons, and its PNG export."""

from __future__ import annotations

import re
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import SUFFIXES
from bisenetv2_ros.training.datasets import read_label
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
)

MAX_RLE_PIXELS = 1 << 28
#: A mask of the PNG export: task, annotation, who, the control's name, labels, number.
PNG_NAME = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-[^-]+-(.+)-(\d+)\.png")


def read(root: Path, images: ImageFinder) -> Export:
    """Label Studio's JSON with brushes and polygons, or if there is none, its PNG export."""
    export = Export("Label Studio", [])
    paths = [root] if root.is_file() else [p for p in list_files(root) if p.suffix == ".json"]
    has_tasks = False
    for path in paths:
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
                export.left_out["frames whose image is missing"] += 1
                continue
            regions = []
            for result in results:
                value = result.get("value") or {}
                kind = next((k for k in ("brushlabels", "polygonlabels") if value.get(k)), "")
                if kind:
                    add_name(export, str(value[kind][0]))
                    regions.append((str(value[kind][0]), value, result))
                else:
                    export.left_out[f"{result.get('type')} results, which outline no region"] += 1
            if not regions:
                export.left_out["frames without a label"] += 1
                continue
            export.frames.append(LabelledFrame(file, file.stem, "", _studio(regions, path)))
    if not has_tasks and root.is_dir():
        _read_masks(root, images, export)
    export.names.sort()
    return export


def _read_masks(root: Path, images: ImageFinder, export: Export) -> None:
    """Read the masks of the PNG export: one for each label of each task.

    It does not say of which image a task is. Tasks are numbered in the order of their upload, so
    that they are taken as the images in the order of their names, if there are as many.
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
            add_name(export, name)
        export.frames.append(LabelledFrame(image, image.stem, "", _painted(sorted(masks))))
    if len(tasks) > 1:
        first, last = min(tasks), max(tasks)
        export.notes.append(
            "the PNG export does not say of which image a task is: they are paired in order, from "
            f"task {first}, {every[0].name}, to task {last}, {every[-1].name}; look at "
            "`check-data --sheet`, or use the JSON export"
        )


def _painted(masks: list[tuple[tuple[int, int], str, Path]]) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for _, name, path in masks:
            mask = read_label(path, white=255)
            if mask.shape != size:
                raise LabelImportError(
                    f"{path}: a mask of {mask.shape[1]}x{mask.shape[0]}, expected the frame's "
                    f"{size[1]}x{size[0]}"
                )
            label[mask > 0] = class_of(name, index, str(path))
        return label

    return paint


def _studio_image(data: dict[str, Any]) -> str:
    """The file name in a task's data: of an upload, a local file or a web address."""
    names = []
    for text in (value for value in data.values() if isinstance(value, str)):
        parsed = urllib.parse.urlparse(text)
        local = urllib.parse.parse_qs(parsed.query).get("d", [])
        names.append(Path(urllib.parse.unquote(local[0] if local else parsed.path)).name)
    return next((name for name in names if Path(name).suffix.lower() in SUFFIXES), "")


def _studio(regions: list[tuple[str, dict[str, Any], dict[str, Any]]], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for name, value, result in regions:
            number = class_of(name, index, str(path))
            height, width = result.get("original_height"), result.get("original_width")
            if "rle" in value:
                if (height, width) != size:
                    raise LabelImportError(
                        f"{path}: a brush of {width}x{height}, expected the frame's "
                        f"{size[1]}x{size[0]}"
                    )
                label[decode_brush(value["rle"], size, str(path))] = number
            else:
                if (width, height) == size and width != height:
                    raise LabelImportError(
                        f"{path}: outlines for {width}x{height}, the frame is {size[1]}x{size[0]}: "
                        "it was turned"
                    )
                scale = np.array([size[1], size[0]]) / 100  # they are per cent
                corners = np.array(check_points(value.get("points"), str(path))).reshape(-1, 2)
                points = [(float(x), float(y)) for x, y in corners * scale]
                fill(label, points, number, left_out, str(path))
        return label

    return paint


def decode_brush(rle: Any, size: tuple[int, int], where: str = "brush") -> NDArray[np.bool_]:
    """Decode a brush of Label Studio: run lengths, bit by bit, of RGBA pixels; alpha is the mask.

    After the number of values (32 bits), the bits of a value less one (5) and four widths of
    lengths less one (4 each), a run is: whether it repeats (1), which width (2), length less one,
    then one value or that many.
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
