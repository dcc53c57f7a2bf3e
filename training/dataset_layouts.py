"""Data sets by name: where their frames and labels lie, and what the label values mean."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from bisenetv2_ros.files.safe_yaml import YamlError, read_yaml
from bisenetv2_ros.labels import CAMVID, CITYSCAPES, LabelSet
from bisenetv2_ros.training.coco_stuff import COCO_STUFF_NAMES, spread_colours
from bisenetv2_ros.training.datasets import (
    IMAGE_SUFFIXES,
    Dataset,
    DatasetError,
    Decode,
    FileDataset,
    Pixels,
    SceneDataset,
    read_image,
    read_index_label,
)


def load_dataset(kind: str, root: str | Path, split: str) -> Dataset:
    """Find the samples of a split.

    Args:
        kind: a key of `STRUCTURES`.
        root: folder of the data set; not looked at for `synthetic`.
        split: `train`, `val`, ... as the data set names it; or several, joined by `+`; and behind
            a colon a pattern of the frames' names that keeps those frames, with `!` the others.
            `train+val:!0006R0*` is all that is labelled but one sequence.

    Raises:
        DatasetError: unknown kind, missing folder or split, no frames.
    """
    if kind not in STRUCTURES:
        near = difflib.get_close_matches(kind, STRUCTURES, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise DatasetError(f"dataset {kind!r}{hint}: expected one of {sorted(STRUCTURES)}")
    names, _, pattern = split.partition(":")
    if "+" not in names and not pattern:
        return STRUCTURES[kind](Path(root), names)
    parts = [STRUCTURES[kind](Path(root), name) for name in names.split("+")]
    files = [part for part in parts if isinstance(part, FileDataset)]
    if len(files) < len(parts):
        raise DatasetError(f"split {split!r}, expected the name of one split for {kind}")
    kept = [
        (frame, label)
        for part in files
        for frame, label in part.pairs
        if not pattern
        or fnmatch.fnmatchcase(frame.stem, pattern.removeprefix("!")) != pattern.startswith("!")
    ]
    if not kept:
        raise DatasetError(f"split {split!r}: no frame of {root} has a name that fits {pattern!r}")
    return FileDataset(files[0].labels, kept, files[0].decode, label_pattern="")


def load_dataset_of(
    labels: LabelSet, owner: str | Path, kind: str, root: str | Path, split: str
) -> Dataset:
    """`load_dataset` for a network that knows `labels`; DatasetError where its classes are others.

    owner: the network, for people.
    """
    dataset = load_dataset(kind, root, split)
    if dataset.labels.names != labels.names:
        raise DatasetError(
            f"{owner} knows the {len(labels)} classes of {labels.name}, expected the "
            f"{len(dataset.labels)} of {dataset.labels.name} ({kind})"
        )
    return dataset


def remap(classes: dict[int, int], ignored: Iterable[int]) -> Decode:
    """A decoder of index label maps: value to class, or to 255 if ignored.

    Any other value stays as it is, at least the number of classes, and so is found out of range.
    """
    table = np.arange(256, dtype=np.uint8)
    table[[*ignored, 255]] = 255
    for value, target in classes.items():
        table[value] = target

    def decode(path: Path) -> Pixels:
        return cv2.LUT(read_index_label(path), table)

    return decode


CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes(root: Path, split: str) -> Dataset:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`."""
    ending = "_gtFine_labelIds.png"
    frames = sorted(_folder(root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))

    def label_of(frame: Path) -> Path:
        name = frame.name.replace("_leftImg8bit.png", ending)
        return root / "gtFine" / split / frame.parent.name / name

    classes = {label_id: index for index, label_id in enumerate(CITYSCAPES_IDS)}
    decode = remap(classes, ignored=set(range(34)) - set(CITYSCAPES_IDS))
    return FileDataset(CITYSCAPES, _paired(frames, label_of, root), decode, f"*{ending}")


def camvid(root: Path, split: str) -> Dataset:
    """SegNet's copy, 480x360: `SPLIT/images/*.png`, `SPLIT/labels/*.png`; 11 is unlabelled."""
    frames = _frames(root / split / "images")
    pairs = _paired(frames, lambda f: root / split / "labels" / f.name, root)
    return FileDataset(CAMVID, pairs, remap({}, ignored=[11]))


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
    """The original, 960x720: `SPLIT/*.png` and `SPLIT_labels/*_L.png` in 32 colours."""
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

    return FileDataset(CAMVID, pairs, decode, "*_L.png")


def _coco_labels() -> LabelSet:
    return LabelSet("coco_stuff182", COCO_STUFF_NAMES, spread_colours(len(COCO_STUFF_NAMES)))


def coco_stuff164k(root: Path, split: str) -> Dataset:
    """`images/{train,val}2017/*.jpg`, `stuffthingmaps/{train,val}2017/*.png`: category - 1."""
    folder = split if split.endswith("2017") else f"{split}2017"
    frames = _frames(root / "images" / folder)
    pairs = _paired(frames, lambda f: root / "stuffthingmaps" / folder / f"{f.stem}.png", root)
    return FileDataset(_coco_labels(), pairs, remap({}, ignored=[]))


def coco_stuff10k(root: Path, split: str) -> Dataset:
    """`images/*.jpg`, `annotations/*.mat` (or `.png`), `imageLists/{train,test}.txt`.

    Values are category numbers from 1, 0 is unlabelled. The paper's validation split is `test`.
    """
    names = root / "imageLists" / f"{'test' if split == 'val' else split}.txt"
    if not names.is_file():
        raise DatasetError(f"{names}: missing, expected the list of the {split!r} split")
    stems = names.read_text(encoding="utf-8").split()
    frames = [root / "images" / f"{stem}.jpg" for stem in stems]
    suffix = ".png" if any((root / "annotations").glob("*.png")) else ".mat"
    pairs = _paired(frames, lambda f: root / "annotations" / f"{f.stem}{suffix}", root)
    classes = {category: category - 1 for category in range(1, 183)}
    decode_png = remap(classes, ignored=[0])
    table = np.full(256, 254, np.uint8)  # 254 is out of range
    table[:183] = [255, *classes.values()]

    def decode(path: Path) -> Pixels:
        return table[_read_mat(path)] if path.suffix == ".mat" else decode_png(path)

    return FileDataset(_coco_labels(), pairs, decode, label_pattern="")


def _read_mat(path: Path) -> Pixels:
    """The label map `S` of one of COCO-Stuff 10k's MATLAB files."""
    try:
        from scipy.io import loadmat

        return np.asarray(loadmat(path)["S"]).clip(0, 255).astype(np.uint8)
    except ModuleNotFoundError as error:
        raise DatasetError(f"{path}: MATLAB files need scipy: `pip install scipy`") from error
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"{path}: not a MATLAB file with a label map S: {error}") from error


def synthetic(root: Path, split: str) -> Dataset:
    """Nothing on disk: street scenes rendered by the package; splits train, val, test."""
    return SceneDataset(split)


def folder(root: Path, split: str) -> Dataset:
    """`classes.yaml` and `[SPLIT/]images/`, `[SPLIT/]labels/` (PNG: grey of one byte, or palette).

    Without a folder of any split, train and val are both the whole.

    classes.yaml: `name: my_set`, `ignore_index: 255`, and `classes:` as a list of
    `{name: road, colour: [128, 64, 128]}`, in the order of the label values.
    """
    labels = read_classes(root / "classes.yaml")
    base = root / split
    if not base.is_dir():
        others = sorted(path.parent.name for path in root.glob("*/images"))
        if others or split not in ("train", "val"):
            expected = ", ".join(others) or "train, val"
            raise DatasetError(f"{base}: no such folder, expected a split that is one: {expected}")
        base = root
    pairs = _paired(_frames(base / "images"), lambda f: base / "labels" / f"{f.stem}.png", root)
    return FileDataset(labels, pairs, read_index_label)


def _colour(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return int(red), int(green), int(blue)


def read_classes(path: Path) -> LabelSet:
    """Read a `classes.yaml` (see `folder`); DatasetError names the file and what is expected."""
    try:
        content = read_yaml(path)
        return LabelSet(
            name=str(content.get("name", path.parent.name)),
            names=tuple(str(entry["name"]) for entry in content["classes"]),
            palette=tuple(_colour(entry["colour"]) for entry in content["classes"]),
            ignore_index=int(content.get("ignore_index", 255)),
        )
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}, expected the list of classes") from error
    except YamlError as error:
        raise DatasetError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
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
        raise DatasetError(f"{root}: no frames; `bisenetv2 check-data --help` has the layouts")
    return [(frame, label_of(frame)) for frame in frames]
