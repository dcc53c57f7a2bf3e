"""Recognizes recordings by file names alone, without a library for them."""

from __future__ import annotations

from pathlib import Path

from bisenetv2_ros.files.paths import natural_key

METADATA = "metadata.yaml"
_SUFFIXES = (".mcap", ".db3", ".bag", ".mcap.zstd", ".db3.zstd", ".mcap.active", ".bag.active")


def is_bag(path: Path) -> bool:
    """Whether `path` is a recording, or a folder with the files of one."""
    if not path.is_dir():
        return path.name.lower().endswith(_SUFFIXES)
    return (path / METADATA).is_file() or bool(bag_files(path))


def bag_files(folder: Path) -> list[Path]:
    """The recordings' files in a folder, by name: 2 before 10."""
    files = (f for f in folder.iterdir() if f.name.lower().endswith(_SUFFIXES))
    return sorted((f for f in files if not f.name.startswith(".")), key=natural_key)
