"""ROS 1 bags (.bag, format 2.0), read record by record because a truncated one has no index."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import lz4.frame

from bisenetv2_ros.sources.bag_file import (
    BagError,
    BagFile,
    Buffer,
    Channel,
    Lost,
    Message,
    Reading,
    Schema,
    ignore,
    in_time_order,
    one_line,
    read_up_to,
    ros2_name,
)

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _CHUNK, _COUNTS, _CONNECTION = 2, 3, 5, 6, 7  # op of the records read here


class Ros1File(BagFile):
    """A ROS 1 bag, also one that was not closed (.bag.active)."""

    profile = "ros1"

    def __init__(self, path: Path) -> None:
        """Read the whole file, to find the channels and count the messages."""
        super().__init__(path)
        self._channels: dict[int, Channel] = {}
        self._note_all(self._blocks(ignore))
        for channel in self._channels.values():
            self.counts.setdefault(channel, 0)

    def messages(self, channels: Collection[Channel], lost: Lost) -> Iterator[Message]:
        for message in in_time_order(self._blocks(lost)):
            if message.channel in channels:
                yield message

    def _blocks(self, lost: Lost) -> Iterator[tuple[int, list[Message]]]:
        """The earliest time of each chunk, and its messages."""
        reading = Reading(self.path, lost)
        claimed, closed, position = 0, False, len(MAGIC)
        with self.path.open("rb") as file:
            file.seek(position)
            try:
                while (record := _record(file)) is not None:
                    if record.fields.get("encryptor"):
                        raise BagError(f"{self.path}: an encrypted bag, expected a plain one")
                    if record.op == _BAG:
                        closed = record.number("index_pos") > 0
                    if record.op == _COUNTS:  # of a chunk, by connection
                        claimed += sum(n for _, n in struct.iter_unpack("<II", record.data))
                    messages, error = reading.up_to_damage(self._messages(record))
                    if error is not None:
                        rest = f"the rest of the record at byte {position} cannot be read"
                        reading.damaged(rest, error)
                    if messages:
                        yield min(message.log_time for message in messages), messages
                    if not record.whole:
                        raise ValueError("the file ends in the middle of a record")
                    position = file.tell()
                if closed:
                    reading.compare(claimed, "in its index")
                else:
                    reading.breaks_off(": it was never closed")
            except BagError:
                raise
            except (ValueError, KeyError, struct.error) as error:
                reading.breaks_off(f", at byte {position}: {one_line(error)}")

    def _messages(self, record: _Record) -> Iterator[Message]:
        """The messages of a record; declares its channels on the way."""
        for part in _inside(record) if record.op == _CHUNK else [record]:
            if part.op == _CONNECTION:
                self._declare(part)
            elif part.op == _MESSAGE and part.whole:
                second, nanosecond = struct.unpack("<II", part.fields["time"])
                time = second * 10**9 + nanosecond
                channel = self._channels[part.number("conn")]
                yield Message(channel, time, time, 0, bytes(part.data))

    def _declare(self, record: _Record) -> None:
        number = record.number("conn")
        if number in self._channels:
            return
        header = {name: value.decode() for name, value in _fields(record.data).items()}
        kind, definition = header.pop("type"), header.pop("message_definition", "")
        schema = Schema(kind, "ros1msg", definition.encode())
        topic = record.fields["topic"].decode()
        self._channels[number] = Channel(topic, ros2_name(kind), "ros1", schema, header)


class _Record(NamedTuple):
    fields: dict[str, bytes]
    data: Buffer
    whole: bool  #: else the file ends inside the record

    @property
    def op(self) -> int:
        return self.number("op")

    def number(self, name: str) -> int:
        return int.from_bytes(self.fields[name], "little")


def _record(file: IO[bytes]) -> _Record | None:
    """The next record; None at the end. Raises ValueError for anything else."""
    start = file.read(4)
    if not start:
        return None
    fields = _fields(read_up_to(file, int.from_bytes(start, "little")))
    if "op" not in fields:
        raise ValueError("no record")
    length = file.read(4)
    size = int.from_bytes(length, "little")
    data = read_up_to(file, size)
    return _Record(fields, data, len(length) == 4 and len(data) == size)


def _inside(record: _Record) -> Iterator[_Record]:
    """The records inside a chunk; of a truncated one, those that exist."""
    data = memoryview(_decompress(record.fields["compression"].decode(), record.data))
    position = 0
    while position < len(data):
        parts = []
        for _ in ("header", "data"):
            size = int.from_bytes(data[position : position + 4], "little")
            parts.append(data[position + 4 : position + 4 + size])
            position += 4 + size
        if position > len(data):
            break
        yield _Record(_fields(parts[0]), parts[1], True)
    if record.whole and position != record.number("size"):
        raise ValueError(f"its records end at byte {position} of {record.number('size')}")


def _decompress(compression: str, data: Buffer) -> Buffer:
    if compression == "none":
        return data
    if compression == "bz2":
        return bz2.BZ2Decompressor().decompress(data)
    if compression == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
    raise ValueError(f"compression '{compression}', expected none, bz2 or lz4")


def _fields(data: Buffer) -> dict[str, bytes]:
    """Parse the fields of a header: length, name=value, and so on."""
    fields, position = {}, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "little")
        name, equals, value = bytes(data[position + 4 : position + 4 + size]).partition(b"=")
        position += 4 + size
        if not equals or position > len(data):
            raise ValueError("no header of a record")
        fields[name.decode()] = value
    return fields
