"""Converts exports of annotation tools to masks: CVAT, Pascal VOC, COCO, labelme, and others.

`read_export` recognizes the format by its content and lists the labeled frames; `write_folder`
writes them as a dataset for `folder`. Files are untrusted input: names that lead out of the export
are refused, and nothing in them can run.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bisenetv2_ros.files.annotations import classes_text
from bisenetv2_ros.files.images import ImageFileError, raise_error, read_image, write_picture
from bisenetv2_ros.files.paths import natural_key, replacing
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.training.dataset_files import spread_colours
from bisenetv2_ros.training.datasets import DatasetError, list_files
from bisenetv2_ros.training.label_forms import coco, cvat, label_studio, labelme, roboflow, voc
from bisenetv2_ros.training.label_forms.common import (
    BACKGROUND,
    IGNORED,
    Canvas,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    read_json,
)

FORMS: dict[str, Callable[[Path, ImageFinder], Export]] = {
    "cvat": cvat.read,
    "voc": voc.read,
    "coco": coco.read,
    "labelme": labelme.read,
    "label-studio": label_studio.read,
    "roboflow": roboflow.read,
}


def read_export(root: Path, images: Path | None = None, form: str = "") -> Export:
    """Recognize and read an export.

    Args:
        root: its folder, or its only JSON or XML file.
        images: folder of the frames, if they are not in the export.
        form: one of `FORMS`; '' detects it.

    Raises:
        LabelImportError: if the form is unknown, a file is invalid, or there are no frames.
    """
    if not root.exists():
        raise LabelImportError(f"{root}: no such file or folder")
    finder = ImageFinder([images or (root if root.is_dir() else root.parent)])
    found = form or recognise(root)
    if found not in FORMS:
        raise LabelImportError(f"form {form!r}, expected one of {', '.join(FORMS)}")
    export = FORMS[found](root, finder)
    if not export.frames:
        missing = ", ".join(f"{n} {what}" for what, n in export.left_out.items()) or "none"
        raise LabelImportError(
            f"{root}: no labeled frame of {export.form} whose image is there ({missing}); give "
            "the folder of the images with --images"
        )
    return export


def recognise(root: Path) -> str:
    """Return the form of an export, one of `FORMS`."""
    files = list_files(root)
    if any(path.name == "_classes.csv" for path in files):
        return "roboflow"
    if any(path.parent.name == "SegmentationClass" for path in files):
        return "voc"
    for path in files:
        if path.suffix == ".xml" and b"<annotations" in path.read_bytes()[:4096]:
            return "cvat"
    for path in files:
        if path.suffix != ".json":
            continue
        content = read_json(path)
        if isinstance(content, list) and content and isinstance(content[0], dict):
            if "data" in content[0]:
                return "label-studio"
            if "annotator" in content[0] or "annotation_id" in content[0]:
                raise LabelImportError(f"{path}: Label Studio's JSON-MIN, expected its JSON export")
        elif isinstance(content, dict):
            if "shapes" in content:
                return "labelme"
            if "annotations" in content and "images" in content:
                return "coco"
    if any(label_studio.PNG_NAME.fullmatch(path.name) for path in files):
        return "label-studio"
    raise LabelImportError(f"{root}: none of {', '.join(FORMS)}, expected such an export (--form)")


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """Counts of `write_folder`: frames by split, pixels by class, and what was left out."""

    frames: Counter[str]
    pixels: dict[str, int]
    left_out: Counter[str]


def write_folder(
    export: Export,
    output: Path,
    labels: LabelSet | None = None,
    background: str = "",
    validation: float = 0.0,
    on_damaged: Callable[[ValueError], None] = raise_error,
) -> tuple[LabelSet, Written]:
    """Write an export as a dataset that `folder` reads: images, labels, classes.yaml.

    Args:
        export: from `read_export`.
        output: folder, new or empty.
        labels: the classes; None takes those of the export.
        background: class of unlabeled pixels; '' ignores them.
        validation: fraction of the frames, the last by name, for the split `val`; the others
            become `train`. 0 keeps the export's splits.
        on_damaged: receives the error of each frame that is left out.

    Raises:
        LabelImportError: if the output is not empty, or the classes do not fit.
    """
    if output.is_dir() and any(output.iterdir()):
        raise LabelImportError(f"{output}: is not empty, expected a new folder")
    labels = labels or _labels_of(export, output.name, background)
    index = {name: i for i, name in enumerate(labels.names)}
    strange = [name for name in export.names if name not in index]
    if strange:
        raise LabelImportError(
            f"the export has the class {strange[0]!r}, expected one of {', '.join(labels.names)}"
        )
    if background and background not in index:
        raise LabelImportError(
            f"background {background!r}, expected one of {', '.join(labels.names)}"
        )
    ignore = labels.ignore_index
    unlabelled = index[background] if background else ignore
    # pixels that labels mark as ignored stay so, even if the background is a class
    index |= dict.fromkeys(IGNORED, ignore) | dict.fromkeys(BACKGROUND, unlabelled) | index
    frames: Counter[str] = Counter()
    left_out = Counter(export.left_out)
    pixels = np.zeros(256, np.int64)
    names: set[tuple[str, str]] = set()
    output.mkdir(parents=True, exist_ok=True)
    for frame in _with_splits(export, validation):
        try:
            height, width = read_image(frame.image, frame.embedded).shape[:2]
            if frame.size and frame.size != (width, height):
                raise LabelImportError(
                    f"{frame.image}: the frame is {width}x{height}, expected the "
                    f"{frame.size[0]}x{frame.size[1]} for which the export has labels: was it "
                    "resized or turned?"
                )
            canvas = Canvas(np.full((height, width), unlabelled, np.uint8), index, left_out)
            frame.paint(canvas)
            label = canvas.label
            if label.shape != (height, width):
                raise LabelImportError(
                    f"{frame.image}: label is {label.shape[1]}x{label.shape[0]}, expected the "
                    f"frame's {width}x{height}"
                )
        except (DatasetError, ImageFileError) as error:
            on_damaged(error)
            left_out["damaged frames"] += 1
            continue
        name = _unused(frame.name, frame.split, names)
        base = output / frame.split if frame.split else output
        image = base / "images" / f"{name}{frame.image.suffix.lower()}"
        mask = base / "labels" / f"{name}.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(image) as partial:
            if frame.embedded:
                partial.write_bytes(frame.embedded)
            else:
                shutil.copyfile(frame.image, partial)
        write_picture(mask, label)
        pixels += np.bincount(label.ravel(), minlength=256)
        frames[frame.split] += 1
    if frames:
        (output / "classes.yaml").write_text(classes_text(labels), encoding="utf-8")
    by_class = {name: int(count) for name, count in zip(labels.names, pixels, strict=False)}
    return labels, Written(frames, by_class, left_out)


def _with_splits(export: Export, validation: float) -> list[LabelledFrame]:
    """Put the last frames into `val`: a stretch of the recording, not every n-th frame."""
    if not validation:
        return export.frames
    if any(frame.split for frame in export.frames):
        raise LabelImportError("the export has splits already, expected no fraction for val")
    frames = sorted(export.frames, key=lambda frame: natural_key(frame.name))
    first = len(frames) - max(1, round(validation * len(frames)))
    if first < 1:
        raise LabelImportError(f"{len(frames)} frames, expected more to take {validation:.0%} of")
    splits = ["train"] * first + ["val"] * (len(frames) - first)
    return [replace(frame, split=split) for frame, split in zip(frames, splits, strict=True)]


def _labels_of(export: Export, name: str, background: str) -> LabelSet:
    names = list(dict.fromkeys(export.names))
    if background and background not in names:
        names.insert(0, background)
    taken = set(export.colours.values())
    spare = iter(colour for colour in spread_colours(2 * len(names)) if colour not in taken)
    palette = []
    for entry in names:
        colour = export.colours.get(entry)
        # two classes of one color cannot be told apart in an image
        palette.append(colour if colour and colour not in palette else next(spare))
    if not names:
        raise LabelImportError("no classes in the export")
    return LabelSet(name or "imported", tuple(names), tuple(palette))


def _unused(name: str, split: str, names: set[tuple[str, str]]) -> str:
    unique, number = name, 1
    while (split, unique) in names:
        number += 1
        unique = f"{name}_{number}"
    names.add((split, unique))
    return unique
