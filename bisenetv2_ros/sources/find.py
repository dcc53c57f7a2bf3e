"""Finds the files of a source: folders, glob patterns, or several of them.

Works on names; opens only folders.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bisenetv2_ros.files.images import SUFFIXES, raise_error
from bisenetv2_ros.files.paths import natural_key
from bisenetv2_ros.sources.bag_paths import METADATA, is_bag
from bisenetv2_ros.sources.frame import SourceError

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv",
    ".wmv", ".3gp", ".gif", ".mjpg", ".mjpeg",
})  # fmt: skip
#: Image formats that cannot be read here; files in a folder are reported.
OTHER_IMAGES = frozenset({
    ".avif", ".heic", ".heif", ".gif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raw", ".exr", ".hdr", ".pfm", ".pam", ".tga",
    ".ico", ".apng", ".fits", ".pcx", ".dib", ".jps", ".mpo", ".bpg", ".xcf",
})  # fmt: skip
_SIDECARS = frozenset({"thumbs.db", "desktop.ini"})


@dataclass
class Found:
    """The files that a source's names lead to."""

    images: list[Path] = field(default_factory=list)  #: in the order to read them
    others: list[Path] = field(default_factory=list)  #: videos, bags, or anything to be opened
    passed_over: list[tuple[Path, bool]] = field(default_factory=list)  #: and if meant as image
    bases: list[Path] = field(default_factory=list)  #: folders in which images were found

    def keys(self) -> list[str]:
        """A name for the results of each image: its path below the common folder, no suffix.

        If images differ only in the suffix, later ones get _2, _3 and so on, but never the name of
        another image.
        """
        root = os.path.commonpath([base.absolute() for base in self.bases])
        plain = [os.path.relpath(path.absolute().with_suffix(""), root) for path in self.images]
        taken, seen = set(plain), Counter[str]()
        keys = []
        for name in plain:
            seen[name] += 1
            key, number = name, seen[name]
            while number > 1 and key in taken:
                key = f"{name}_{number}"
                number += 1
            taken.add(key)
            keys.append(key)
        return keys


def find(names: list[str], recursive: bool, expected: str) -> Found:
    """Look up paths, folders and glob patterns.

    expected: the alternatives, for the error. Raises SourceError if a name matches nothing.
    """
    found = Found()
    for name in names:
        _find_one(name, recursive, expected, found)
    found.images = list(dict.fromkeys(found.images))
    return found


def _find_one(name: str, recursive: bool, expected: str, found: Found) -> None:
    path = Path(name).expanduser()
    if is_bag(path) and not _has_images(path):
        found.others.append(path)
    elif path.is_dir():
        found.bases.append(path)
        _take(name, _entries(path, recursive), found)
    elif path.exists():
        found.bases.append(path.parent)
        is_image = path.suffix.lower() in SUFFIXES
        (found.images if is_image else found.others).append(path)
    elif glob.has_magic(name) and not path.is_symlink():
        candidates = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        hidden = Path(name).name.startswith(".")
        candidates = [c for c in candidates if hidden or not c.name.startswith(".")]
        found.bases += {candidate.parent for candidate in candidates}
        _take(name, candidates, found)
    else:
        raise SourceError(f"source '{name}': no such file or folder; expected {expected}")


def _has_images(path: Path) -> bool:
    """Whether a folder is one of images, even if it also has recordings."""
    if not path.is_dir() or (path / METADATA).is_file():
        return False
    return any(file.suffix.lower() in SUFFIXES for file in path.iterdir())


def _entries(folder: Path, recursive: bool) -> list[Path]:
    if not recursive:
        return list(folder.iterdir())
    entries = []
    for parent, folders, files in os.walk(folder, onerror=raise_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        entries += [Path(parent) / name for name in files]
    return entries


def _take(name: str, candidates: list[Path], found: Found) -> None:
    """Sort a folder's entries into images and files to pass over."""
    # Broken links and pipes are reported when they cannot be read.
    files = [c for c in candidates if not c.is_dir() and not _is_sidecar(c)]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES or is_bag(file)]
    regular = [f for f in files if f.is_file() or not f.exists()] or files  # no pipes
    taken = images or (regular if len(regular) == 1 else videos)
    if not taken:
        folders = sorted(c.name for c in candidates if c.is_dir())
        hint = f"; it has the folders {', '.join(folders)} (--recursive)" if folders else ""
        raise SourceError(
            f"source '{name}': no images ({', '.join(sorted(SUFFIXES))}) among {len(files)} "
            f"files{hint}"
        )
    (found.images if images else found.others).extend(sorted(taken, key=natural_key))
    for file in sorted(set(files) - set(taken), key=natural_key):
        found.passed_over.append((file, file.suffix.lower() in OTHER_IMAGES))


def _is_sidecar(path: Path) -> bool:
    """Whether the file was made by an operating system: ._a.png, .DS_Store, Thumbs.db."""
    return path.name.startswith(".") or path.name.lower() in _SIDECARS


def find_labels(images: list[Path], keys: list[str], folder: str) -> dict[Path, Path]:
    """The label map of each image: the file at the same place and stem below `folder`."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SourceError(f"labels '{folder}': expected a folder of label maps")
    files = [f for f in _entries(path, recursive=True) if f.suffix.lower() in SUFFIXES]
    by_key: dict[str, list[Path]] = {}
    for file in sorted(files, key=natural_key):
        if not _is_sidecar(file):
            by_key.setdefault(str(file.relative_to(path).with_suffix("")), []).append(file)
    stems = Counter(image.stem for image in images)
    labels = {}
    for image, key in zip(images, keys, strict=True):
        place = str(Path(key).with_name(image.stem))
        # In a flat folder the stem is enough if only one image has it.
        fitting = by_key.get(place) or (stems[image.stem] == 1 and by_key.get(image.stem)) or []
        if len(fitting) > 1:
            raise SourceError(
                f"labels '{folder}': {fitting[0]} and {fitting[1]} fit {image}, expected one"
            )
        if fitting:
            labels[image] = fitting[0]
    if not labels:
        raise SourceError(
            f"labels '{folder}': no file has the stem of one of the {len(images)} images, "
            f"such as {images[0].stem}.png"
        )
    return labels
