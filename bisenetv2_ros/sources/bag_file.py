"""One file of a recording in any format: its channels, its messages, and its damage.

Decodes no message: bytes pass through as they were recorded.
"""

from __future__ import annotations

import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from bisenetv2_ros.files.paths import check_input

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

Buffer = bytes | memoryview

#: Receives reports of damage, each one line that names the file.
Lost = Callable[[str], None]


class BagError(ValueError):
    """A file or folder is not a recording; the message names it."""


@dataclass(frozen=True)
class Schema:
    """Definition of a message type, not interpreted."""

    name: str
    encoding: str  #: of `data`: ros2msg, ros2idl, ros1msg, protobuf, ...
    data: bytes


@dataclass(frozen=True, eq=False)  # two channels may be alike and still be two
class Channel:
    """A topic as one publisher or recorder declared it."""

    topic: str
    type: str  #: such as sensor_msgs/msg/Image; '' if there is no schema
    encoding: str  #: of the messages: cdr, ros1, json, ...
    schema: Schema | None
    metadata: dict[str, str] = field(default_factory=dict)  #: as in MCAP: QoS, type hash, ...


class Message(NamedTuple):
    """One recorded message; times in nanoseconds."""

    channel: Channel
    log_time: int  #: when the recorder received it
    publish_time: int
    sequence: int
    data: bytes


class Attachment(NamedTuple):
    """A file inside an MCAP, with the fields of mcap.Writer.add_attachment in order."""

    create_time: int
    log_time: int
    name: str
    media_type: str
    data: bytes


class Metadata(NamedTuple):
    """A named record of strings in an MCAP, with the fields of mcap.Writer.add_metadata in
    order."""

    name: str
    metadata: dict[str, str]


class BagFile(ABC):
    """One file of a recording. `counts` and the times are complete after construction."""

    compression = ""  #: of blocks of messages: '', zstd or lz4
    profile = "ros2"

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            #: Compressed as a whole, .zstd.
            self.is_compressed = file.read(4) == ZSTD_MAGIC
        self.counts: dict[Channel, int] = {}  #: messages of every channel
        self.start_time, self.end_time = 2**63 - 1, 0  #: ns, of the first and last message

    @abstractmethod
    def messages(self, channels: Collection[Channel], lost: Lost) -> Iterator[Message]:
        """The messages of `channels` in the order of their log times.

        Continues after damage if possible, and reports to `lost` what it could not read.
        """

    def extras(self, lost: Lost) -> Iterator[Attachment | Metadata]:
        """Everything else in the file that a copy must have."""
        yield from ()

    def _note_all(self, blocks: Iterable[tuple[int, Iterable[Message]]]) -> None:
        """Count the messages of blocks as of `in_time_order`."""
        for _, messages in blocks:
            for message in messages:
                self._note(message.channel, message.log_time)

    def _note(self, channel: Channel, log_time: int) -> None:
        """Count a message."""
        self.counts[channel] = self.counts.get(channel, 0) + 1
        self.start_time = min(self.start_time, log_time)
        self.end_time = max(self.end_time, log_time)


class Reading:
    """Counts the messages read from a file, and reports losses."""

    def __init__(self, path: Path, lost: Lost) -> None:
        self._path, self._lost = path, lost
        self.count = 0
        self.whole = True  #: no damage so far

    def up_to_damage(self, messages: Iterator[Message]) -> tuple[list[Message], Exception | None]:
        """The messages before the first error, and the error."""
        read: list[Message] = []
        error = None
        try:
            read.extend(messages)
        except Exception as damage:  # parsers of damaged data raise anything
            error = damage
        self.count += len(read)
        return read, error

    def damaged(self, missing: str, error: Exception) -> None:
        """Report that `missing` cannot be read, and why."""
        self.whole = False
        self._lost(
            f"{self._path}: damaged after {self.count} messages, {missing}: {one_line(error)}"
        )

    def breaks_off(self, reason: str) -> None:
        """Report that nothing more can be read."""
        self._lost(f"{self._path}: breaks off after {self.count} messages{reason}")

    def compare(self, claimed: int, source: str) -> None:
        """Report missing messages if no damage explains them."""
        if self.whole and self.count < claimed:
            self._lost(f"{self._path}: {self.count} messages can be read of {claimed} {source}")


def ignore(_: str) -> None:
    """Ignore losses, which are reported when the messages are read."""


@contextmanager
def open_plain(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed if it is a .zstd, which can only be read forwards."""
    check_input(path)
    with path.open("rb") as file:
        compressed = file.read(4) == ZSTD_MAGIC
        file.seek(0)
        if compressed:
            decompressor = zstandard.ZstdDecompressor()
            yield decompressor.stream_reader(file, read_across_frames=True)
        else:
            yield file


def read_up_to(stream: IO[bytes], length: int) -> bytes:
    """`length` bytes, or fewer at the end or where a compressed stream is damaged.

    Reads in pieces, because a damaged length may be any number.
    """
    parts = []
    with suppress(zstandard.ZstdError):
        while length and (part := stream.read(min(length, 1 << 24))):
            parts.append(part)
            length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def in_time_order(blocks: Iterable[tuple[int, Iterable[Message]]]) -> Iterator[Message]:
    """Sort messages by log time, from blocks that come with their earliest time.

    Only holds the messages of blocks that overlap in time. The result is in order if the blocks
    are.
    """
    numbers = itertools.count()  # equal times keep the order of the file
    waiting: list[tuple[int, int, Message]] = []
    for earliest, messages in blocks:
        while waiting and waiting[0][0] < earliest:
            yield heapq.heappop(waiting)[2]
        for message in messages:
            heapq.heappush(waiting, (message.log_time, next(numbers), message))
    while waiting:
        yield heapq.heappop(waiting)[2]


def one_line(error: Exception) -> str:
    """The text of an error, for a report."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def seconds(nanoseconds: int) -> str:
    """A time in the form used in reports."""
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def ros2_name(name: str) -> str:
    """The ROS 2 name of a message type that may be a ROS 1 name, package/Type."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name
