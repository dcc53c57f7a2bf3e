"""Opens datasets by name: those of `config/datasets/`, your own files, synthetic streets."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import re
from pathlib import Path

import numpy as np

from bisenetv2_ros.files.images import SUFFIXES
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.training.dataset_files import (
    DatasetFile,
    kind_of,
    known_dataset,
    known_datasets,
    read_dataset_file,
)
from bisenetv2_ros.training.dataset_splits import open_dataset
from bisenetv2_ros.training.datasets import (
    Dataset,
    DatasetError,
    FileDataset,
    SceneDataset,
    composed,
    list_files,
    read_label,
)
from bisenetv2_ros.training.label_values import make_decoder
from bisenetv2_ros.training.recipe import Recipe

FOLDER, SYNTHETIC = "folder", "synthetic"
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LOOKED_AT = 40  # labels read to detect whether they are in colors
LABEL_FOLDERS = ("labels", "masks", "annotations")
LABEL_ENDINGS = ("", "_mask", "_label", "_labels", "_labelIds", "_gt", "_seg", "_L")
# JPEG and GIF to be refused by name
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".webp", ".gif")


def dataset_kinds() -> list[str]:
    """List the names that `load_dataset` accepts, besides paths of YAML files."""
    return sorted([*known_datasets(), FOLDER, SYNTHETIC])


def load_dataset(kind: str, root: str | Path, split: str) -> Dataset:
    """Open one or several splits of a dataset.

    Args:
        kind: one of `dataset_kinds()`, or the path of a dataset's YAML file.
        root: folder of the dataset; ignored for `synthetic`.
        split: name of a split, or several joined by `+`. A colon starts a filter: a pattern of
            frame names to keep, with `!` to drop, or a range of their order. `train+val:!0006R0*`
            has all frames except one sequence, `train:..80%` the first four fifths.

    Raises:
        DatasetError: if the kind, folder or split is unknown, or there are no frames.
    """
    names, _, pattern = split.partition(":")
    if "+" not in names and not pattern:
        return _load_split(kind, Path(root), names)
    parts = [_load_split(kind, Path(root), name) for name in names.split("+")]
    files = [part for part in parts if isinstance(part, FileDataset)]
    if len(files) < len(parts):
        raise DatasetError(f"split {split!r}, expected the name of one split for {kind}")
    pairs = [pair for part in files for pair in part.pairs]
    if bounds := re.fullmatch(r"(?:(\d+)%)?\.\.(?:(\d+)%)?", pattern):
        low, high = int(bounds[1] or 0), int(bounds[2] or 100)
        kept = pairs[len(pairs) * low // 100 : len(pairs) * high // 100]
    else:
        kept = [
            (frame, label)
            for frame, label in pairs
            if not pattern
            or fnmatch.fnmatchcase(frame.stem, pattern.removeprefix("!")) != pattern.startswith("!")
        ]
    if not kept:
        raise DatasetError(f"split {split!r}: no frame of {root} has a name that fits {pattern!r}")
    return dataclasses.replace(files[0], pairs=kept, list_labels=None)


def load_splits(recipe: Recipe, root: Path) -> tuple[Dataset, Dataset]:
    """Load a recipe's splits to train and to validate on; errors as in `load_dataset`."""
    training, validation = (
        load_dataset(recipe.dataset, root, split)
        for split in (recipe.train_split, recipe.val_split)
    )
    return training, validation


def _load_split(kind: str, root: Path, split: str) -> Dataset:
    if kind == SYNTHETIC:
        return SceneDataset(split)
    if kind == FOLDER:
        content = read_dataset_file(classes_file(root))
        return open_dataset(content, root, split) if content.layouts else folder(root, split)
    return open_dataset(dataset_file(kind), root, split)


def dataset_file(kind: str) -> DatasetFile:
    """Return the description of a dataset, by name or by the path of its YAML file."""
    if Path(kind).suffix in (".yaml", ".yml"):
        content = read_dataset_file(Path(kind))
        if not content.layouts:
            raise DatasetError(f"{kind}: no `layouts:`, expected the paths of frames and labels")
        return content
    if kind not in known_datasets():
        near = difflib.get_close_matches(kind, dataset_kinds(), 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise DatasetError(
            f"dataset {kind!r}{hint}: expected one of {dataset_kinds()}, or a YAML file"
        )
    return known_dataset(kind)


def load_dataset_of(
    labels: LabelSet, owner: str | Path, kind: str, root: str | Path, split: str
) -> Dataset:
    """Do as `load_dataset`, for a network with `labels`, named `owner` in errors.

    Raises DatasetError also if the classes differ.
    """
    dataset = load_dataset(kind, root, split)
    if dataset.labels.names != labels.names:
        raise DatasetError(
            f"{owner} knows the {len(labels)} classes of {labels.name}, expected the "
            f"{len(dataset.labels)} of {dataset.labels.name} ({kind}){differing(labels, dataset)}"
        )
    return dataset


def same_files(one: Dataset, other: Dataset) -> bool:
    """Return whether two splits have the same frames."""
    if not (isinstance(one, FileDataset) and isinstance(other, FileDataset)):
        return False
    return one.pairs == other.pairs


def differing(labels: LabelSet, dataset: Dataset) -> str:
    """Name the first class that differs, or the dataset that has the classes `labels`."""
    theirs = dataset.labels.names
    if len(theirs) == len(labels):
        index = next(i for i, name in enumerate(theirs) if name != labels.names[i])
        return f": class {index} is {labels.names[index]!r} and {theirs[index]!r}"
    kind = kind_of(labels)
    return f"; {kind} has these classes" if kind else ""


def read_classes(path: Path) -> LabelSet:
    """Read names and colors of a `classes.yaml`. Raises DatasetError if it is invalid."""
    return read_dataset_file(path).labels


# --- the user's own folder ------------------------------------------------------------------------


def folder(root: Path, split: str) -> FileDataset:
    """Open frames in `images`, labels in `labels`, `masks` or `annotations`, and `classes.yaml`.

    A split is a folder above (`train/images`) or below (`images/train`) these. Without splits,
    train and val are both the whole dataset; without a val split, val is train. Subfolders are
    searched. A label has the name of its frame, optionally with a suffix such as `_mask`.
    """
    content = read_dataset_file(classes_file(root))
    images, labels = _split_folders(root, split)
    frames = list_files(images, SUFFIXES)
    if not frames:
        raise DatasetError(f"{images}: no frames ({', '.join(sorted(SUFFIXES))})")
    every = list_files(labels, LABEL_SUFFIXES) if labels.is_dir() else []
    by_name: dict[str, list[Path]] = {}
    for path in every:
        by_name.setdefault(_name_below(labels, path).casefold(), []).append(path)
    pairs = []
    for frame in frames:
        names = [_name_below(images, frame) + ending for ending in LABEL_ENDINGS]
        found = [path for name in names for path in by_name.get(name.casefold(), [])]
        found = [path for path in found if _name_below(labels, path) in names] or found
        if len(found) > 1:
            raise DatasetError(f"{frame}: two labels, {found[0]} and {found[1]}, expected one")
        lacking = labels / frame.relative_to(images).with_suffix(".png")
        pairs.append((frame, found[0] if found else lacking))
    encoding = content.encoding or _encoding(content, every)
    return FileDataset(
        content.labels,
        pairs,
        make_decoder(content, encoding),
        lambda: every,
        content.values() if encoding == "values" else None,
        content.absent,
    )


def classes_file(root: Path) -> Path:
    """`classes.yaml` of a folder, or `classes.yml`. Raises DatasetError if both are there."""
    usual, other = root / "classes.yaml", root / "classes.yml"
    if usual.is_file() and other.is_file():
        raise DatasetError(f"{root}: classes.yaml and classes.yml, expected one of them")
    return other if other.is_file() else usual


def _name_below(folder: Path, path: Path) -> str:
    """Return a file's path below a folder, without suffix."""
    return composed(path.relative_to(folder).with_suffix("").as_posix())


def _encoding(content: DatasetFile, labels: list[Path]) -> str:
    """Return whether the labels hold `values` or `colours`, the same for all of them.

    Looks at some of them. One that is in color, that has a palette with a class's color at another
    value, or that has grays which are colors but not values of classes, means colors. A single
    label that shows only gray classes could be either.
    """
    values = {
        colour: of_class
        for entry, of_class in zip(content.kept, content.values(), strict=True)
        for colour in entry.label_colours
    }
    known = {value for of_class in values.values() for value in of_class}
    if not values:
        return "values"
    for path in labels[:: max(1, len(labels) // LOOKED_AT)]:
        with contextlib.suppress(DatasetError):  # reported when it is read
            label = read_label(path, white=255)
            if label.ndim == 3:
                return "colours"
            if label.dtype != np.uint8:
                continue
            used, first = np.unique(label, return_index=True)
            rgb = read_label(path, colours=True).reshape(-1, 3)[first]
            shown = {
                int(v): (int(r), int(g), int(b)) for v, (r, g, b) in zip(used, rgb, strict=True)
            }
            others = {
                value
                for value, colour in shown.items()
                if colour in values and value not in values[colour]
            }
            if not (rgb == used[:, None]).all():  # a palette
                means_colours = bool(others - content.ignored_values())
            else:
                means_colours = set(shown.values()) <= set(values) and not set(shown) <= known
            if others and means_colours:
                return "colours"
    return "values"


def _split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return the folders of a split's frames and labels."""

    def labels_beside(parent: Path, below: str = "") -> Path:
        found = [parent / name / below for name in LABEL_FOLDERS if (parent / name).is_dir()]
        return found[0] if found else parent / "labels" / below

    for name in SPLIT_NAMES.get(split, (split,)):
        if (root / name / "images").is_dir():
            return root / name / "images", labels_beside(root / name)
        if (root / "images" / name).is_dir():
            return root / "images" / name, labels_beside(root, name)
    if split == "val" and _only_train(root):
        return _split_folders(root, "train")
    usual = {name for names in SPLIT_NAMES.values() for name in names}
    others = {path.parent.name for path in root.glob("*/images")}
    others |= {path.name for path in root.glob("images/*/") if path.name in usual}
    if others or split not in ("train", "val"):
        expected = ", ".join(sorted(others)) or "train, val"
        raise DatasetError(
            f"{root / split}: no such folder, expected a split that is one: {expected}"
        )
    if not (root / "images").is_dir():
        raise DatasetError(f"{root / 'images'}: no such folder")
    return root / "images", labels_beside(root)


def _only_train(root: Path) -> bool:
    """Return whether train is the only split that has a folder."""
    found = {path.parent.name for path in root.glob("*/images")}
    if (root / "images").is_dir():
        found |= {path.name for path in (root / "images").iterdir() if path.is_dir()}
    return bool(found) and found <= set(SPLIT_NAMES["train"])
