"""A bag on disk: its files, and their messages one after the other."""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from bisenetv2_ros.files.safe_yaml import YamlError, read_yaml
from bisenetv2_ros.sources import mcap_file, mcap_records, ros1_file, sqlite_file
from bisenetv2_ros.sources.bag_file import (
    BagError,
    BagFile,
    Channel,
    Lost,
    Message,
    one_line,
    open_plain,
    read_up_to,
)
from bisenetv2_ros.sources.bag_paths import METADATA, bag_files

_FORMATS: dict[bytes, type[BagFile]] = {
    mcap_records.MAGIC: mcap_file.McapFile,
    sqlite_file.MAGIC: sqlite_file.SqliteFile,
    ros1_file.MAGIC: ros1_file.Ros1File,
}
_LFS_POINTER = b"version https://git-lfs"


def open_bag_file(path: Path) -> BagFile:
    """Open the file in the format of its first bytes. Raises BagError for another format;
    OSError."""
    with open_plain(path) as stream:
        start = read_up_to(stream, 32)
    for magic, kind in _FORMATS.items():
        if start.startswith(magic):
            return kind(path)
    if not start:
        size = path.stat().st_size
        raise BagError(f"{path}: {f'{size} bytes hold nothing' if size else 'the file is empty'}")
    if start.startswith(_LFS_POINTER):
        raise BagError(
            f"{path}: a Git LFS pointer, which stands for the recording: `git lfs pull` fetches it"
        )
    raise BagError(f"{path}: starts with {start[:12]!r}, expected MCAP, SQLite or a ROS 1 bag 2.0")


class Recording:
    """All files of a bag: a file, or a folder with or without its metadata.yaml."""

    def __init__(self, path: Path) -> None:
        """Open every file. Raises BagError if none can be read; `messages` reports other
        problems."""
        self._amiss: list[str] = []
        self.metadata = self._read_metadata(path)
        self.files: list[BagFile] = []
        paths = self._listed(path) if path.is_dir() else [path]
        for file in paths:
            try:
                self.files.append(open_bag_file(file))
            except BagError as error:
                self._amiss.append(str(error))
            except (OSError, sqlite3.Error) as error:
                self._amiss.append(f"{file}: {getattr(error, 'strerror', None) or one_line(error)}")
        if not self.files:
            raise BagError(self._amiss[-1] if self._amiss else f"{path}: there is no recording")
        #: Every channel of every file, with its number of messages.
        self.counts = {c: count for file in self.files for c, count in file.counts.items()}
        self._compare_counts(path)
        self.files.sort(key=lambda file: file.start_time)  # stable, so then by name

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file on disk that belongs to the bag."""
        files = [file.path for file in self.files]
        beside = [Path(f"{file}{end}") for file in files for end in ("-wal", "-journal")]
        beside += [file.with_name(METADATA) for file in files[:1]]
        return (*files, *(file for file in beside if file.is_file()))

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        start = min(file.start_time for file in self.files)
        return max(0, max(file.end_time for file in self.files) - start) / 1e9

    def messages(self, channels: Collection[Channel], lost: Lost) -> Iterator[Message]:
        """The messages of `channels` in recording order.

        lost: receives what is missing or damaged, one line each.
        """
        for text in self._amiss:
            lost(text)
        numbers = itertools.count()  # equal times keep the order of the files
        waiting: list[tuple[int, int, Message, Iterator[Message]]] = []

        def push(messages: Iterator[Message]) -> None:
            for message in itertools.islice(messages, 1):
                heapq.heappush(waiting, (message.log_time, next(numbers), message, messages))

        for file in [*self.files, None]:  # opened only when its time has come
            while waiting and (file is None or waiting[0][0] < file.start_time):
                _, _, message, rest = heapq.heappop(waiting)
                yield message
                push(rest)
            if file is not None:
                push(file.messages(channels, lost))

    def _read_metadata(self, path: Path) -> dict[str, Any]:
        """The content of metadata.yaml; empty if it is missing."""
        file = path / METADATA
        if not file.is_file():
            return {}
        try:
            content = read_yaml(file)["rosbag2_bagfile_information"]
            if not isinstance(content["relative_file_paths"], list):
                raise TypeError
        except (YamlError, OSError, KeyError, TypeError) as error:
            reason = one_line(error) if isinstance(error, (YamlError, OSError)) else "no metadata"
            self._amiss.append(f"{file}: {reason}; the files beside it are read without it")
            return {}
        return dict(content)

    def _listed(self, folder: Path) -> list[Path]:
        """The files named in metadata.yaml, or without it all that exist."""
        there = bag_files(folder)
        if not self.metadata:
            return there
        named = [folder / Path(str(name)).name for name in self.metadata["relative_file_paths"]]
        for file in there:
            if file not in named:
                self._amiss.append(f"{file}: not read, {METADATA} does not name it")
        return named

    def _compare_counts(self, path: Path) -> None:
        claimed, found = self.metadata.get("message_count"), sum(self.counts.values())
        if isinstance(claimed, int) and found < claimed:
            self._amiss.append(
                f"{path}: {found} messages can be read of {claimed} that {METADATA} counts"
            )
