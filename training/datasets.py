"""Data sets as lists of (frame, label) pairs: where they lie, and what their label values mean.

A data set is a `LabelSet`, a list of file pairs and a way to turn label files into class indices.
It knows nothing of augmentation, tensors or training. `STRUCTURES` names every layout known.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.labels import CAMVID, CITYSCAPES, LabelSet
from bisenetv2_ros.street_scene import StreetScene
from bisenetv2_ros.training.coco_stuff import COCO_STUFF_NAMES, spread_colours
from bisenetv2_ros.yaml_file import YamlError, read_yaml

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
    """Frames and label maps in files, read when asked for.

    Attributes:
        labels: what the decoded values mean.
        pairs: frame and label file of each sample; whether they exist is seen on reading.
        decode: label file to (H, W) uint8 class indices.
        label_pattern: glob of the label files in their folders, to find those without a frame; ''
            where a folder holds the labels of other splits too.
    """

    def __init__(
        self,
        labels: LabelSet,
        pairs: list[tuple[Path, Path]],
        decode: Decode,
        label_pattern: str = "*.png",
    ) -> None:
        self.labels = labels
        self.pairs = pairs
        self.decode = decode
        self.label_pattern = label_pattern

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

    def lone_labels(self) -> list[Path]:
        """List the label files that belong to no frame."""
        if not self.label_pattern:
            return []
        paired = {label for _, label in self.pairs}
        folders = sorted({label.parent for label in paired})
        return [
            path
            for folder in folders
            for path in sorted(folder.glob(self.label_pattern))
            if path not in paired
        ]


SCENE_SPLITS = {"train": (512, 100_000), "val": (50, 900_000), "test": (50, 950_000)}


class SceneDataset:
    """Rendered street scenes with exact labels; each sample is a moment in a street of its own.

    The splits share no street. What was rendered is kept: it takes longer than all else.

    Args:
        split: `train`, `val` or `test`.
        size: (width, height) of the scenes in pixels.
        count: how many scenes; by default 512 to train with, 50 to score on.
    """

    def __init__(
        self, split: str, size: tuple[int, int] = (480, 360), count: int | None = None
    ) -> None:
        if split not in SCENE_SPLITS:
            raise DatasetError(f"split {split!r}, expected one of {', '.join(SCENE_SPLITS)}")
        self.labels = CAMVID
        standard, self.first_seed = SCENE_SPLITS[split]
        self.count = standard if count is None else count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return _render_scene(self.first_seed + index, self.size)


@functools.cache
def _render_scene(seed: int, size: tuple[int, int]) -> Sample:
    moment = float(np.random.default_rng(seed).uniform(0, 60))
    image, label = StreetScene(seed, size).render(moment)
    return Sample(image, label, f"scene{seed}")


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


def find_faults(dataset: Dataset, pixels: NDArray[np.int64] | None = None) -> Iterator[str | None]:
    """Read every sample, yielding for each what is wrong with it, or None; then the lone labels.

    pixels: (256,), to which the number of pixels of each label value is added.
    """
    for index in range(len(dataset)):
        try:
            label = dataset[index].label
        except DatasetError as error:
            yield str(error)
            continue
        if pixels is not None:
            pixels += np.bincount(label.ravel(), minlength=256)
        yield None
    if isinstance(dataset, FileDataset):
        for path in dataset.lone_labels():
            yield f"{path}: a label without a frame"


def read_image(path: Path) -> Pixels:
    """Read a colour picture as (H, W, 3) RGB; DatasetError where it cannot be read whole."""
    return cv2.cvtColor(_decode(path, _read(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_index_label(path: Path) -> Pixels:
    """Read a label map of one byte a pixel, its values as they are; of a palette, the indices.

    OpenCV makes colours of indices, and 255 of the 1 of a picture of 1 bit. Such a one is refused,
    and so is a palette of greys that are not their indices: its values may mean either.
    """
    data = _read(path)
    depth, colours = _png_form(data)
    if colours == PNG_PALETTE:
        return _read_indices(path, data)
    label = _decode(path, data, cv2.IMREAD_UNCHANGED)
    if colours == PNG_GREY and depth < 8 and label.any():
        raise DatasetError(
            f"{path}: label map is a grey PNG of {depth} bits a pixel, whose largest value "
            "may mean a class or white, expected grey, one byte a pixel"
        )
    if label.ndim == 3 and (label == label[..., :1]).all():
        label = label[..., 0]  # grey, but saved as colour
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DatasetError(
            f"{path}: label map is {label.dtype} of shape {label.shape}, expected grey, one byte a "
            "pixel"
        )
    return label


PNG_GREY, PNG_PALETTE = 0, 3


def _png_form(data: bytes) -> tuple[int, int]:
    """Bits a pixel and channel, and kind of colours, of a PNG; zero and -1 of other files."""
    is_png = data.startswith(b"\x89PNG") and len(data) > 25
    return (data[24], data[25]) if is_png else (0, -1)


def _read_indices(path: Path, data: bytes) -> Pixels:
    """Indices (H, W) of a PNG with a palette, which OpenCV does not hand out."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            label = np.array(picture)
            palette = np.reshape(picture.getpalette() or [], (-1, 3))
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path}: not a picture that can be read: {error}") from error
    used = np.unique(label)
    if used[-1] >= len(palette):
        raise DatasetError(
            f"{path}: index {used[-1]}, expected one of the PNG's palette of {len(palette)}"
        )
    if (palette == palette[:, :1]).all() and (palette[used, 0] != used).any():
        raise DatasetError(
            f"{path}: label map is a PNG with a palette of greys, whose values may mean the greys "
            "or their indices, expected grey, one byte a pixel, or a palette of colours"
        )
    return label


def _read(path: Path) -> bytes:
    """The file; DatasetError where it cannot be read, or its end is missing."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    # libpng and libjpeg hand back what they have of a cut file; the end mark tells
    if path.suffix.lower() == ".png" and b"IEND" not in data[-64:]:
        raise DatasetError(f"{path}: damaged, the PNG end mark is missing ({len(data)} bytes)")
    if path.suffix.lower() in (".jpg", ".jpeg") and b"\xff\xd9" not in data[-64:]:
        raise DatasetError(f"{path}: damaged, the JPEG end mark is missing ({len(data)} bytes)")
    return data


def _decode(path: Path, data: bytes, flags: int) -> Pixels:
    pixels = None
    with contextlib.suppress(cv2.error):  # of a picture that claims to be enormous
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise DatasetError(f"{path}: not a picture that can be read ({len(data)} bytes)")
    return pixels


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


# --- Cityscapes: official layout; label ids to train ids as in cityscapesScripts -----------------

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


# --- CamVid ---------------------------------------------------------------------------------------


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


# --- COCO-Stuff -----------------------------------------------------------------------------------


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


# --- the synthetic scenes and a user's own folder -------------------------------------------------


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
