"""Labels as annotation tools export them, as masks: CVAT, Pascal VOC, COCO, labelme, and others.

`read_export` recognises the form by its content and lists the labelled frames; `write_folder` makes
a data set of them that `folder` reads. Files are read as untrusted input: names that lead out of
the export are refused, and nothing in them can run.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import re
import shutil
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.annotations import classes_text
from bisenetv2_ros.files.images import SUFFIXES, ImageFileError, read_image, write_picture
from bisenetv2_ros.files.paths import replacing
from bisenetv2_ros.labels import Colour, LabelSet
from bisenetv2_ros.training.dataset_files import spread_colours
from bisenetv2_ros.training.datasets import DatasetError, read_label

BACKGROUND = ("background", "_background_", "__background__")  # pixels that nobody has labelled
IGNORED = ("__ignore__", "ignore", "void")  # labelme's, and names that mean it
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test"}
MAX_RLE_PIXELS = 1 << 28

Pixels = NDArray[np.uint8]
Paint = Callable[[tuple[int, int], dict[str, int], int, Counter[str]], Pixels]


class LabelImportError(DatasetError):
    """An export that cannot be used; the message names the file and what was expected."""


@dataclass(frozen=True)
class LabelledFrame:
    """One frame of an export.

    Attributes:
        image: its file.
        name: path in the new data set without suffix, may have folders.
        split: `train`, `val`, `test`, or '' if the export has none.
        paint: makes the label map: (height, width), class index by name, value of pixels without a
            label, counter of what is left out -> (H, W) uint8.
    """

    image: Path
    name: str
    split: str
    paint: Paint


@dataclass
class Export:
    """What an export holds.

    Attributes:
        form: of which tool, for people.
        names: the classes in its order, without background.
        colours: those that it states, by name.
        frames: the labelled frames.
        left_out: what was not taken, with its number.
    """

    form: str
    names: list[str]
    colours: dict[str, Colour] = field(default_factory=dict)
    frames: list[LabelledFrame] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_export(root: Path, images: Path | None = None, form: str = "") -> Export:
    """Recognise and read an export.

    Args:
        root: its folder, or its one JSON or XML file.
        images: folder of the frames, if they are not in the export.
        form: one of `FORMS`; '' to go by the content.

    Raises:
        LabelImportError: no form that is known; a file that is not of its form; no frames.
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
            f"{root}: no labelled frame of {export.form} whose image is there ({missing}); give "
            "the folder of the images with --images"
        )
    return export


def recognise(root: Path) -> str:
    """Which of `FORMS` an export has."""
    files = [root] if root.is_file() else _files(root)
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
        content = _json(path)
        if isinstance(content, list) and content and isinstance(content[0], dict):
            if "data" in content[0]:
                return "label-studio"
        elif isinstance(content, dict):
            if "shapes" in content:
                return "labelme"
            if "annotations" in content and "images" in content:
                return "coco"
    raise LabelImportError(f"{root}: none of {', '.join(FORMS)}, expected such an export (--form)")


class ImageFinder:
    """Finds images by the names that exports give them."""

    def __init__(self, roots: list[Path]) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for root in roots:
            if not root.is_dir():
                raise LabelImportError(f"{root}: no such folder of images")
            for path in _files(root):
                if path.suffix.lower() in SUFFIXES:
                    self._by_name.setdefault(path.name, []).append(path)
                    self._by_name.setdefault(f"{path.stem}.*", []).append(path)

    def find(self, name: str, near: Path | None = None) -> Path | None:
        """The image of a name such as `a.png`, `front/a.png`, or `a.*`; None if it is not there.

        near: preferred if several folders have one; else the one that shares most of the path.
        """
        parts = Path(name.replace("\\", "/")).parts
        if not parts:
            return None
        found = [
            path
            for path in self._by_name.get(parts[-1], [])
            if not any(
                folder in ("SegmentationClass", "SegmentationObject") for folder in path.parts
            )
        ]

        def fit(path: Path) -> tuple[bool, int]:
            shared = 0
            for ours, theirs in zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False):
                if ours != theirs:
                    break
                shared += 1
            return (near is not None and path.parent == near, shared)

        return max(found, key=fit) if found else None


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What `write_folder` has done: frames by split, pixels by class, and what was left out."""

    frames: Counter[str]
    pixels: dict[str, int]
    left_out: Counter[str]


def write_folder(
    export: Export,
    output: Path,
    labels: LabelSet | None = None,
    background: str = "",
    on_damaged: Callable[[ValueError], None] | None = None,
) -> tuple[LabelSet, Written]:
    """Write an export as a data set that `folder` reads: images, labels, classes.yaml.

    Args:
        export: of `read_export`.
        output: folder, new or without images and labels.
        labels: the classes, if not those of the export.
        background: class of the pixels without a label; '' to ignore them.
        on_damaged: receives what is wrong with a frame that is left out; without it, such a frame
            raises its error.

    Raises:
        LabelImportError: the output is not empty, or the classes do not fit.
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
    # what labels say is to be ignored stays so, also where the background is a class
    index |= dict.fromkeys(IGNORED, ignore) | dict.fromkeys(BACKGROUND, unlabelled) | index
    frames: Counter[str] = Counter()
    left_out = Counter(export.left_out)
    pixels = np.zeros(256, np.int64)
    names: set[tuple[str, str]] = set()
    output.mkdir(parents=True, exist_ok=True)
    (output / "classes.yaml").write_text(classes_text(labels), encoding="utf-8")
    for frame in export.frames:
        try:
            height, width = read_image(frame.image).shape[:2]
            label = frame.paint((height, width), index, unlabelled, left_out)
            if label.shape != (height, width):
                raise LabelImportError(
                    f"{frame.image}: label is {label.shape[1]}x{label.shape[0]}, expected the "
                    f"frame's {width}x{height}"
                )
        except (DatasetError, ImageFileError) as error:
            if on_damaged is None:
                raise
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
            shutil.copyfile(frame.image, partial)
        write_picture(mask, label)
        pixels += np.bincount(label.ravel(), minlength=256)
        frames[frame.split] += 1
    by_class = {name: int(count) for name, count in zip(labels.names, pixels, strict=False)}
    return labels, Written(frames, by_class, left_out)


def _labels_of(export: Export, name: str, background: str) -> LabelSet:
    names = list(dict.fromkeys(export.names))
    if background and background not in names:
        names.insert(0, background)
    taken = set(export.colours.values())
    spare = iter(colour for colour in spread_colours(2 * len(names)) if colour not in taken)
    palette = []
    for entry in names:
        colour = export.colours.get(entry)
        # two classes of one colour cannot be told apart in a picture
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


# --- shapes ---------------------------------------------------------------------------------------


def _fill(label: Pixels, points: list[tuple[float, float]], value: int) -> None:
    """Paint a polygon, with its outline, as labelme and CVAT do."""
    from PIL import Image, ImageDraw

    mask = Image.new("1", label.shape[::-1])
    ImageDraw.Draw(mask).polygon(points, outline=1, fill=1)
    label[np.array(mask)] = value


def _points(values: Any, where: str) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in values]
    except (TypeError, ValueError) as error:
        raise LabelImportError(f"{where}: points {str(values)[:40]}, expected x and y") from error
    if len(points) < 3 or not np.isfinite(points).all() or np.abs(points).max() > 1e6:
        raise LabelImportError(f"{where}: {len(points)} points, expected 3 or more in the frame")
    return points


def _class_of(name: str, index: dict[str, int], where: str) -> int:
    if name not in index:
        raise LabelImportError(f"{where}: class {name!r} is not in the export's list")
    return index[name]


# --- CVAT -----------------------------------------------------------------------------------------


def _read_cvat(root: Path, images: ImageFinder) -> Export:
    """CVAT for images 1.1: annotations.xml with polygons, masks, boxes."""
    paths = [root] if root.is_file() else [p for p in _files(root) if p.suffix == ".xml"]
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
            _add_name(export, name)
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
                _add_name(export, shape.get("label", ""))
            shapes.sort(key=lambda shape: int(shape.get("z_order", "0")))
            split = SPLITS.get(image.get("subset", "").lower(), "")
            export.frames.append(LabelledFrame(file, _safe(name, path), split, _cvat(shapes, path)))
    return export


def _cvat(shapes: list[ElementTree.Element], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for shape in shapes:
            value = _class_of(shape.get("label", ""), index, str(path))
            if shape.tag == "polygon":
                pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
                _fill(label, _points(pairs, str(path)), value)
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


# --- Pascal VOC -----------------------------------------------------------------------------------


def _read_voc(root: Path, images: ImageFinder) -> Export:
    """SegmentationClass in colours of labelmap.txt; also CVAT's "Segmentation mask 1.1"."""
    export = Export("Pascal VOC", [])
    folders = sorted({p.parent for p in _files(root) if p.parent.name == "SegmentationClass"})
    if not folders:
        raise LabelImportError(f"{root}: no folder SegmentationClass")
    for folder in folders:
        colours = _labelmap(folder.parent / "labelmap.txt")
        for name, colour in colours.items():
            if name not in BACKGROUND + IGNORED:
                _add_name(export, name)
                export.colours[name] = colour
        splits = _voc_splits(folder.parent / "ImageSets" / "Segmentation")
        for path in _files(folder):
            if path.suffix.lower() != ".png":
                continue
            name = path.relative_to(folder).with_suffix("").as_posix()
            file = images.find(f"{name}.*", folder.parent / "JPEGImages")
            if file is None:
                export.left_out["labels whose image is missing"] += 1
                continue
            split = splits.get(name, "")
            export.frames.append(LabelledFrame(file, name, split, _voc(path, colours)))
    return export


def _labelmap(path: Path) -> dict[str, Colour]:
    """Colours by class of `labelmap.txt`; without it the 21 classes of the challenge."""
    if not path.is_file():
        return dict(zip(VOC_NAMES, _voc_palette(), strict=False)) | {"void": (224, 224, 192)}
    colours: dict[str, Colour] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.split(":")
        try:
            red, green, blue = (int(value) for value in rest[0].split(","))
        except (IndexError, ValueError) as error:
            raise LabelImportError(
                f"{path}: {line!r}, expected NAME:R,G,B:PARTS:ACTIONS"
            ) from error
        if name in colours or (red, green, blue) in colours.values():
            raise LabelImportError(f"{path}: {line!r}, expected each name and colour once")
        colours[name] = (red, green, blue)
    return colours


VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def _voc_palette() -> list[Colour]:
    """The challenge's colours: the bits of the number spread over red, green and blue."""

    def channel(number: int, offset: int) -> int:
        return sum(((number >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(256)]


def _voc_splits(folder: Path) -> dict[str, str]:
    """The split of each frame, by the lists in ImageSets/Segmentation."""
    splits: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        split = SPLITS.get(path.stem.lower(), "")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and split:
                splits[line.strip()] = split
    return splits


def _voc(path: Path, colours: dict[str, Colour]) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        return _by_colour(path, colours, index, start)

    return paint


def _by_colour(path: Path, colours: dict[str, Colour], index: dict[str, int], start: int) -> Pixels:
    """A label map of a picture in the colours of classes; black is without a label."""
    rgb = read_label(path, colours=True).astype(np.int32)
    packed = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    values = {0: start}
    for name, (red, green, blue) in colours.items():
        values[(red << 16) | (green << 8) | blue] = _class_of(name, index, str(path))
    found, inverse = np.unique(packed, return_inverse=True)
    for value in found.tolist():
        if value not in values:
            colour = (value >> 16, (value >> 8) & 255, value & 255)
            raise LabelImportError(f"{path}: colour {colour}, expected one of labelmap.txt")
    table = np.array([values[value] for value in found.tolist()], np.uint8)
    return table[inverse.reshape(packed.shape)]


# --- COCO -----------------------------------------------------------------------------------------


def _read_coco(root: Path, images: ImageFinder) -> Export:
    """COCO's JSON, with polygons and run lengths."""
    export = Export("COCO", [])
    paths = [root] if root.is_file() else [p for p in _files(root) if p.suffix == ".json"]
    for path in paths:
        content = _json(path)
        if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
            continue
        try:
            categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            used = {int(a["category_id"]) for a in content["annotations"]}
            by_image: dict[Any, list[dict[str, Any]]] = {}
            for annotation in content["annotations"]:
                by_image.setdefault(annotation["image_id"], []).append(annotation)
            listed = [(i["id"], str(i["file_name"])) for i in content["images"]]
        except (KeyError, TypeError, ValueError) as error:
            raise LabelImportError(f"{path}: not COCO's JSON: {error!r}") from error
        if unknown := sorted(used - set(categories)):
            raise LabelImportError(f"{path}: category {unknown[0]} is not in its categories")
        supers = {c.get("supercategory") for c in content["categories"]}
        for number, name in sorted(categories.items()):
            # Roboflow has a category that the others belong to and no annotation has
            if number in used or name not in supers:
                _add_name(export, name)
        split = _split_of(path, root)
        for image, name in listed:
            file = images.find(name, path.parent)
            annotations = by_image.get(image, [])
            if file is None:
                export.left_out["frames whose image is missing"] += 1
            elif not annotations:
                export.left_out["frames without a label"] += 1
            else:
                paint = _coco(annotations, categories, path)
                export.frames.append(LabelledFrame(file, _safe(name, path), split, paint))
    return export


def _split_of(path: Path, root: Path) -> str:
    """The split that a file's name or folders tell: `train/_annotations.coco.json`."""
    parts = path.relative_to(root).parts if path != root else (path.name,)
    for word in re.findall(r"[a-z]+", " ".join(parts).lower()):
        if word in SPLITS:
            return SPLITS[word]
    return ""


def _coco(annotations: list[dict[str, Any]], categories: dict[int, str], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        found = []
        for annotation in annotations:
            mask = _coco_mask(annotation, size, path)
            if mask is None:
                left_out["boxes without a segmentation"] += 1
                continue
            name = categories[int(annotation["category_id"])]
            found.append((int(mask.sum()), _class_of(name, index, str(path)), mask))
        # of what lies over one another the smaller is in front
        for _, value, mask in sorted(found, key=lambda entry: -entry[0]):
            label[mask.astype(bool)] = value
        return label

    return paint


def _coco_mask(annotation: dict[str, Any], size: tuple[int, int], path: Path) -> Pixels | None:
    from pycocotools import mask as coco

    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    height, width = size
    where = f"{path}: annotation {annotation.get('id')}"
    try:
        if isinstance(segmentation, list):
            if any(len(polygon) < 6 for polygon in segmentation):
                raise ValueError("a polygon of less than three points")
            runs = coco.merge(coco.frPyObjects(segmentation, height, width))
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


# --- labelme --------------------------------------------------------------------------------------


def _read_labelme(root: Path, images: ImageFinder) -> Export:
    """labelme's JSON files, one a frame."""
    export = Export("labelme", [])
    paths = [root] if root.is_file() else [p for p in _files(root) if p.suffix == ".json"]
    for path in paths:
        content = _json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            continue
        name = str(content.get("imagePath") or f"{path.stem}.*")
        file = images.find(name, path.parent) or images.find(f"{path.stem}.*", path.parent)
        if file is None:
            export.left_out["frames whose image is missing"] += 1
            continue
        if not content["shapes"]:
            export.left_out["frames without a label"] += 1
            continue
        for shape in content["shapes"]:
            if not isinstance(shape, dict):
                raise LabelImportError(f"{path}: a shape is {str(shape)[:40]!r}")
            _add_name(export, str(shape.get("label")))
        split = _split_of(path, root)
        export.frames.append(
            LabelledFrame(file, path.stem, split, _labelme(content["shapes"], path))
        )
    export.names.sort()  # their order in the files says nothing
    return export


def _labelme(shapes: list[dict[str, Any]], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for shape in shapes:
            kind = str(shape.get("shape_type") or "polygon")
            value = _class_of(str(shape.get("label")), index, str(path))
            points = shape.get("points") or []
            if kind == "polygon":
                _fill(label, _points(points, str(path)), value)
            elif kind == "rectangle":
                (a, b), (c, d) = _points([*points, (0, 0)], str(path))[:2]
                _fill(label, [(a, b), (c, b), (c, d), (a, d)], value)
            elif kind == "circle":
                (a, b), (c, d) = _points([*points, (0, 0)], str(path))[:2]
                radius = float(np.hypot(c - a, d - b))
                turn = np.linspace(0, 2 * np.pi, 128, endpoint=False)
                around = zip(a + radius * np.cos(turn), b + radius * np.sin(turn), strict=True)
                _fill(label, list(around), value)
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


# --- Label Studio ---------------------------------------------------------------------------------


def _read_label_studio(root: Path, images: ImageFinder) -> Export:
    """Label Studio's JSON with brushes and polygons."""
    export = Export("Label Studio", [])
    paths = [root] if root.is_file() else [p for p in _files(root) if p.suffix == ".json"]
    for path in paths:
        content = _json(path)
        if not isinstance(content, list):
            continue
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
                    _add_name(export, str(value[kind][0]))
                    regions.append((str(value[kind][0]), value, result))
                else:
                    export.left_out[f"{result.get('type')} results, which outline no region"] += 1
            if not regions:
                export.left_out["frames without a label"] += 1
                continue
            export.frames.append(LabelledFrame(file, file.stem, "", _studio(regions, path)))
    export.names.sort()
    return export


def _studio_image(data: dict[str, Any]) -> str:
    """The file name in a task's data: of an upload, a local file or a web address."""
    address = next(str(v) for k, v in data.items() if isinstance(v, str) and ("/" in v or "." in v))
    parsed = urllib.parse.urlparse(address)
    local = urllib.parse.parse_qs(parsed.query).get("d", [])
    return Path(urllib.parse.unquote(local[0] if local else parsed.path)).name


def _studio(regions: list[tuple[str, dict[str, Any], dict[str, Any]]], path: Path) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = np.full(size, start, np.uint8)
        for name, value, result in regions:
            number = _class_of(name, index, str(path))
            if "rle" in value:
                height, width = result.get("original_height"), result.get("original_width")
                if (height, width) != size:
                    raise LabelImportError(
                        f"{path}: a brush of {width}x{height}, expected the frame's "
                        f"{size[1]}x{size[0]}"
                    )
                label[decode_brush(value["rle"], size, str(path))] = number
            else:
                scale = np.array([size[1], size[0]]) / 100  # they are per cent
                points = np.array(_points(value.get("points"), str(path))) * scale
                _fill(label, [(float(x), float(y)) for x, y in points], number)
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


# --- Roboflow -------------------------------------------------------------------------------------


def _read_roboflow(root: Path, images: ImageFinder) -> Export:
    """Roboflow's semantic masks: NAME.jpg, NAME_mask.png, and _classes.csv in each split."""
    export = Export("Roboflow masks", [])
    for table in (path for path in _files(root) if path.name == "_classes.csv"):
        values: dict[int, str] = {}
        with table.open(newline="", encoding="utf-8") as lines:
            for row in list(csv.reader(lines))[1:]:
                try:
                    values[int(row[0])] = row[1].strip()
                except (IndexError, ValueError) as error:
                    raise LabelImportError(
                        f"{table}: {row}, expected a value and a class"
                    ) from error
        for name in values.values():
            _add_name(export, name)
        split = _split_of(table, root)
        for path in sorted(table.parent.glob("*_mask.png")):
            name = path.name.removesuffix("_mask.png")
            file = images.find(f"{name}.*", table.parent)
            if file is None:
                export.left_out["labels whose image is missing"] += 1
                continue
            export.frames.append(LabelledFrame(file, name, split, _roboflow(path, values)))
    return export


def _roboflow(path: Path, values: dict[int, str]) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = read_label(path)
        if label.ndim != 2:
            raise LabelImportError(
                f"{path}: a mask in colours, expected the values of _classes.csv"
            )
        table = np.full(65536, 254, np.uint8)
        for value, name in values.items():
            table[value] = _class_of(name, index, str(path))
        wrong = ~np.isin(label, list(values))
        if wrong.any():
            raise LabelImportError(
                f"{path}: value {int(label[wrong][0])}, expected one of _classes.csv"
            )
        return table[label]

    return paint


FORMS: dict[str, Callable[[Path, ImageFinder], Export]] = {
    "cvat": _read_cvat,
    "voc": _read_voc,
    "coco": _read_coco,
    "labelme": _read_labelme,
    "label-studio": _read_label_studio,
    "roboflow": _read_roboflow,
}


# --- small things ---------------------------------------------------------------------------------


def _add_name(export: Export, name: str) -> None:
    if name and name not in (*BACKGROUND, *IGNORED, *export.names):
        export.names.append(name)


def _files(root: Path) -> list[Path]:
    """Files below a folder, sorted; hidden ones are passed over."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelImportError(f"{path}: not JSON: {error}") from error


def _safe(name: str, path: Path) -> str:
    """A frame's name as a path below the data set, without suffix."""
    relative = Path(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        raise LabelImportError(f"{path}: frame {name!r} leads out of the export")
    return relative.with_suffix("").as_posix()


def _hex(text: str) -> Colour | None:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
