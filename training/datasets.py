"""Data sets as lists of (frame, label) pairs: where they lie, and what their label values mean.

A data set is a `LabelSet`, a list of file pairs and a way to turn label files into class indices.
It knows nothing of augmentation, tensors or training. `STRUCTURES` names every layout known.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from bisenetv2_ros.labels import CAMVID, CITYSCAPES, LabelSet
from bisenetv2_ros.street_scene import StreetScene

Pixels = NDArray[np.uint8]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class DatasetError(ValueError):
    """A data set or one of its files that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Sample:
    """image (H, W, 3) uint8 RGB; label (H, W) uint8 class index or ignore; name for messages."""

    image: Pixels
    label: Pixels
    name: str


class Dataset(Protocol):
    """Samples by index, and what their labels mean."""

    labels: LabelSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


Decode = Callable[[Path], Pixels]


class FileDataset:
    """Frames and label maps in files, read when asked for."""

    def __init__(self, labels: LabelSet, pairs: list[tuple[Path, Path]], decode: Decode) -> None:
        self.labels = labels
        self.pairs = pairs
        self.decode = decode

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair; DatasetError where it is damaged, of two sizes, or out of range."""
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        label = self.decode(label_path)
        if image.shape[:2] != label.shape[:2]:
            raise DatasetError(
                f"{label_path}: label is {label.shape[1]}x{label.shape[0]}, expected the frame's "
                f"{image.shape[1]}x{image.shape[0]} ({image_path})"
            )
        wrong = (label >= len(self.labels)) & (label != self.labels.ignore_index)
        if wrong.any():
            raise DatasetError(
                f"{label_path}: label value {int(label[wrong][0])}, expected 0.."
                f"{len(self.labels) - 1} or {self.labels.ignore_index}"
            )
        return Sample(image, label, image_path.stem)


class SceneDataset:
    """Rendered street scenes with exact labels; sample i is a moment of the street of seed i."""

    def __init__(self, count: int, first_seed: int, size: tuple[int, int] = (480, 360)) -> None:
        self.labels = CAMVID
        self.count = count
        self.first_seed = first_seed
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        seed = self.first_seed + index
        moment = float(np.random.default_rng(seed).uniform(0, 60))
        image, label = StreetScene(seed, self.size).render(moment)
        return Sample(image, label, f"scene{seed}")


def load_dataset(kind: str, root: str | Path, split: str) -> Dataset:
    """Find the samples of a split.

    Args:
        kind: a key of `STRUCTURES`.
        root: folder of the data set; not looked at for `synthetic`.
        split: `train`, `val`, ... as the data set names it.

    Raises:
        DatasetError: unknown kind, missing folder or split, a frame without its label.
    """
    if kind not in STRUCTURES:
        near = difflib.get_close_matches(kind, STRUCTURES, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise DatasetError(f"dataset {kind!r}{hint}: expected one of {sorted(STRUCTURES)}")
    return STRUCTURES[kind](Path(root), split)


def read_image(path: Path) -> Pixels:
    """Read a colour picture as (H, W, 3) RGB; DatasetError where it cannot be read whole."""
    return cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_index_label(path: Path) -> Pixels:
    """Read a label map of one byte a pixel, its values as they are."""
    label = _read(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DatasetError(
            f"{path}: label map is {label.dtype} of shape {label.shape}, expected one byte a pixel"
        )
    return label


def _read(path: Path, flags: int) -> Pixels:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    # libpng and libjpeg hand back what they have of a cut file; the end mark tells
    if path.suffix.lower() == ".png" and data[-8:-4] != b"IEND":
        raise DatasetError(f"{path}: damaged, the PNG end mark is missing ({len(data)} bytes)")
    if path.suffix.lower() in (".jpg", ".jpeg") and b"\xff\xd9" not in data[-64:]:
        raise DatasetError(f"{path}: damaged, the JPEG end mark is missing ({len(data)} bytes)")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise DatasetError(f"{path}: not a picture that can be read ({len(data)} bytes)")
    return pixels


def remap(table: NDArray[np.uint8]) -> Decode:
    """A decoder that sends each value of an index label map through a table of 256."""

    def decode(path: Path) -> Pixels:
        return cv2.LUT(read_index_label(path), table)

    return decode


def lookup(values: dict[int, int], default: int = 255) -> NDArray[np.uint8]:
    """Table of 256 for `remap`, `default` where nothing is said."""
    table = np.full(256, default, np.uint8)
    for value, target in values.items():
        table[value] = target
    return table


# --- Cityscapes: official layout; label ids to train ids as in cityscapesScripts -----------------

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes(root: Path, split: str) -> Dataset:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`."""
    table = lookup({label_id: index for index, label_id in enumerate(CITYSCAPES_IDS)})
    frames = sorted(_folder(root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))

    def label_of(frame: Path) -> Path:
        name = frame.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        return root / "gtFine" / split / frame.parent.name / name

    return FileDataset(CITYSCAPES, _paired(frames, label_of, root), remap(table))


# --- CamVid ---------------------------------------------------------------------------------------


def camvid(root: Path, split: str) -> Dataset:
    """SegNet's copy, 480x360: `SPLIT/images/*.png`, `SPLIT/labels/*.png`; 11 is unlabelled."""
    table = lookup({value: value for value in range(11)})
    # a value above 11 is no label of this layout: leave it to be named as out of range
    table[12:255] = np.arange(12, 255, dtype=np.uint8)
    frames = _frames(root / split / "images")
    return FileDataset(
        CAMVID, _paired(frames, lambda f: root / split / "labels" / f.name, root), remap(table)
    )


# The 32 colours of Brostow et al. 2008 merged to 11 as SegNet does; Void is unlabelled.
CAMVID_COLOURS: dict[tuple[int, int, int], int] = {
    (128, 128, 128): 0, (128, 0, 0): 1, (0, 128, 64): 1, (64, 192, 0): 1, (64, 0, 64): 1,
    (192, 0, 128): 1, (192, 192, 128): 2, (0, 0, 64): 2, (128, 64, 128): 3, (128, 0, 192): 3,
    (192, 0, 64): 3, (0, 0, 192): 4, (64, 192, 128): 4, (128, 128, 192): 4, (128, 128, 0): 5,
    (192, 192, 0): 5, (192, 128, 128): 6, (128, 128, 64): 6, (0, 64, 64): 6, (64, 64, 128): 7,
    (64, 0, 128): 8, (64, 128, 192): 8, (192, 128, 192): 8, (192, 64, 128): 8, (128, 64, 64): 8,
    (64, 64, 0): 9, (192, 128, 64): 9, (64, 0, 192): 9, (64, 128, 64): 9, (0, 128, 192): 10,
    (192, 0, 192): 10, (0, 0, 0): 255,
}  # fmt: skip


def camvid32(root: Path, split: str) -> Dataset:
    """The original 960x720: `SPLIT/*.png` and `SPLIT_labels/*_L.png` in 32 colours."""
    frames = _frames(root / split)
    pairs = _paired(frames, lambda f: root / f"{split}_labels" / f"{f.stem}_L.png", root)
    keys = np.array([(r << 16) | (g << 8) | b for r, g, b in CAMVID_COLOURS], np.int64)
    order = np.argsort(keys)
    keys, classes = keys[order], np.array(list(CAMVID_COLOURS.values()), np.uint8)[order]

    def decode(path: Path) -> Pixels:
        rgb = read_image(path).astype(np.int64)
        packed = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        where = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        wrong = keys[where] != packed
        if wrong.any():
            colour = tuple(int(v) for v in rgb[wrong][0])
            raise DatasetError(f"{path}: colour {colour}, expected one of CamVid's 32")
        return classes[where]

    return FileDataset(CAMVID, pairs, decode)


# --- COCO-Stuff -----------------------------------------------------------------------------------


def _coco_labels() -> LabelSet:
    """The 182 category ids of COCO-Stuff by number; colours spread over the hue circle."""
    hues = ((np.arange(182) * 137.508) % 180).astype(np.uint8)  # golden angle: neighbours differ
    hsv = np.stack([hues, np.full(182, 200, np.uint8), np.full(182, 220, np.uint8)], axis=1)
    palette = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return LabelSet(
        name="coco_stuff182",
        names=tuple(f"category-{index + 1}" for index in range(182)),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in palette),
    )


def coco_stuff164k(root: Path, split: str) -> Dataset:
    """`images/{train,val}2017/*.jpg`, `stuffthingmaps/{train,val}2017/*.png`; id - 1, 255 ignored."""
    folder = split if split.endswith("2017") else f"{split}2017"
    frames = _frames(root / "images" / folder)
    pairs = _paired(frames, lambda f: root / "stuffthingmaps" / folder / f"{f.stem}.png", root)
    table = lookup({value: value for value in range(182)})
    return FileDataset(_coco_labels(), pairs, remap(table))


def coco_stuff10k(root: Path, split: str) -> Dataset:
    """`images/*.jpg`, `annotations/*.png` (0 unlabelled, ids from 1), `imageLists/SPLIT.txt`."""
    names = root / "imageLists" / f"{'test' if split == 'val' else split}.txt"
    if not names.is_file():
        raise DatasetError(f"{names}: missing, expected the list of the {split!r} split")
    stems = names.read_text(encoding="utf-8").split()
    frames = [root / "images" / f"{stem}.jpg" for stem in stems]
    pairs = _paired(frames, lambda f: root / "annotations" / f"{f.stem}.png", root)
    table = lookup({value + 1: value for value in range(182)})
    return FileDataset(_coco_labels(), pairs, remap(table))


# --- the synthetic scenes and a user's own folder -------------------------------------------------

SCENE_SEEDS = {"train": (3000, 100_000), "val": (50, 900_000), "test": (50, 950_000)}


def synthetic(root: Path, split: str) -> Dataset:
    """Street scenes rendered by the package; the seeds of the splits do not overlap."""
    if split not in SCENE_SEEDS:
        raise DatasetError(f"split {split!r}, expected one of {sorted(SCENE_SEEDS)}")
    return SceneDataset(*SCENE_SEEDS[split])


def folder(root: Path, split: str) -> Dataset:
    """`classes.yaml` and `[SPLIT/]images/`, `[SPLIT/]labels/` (PNG, one byte a pixel).

    classes.yaml: `name: my_set`, `ignore_index: 255`, `classes:` a list of `{name, colour: [r,g,b]}`.
    """
    labels = _read_classes(root / "classes.yaml")
    base = root / split if (root / split).is_dir() else root
    pairs = _paired(_frames(base / "images"), lambda f: base / "labels" / f"{f.stem}.png", root)
    return FileDataset(labels, pairs, read_index_label)


def _read_classes(path: Path) -> LabelSet:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return LabelSet(
            name=str(content.get("name", path.parent.name)),
            names=tuple(str(entry["name"]) for entry in content["classes"]),
            palette=tuple(tuple(int(v) for v in entry["colour"]) for entry in content["classes"]),
            ignore_index=int(content.get("ignore_index", 255)),
        )
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}, expected the list of classes") from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}: expected `classes:` as a list of {{name, colour: [r, g, b]}}; {error!r}"
        ) from error


STRUCTURES: dict[str, Callable[[Path, str], Dataset]] = {
    "cityscapes": cityscapes,
    "camvid": camvid,
    "camvid32": camvid32,
    "coco_stuff10k": coco_stuff10k,
    "coco_stuff164k": coco_stuff164k,
    "synthetic": synthetic,
    "folder": folder,
}


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder")
    return path


def _frames(path: Path) -> list[Path]:
    return sorted(p for p in _folder(path).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _paired(
    frames: list[Path], label_of: Callable[[Path], Path], root: Path
) -> list[tuple[Path, Path]]:
    """Pair frames with labels. A missing label is found when it is read, or by `check-data`."""
    if not frames:
        raise DatasetError(f"{root}: no frames found, expected the layout described in the README")
    return [(frame, label_of(frame)) for frame in frames]


def iterate(dataset: Dataset) -> Iterator[Sample]:
    """Every sample in order."""
    for index in range(len(dataset)):
        yield dataset[index]
