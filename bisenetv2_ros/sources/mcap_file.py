"""MCAP: the chunks of the summary in the order of their times, or else record after record.

Records are parsed by the library `mcap`, schemas and messages not at all: whatever a channel holds
stands in nobody's way. Damage costs the rest of the chunk that it is in, or, without a summary, of
the file.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import lz4.frame
import mcap.records as mcap
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.summary import Summary

from bisenetv2_ros.sources.bag_file import (
    Attachment,
    BagFile,
    Buffer,
    Channel,
    Lost,
    Message,
    Metadata,
    Schema,
    ignore,
    in_time_order,
    one_line,
    open_plain,
    read_up_to,
    ros2_name,
    seconds,
)

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")  # opcode and length of every record
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK = struct.Struct("<QQQII")  # first and last time, size, checksum, length of a name
_ALL = frozenset(range(256))
_MAX_RECORD = 1 << 44  # bytes; a larger claim is taken for damage
_MAX_CHUNK = 4 << 30  # bytes that a chunk may have uncompressed


class McapFile(BagFile):
    """An MCAP file, also one that breaks off or is compressed as a whole (.mcap.zstd)."""

    def __init__(self, path: Path) -> None:
        """Find the channels and count the messages: by the summary, or by reading all."""
        super().__init__(path)
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._chunks: list[mcap.ChunkIndex] = []  # by time; empty without a summary
        with open_plain(path) as stream, suppress(Exception):  # it says nothing that is needed
            header = next(_records(stream, {Opcode.HEADER}))
            self.profile = _parse(mcap.Header, header.body).profile
        with path.open("rb") as file:
            summary = _summary(file)
        if summary is not None:
            self._take(summary)
        else:
            self._scan()

    def messages(self, channels: Collection[Channel], lost: Lost) -> Iterator[Message]:
        wanted = {number for number, channel in self._channels.items() if channel in channels}
        read = self._indexed if self._chunks else self._sequential
        with open_plain(self.path) as stream:
            yield from in_time_order(read(stream, wanted, lost))

    def extras(self, lost: Lost) -> Iterator[Attachment | Metadata]:
        with open_plain(self.path) as stream, suppress(_BreaksOff):  # `messages` tells of that
            for record in _records(stream, {Opcode.ATTACHMENT, Opcode.METADATA}):
                try:
                    yield _extra(record)
                except Exception as error:  # damage makes parsers stumble over anything
                    name = Opcode(record.opcode).name.lower()
                    lost(
                        f"{self.path}: {name} at byte {record.position} cannot be read: "
                        f"{one_line(error)}"
                    )

    def _take(self, summary: Summary) -> None:
        """Take from the summary what `_scan` finds by reading."""
        for schema in summary.schemas.values():
            self._define(schema)
        for channel in summary.channels.values():
            self._declare(channel)
        statistics = summary.statistics
        assert statistics is not None, "_summary asks for them"
        for number, declared in self._channels.items():
            self.counts[declared] = statistics.channel_message_counts.get(number, 0)
        if statistics.message_count:
            self.start_time = statistics.message_start_time
            self.end_time = statistics.message_end_time
        self._chunks = sorted(summary.chunk_indexes, key=lambda chunk: chunk.message_start_time)
        self.compression = next((chunk.compression for chunk in self._chunks), "")

    def _scan(self) -> None:
        """Read the whole file; what is damaged is told when messages are asked for."""
        with open_plain(self.path) as stream:
            for _, messages in self._sequential(stream, None, ignore):
                for message in messages:
                    self._note(message.channel, message.log_time)
        for channel in self._channels.values():
            self.counts.setdefault(channel, 0)

    def _indexed(
        self, stream: IO[bytes], wanted: Set[int], lost: Lost
    ) -> Iterator[tuple[int, list[Message]]]:
        """The messages of each chunk and the earliest time among them, by the summary."""
        read, whole = 0, True
        for chunk in self._chunks:
            if chunk.message_index_offsets and not wanted & chunk.message_index_offsets.keys():
                continue
            messages, error = self._collect(_chunk_at(stream, chunk.chunk_start_offset), wanted)
            read += len(messages)
            if error is not None:
                until = seconds(chunk.message_end_time)
                which = "the rest" if chunk is self._chunks[-1] else f"those up to {until}"
                lost(
                    f"{self.path}: damaged after {read} messages, {which} cannot be read: "
                    f"Chunk at byte {chunk.chunk_start_offset}: {one_line(error)}"
                )
                whole = False
            yield chunk.message_start_time, messages
        claimed = sum(self.counts[self._channels[number]] for number in wanted)
        if whole:
            self._compare(read, claimed, lost)

    def _sequential(
        self, stream: IO[bytes], wanted: Set[int] | None, lost: Lost
    ) -> Iterator[tuple[int, list[Message]]]:
        """The same by reading record after record; None for `wanted` takes all."""
        read, whole = 0, True
        top = {Opcode.CHUNK, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.STATISTICS}
        try:
            for record in _records(stream, top):
                inside = _inside(record) if record.opcode == Opcode.CHUNK else [record]
                messages, error = self._collect(inside, wanted)
                read += len(messages)
                if record.opcode == Opcode.CHUNK and error is None and not self.compression:
                    self.compression = _compression(record.body)
                if record.opcode == Opcode.STATISTICS and wanted and whole:
                    counts = _counts(record)
                    self._compare(read, sum(counts.get(number, 0) for number in wanted), lost)
                if error is not None and record.whole:  # or else it breaks off
                    whole = False
                    lost(
                        f"{self.path}: damaged after {read} messages, the rest of the record at "
                        f"byte {record.position} cannot be read: {one_line(error)}"
                    )
                if messages:
                    yield min(message.log_time for message in messages), messages
        except _BreaksOff as cut:
            lost(f"{self.path}: breaks off after {read} messages: {cut}")

    def _compare(self, read: int, claimed: int, lost: Lost) -> None:
        if read < claimed:
            lost(f"{self.path}: {read} messages can be read of {claimed} that its summary counts")

    def _collect(
        self, records: Iterable[_Record], wanted: Set[int] | None
    ) -> tuple[list[Message], Exception | None]:
        """The messages up to damage, and what that is."""
        messages: list[Message] = []
        try:
            messages += self._messages(records, wanted)
        except Exception as error:  # damage makes parsers stumble over anything
            return messages, error
        return messages, None

    def _messages(self, records: Iterable[_Record], wanted: Set[int] | None) -> Iterator[Message]:
        """The wanted messages among records; schemas and channels are noted."""
        for record in records:
            if not record.whole:
                continue
            if record.opcode == Opcode.SCHEMA:
                self._define(_parse(mcap.Schema, record.body))
            elif record.opcode == Opcode.CHANNEL:
                self._declare(_parse(mcap.Channel, record.body))
            elif record.opcode == Opcode.MESSAGE:
                number, sequence, log_time, publish_time = _MESSAGE.unpack_from(record.body)
                if number not in self._channels:
                    raise ValueError(f"message of channel {number}, which is not declared")
                if wanted is None or number in wanted:
                    data = bytes(record.body[_MESSAGE.size :])
                    channel = self._channels[number]
                    yield Message(channel, log_time, publish_time, sequence, data)

    def _define(self, schema: mcap.Schema) -> None:
        self._schemas[schema.id] = Schema(schema.name, schema.encoding, schema.data)

    def _declare(self, channel: mcap.Channel) -> None:
        if channel.id not in self._channels:
            schema = self._schemas.get(channel.schema_id)
            self._channels[channel.id] = Channel(
                channel.topic,
                ros2_name(schema.name) if schema else "",
                channel.message_encoding,
                schema,
                channel.metadata,
            )


class _Record(NamedTuple):
    opcode: int
    body: Buffer
    whole: bool  #: else the file or chunk ends in the middle of it
    position: int


class _BreaksOff(Exception):
    """There is no next record, though the file does not say that it ends."""


def _records(stream: IO[bytes], wanted: Set[int], magic: bool = True) -> Iterator[_Record]:
    """The records of the `wanted` opcodes up to the end of the file; _BreaksOff without one."""
    position = len(read_up_to(stream, len(MAGIC))) if magic else 0
    while True:
        head = read_up_to(stream, _HEAD.size)
        if len(head) < _HEAD.size:
            raise _BreaksOff(f"no end is marked up to byte {position + len(head)}")
        opcode, length = _HEAD.unpack(head)
        if opcode == Opcode.FOOTER:
            return
        if opcode == 0:
            raise _BreaksOff(f"no record at byte {position}, the rest cannot be read")
        if opcode in wanted:
            body = read_up_to(stream, length)
            whole = len(body) == length
            yield _Record(opcode, body, whole, position)
        else:
            whole = _skip(stream, length)
        if not whole:
            name = Opcode(opcode).name if opcode in set(Opcode) else f"opcode {opcode}"
            raise _BreaksOff(f"in the middle of a record ({name}) that begins at byte {position}")
        position += _HEAD.size + length


def _skip(stream: IO[bytes], length: int) -> bool:
    """Whether there are `length` bytes to pass over."""
    if length > _MAX_RECORD:
        return False
    if stream.seekable() and length:
        stream.seek(length - 1, io.SEEK_CUR)
        length = 1
    while length and (part := read_up_to(stream, min(length, 1 << 20))):
        length -= len(part)
    return not length


def _chunk_at(stream: IO[bytes], offset: int) -> Iterator[_Record]:
    """The records inside of the chunk at that byte."""
    stream.seek(offset)
    record = next(_records(stream, _ALL, magic=False))
    if record.opcode != Opcode.CHUNK or not record.whole:
        raise ValueError("there is no whole chunk")
    yield from _inside(record)


def _inside(record: _Record) -> Iterator[_Record]:
    """The records inside of a chunk; of one that breaks off, those that are there."""
    _, _, size, checksum, length = _CHUNK.unpack_from(record.body)
    start = _CHUNK.size + length + 8
    (length,) = struct.unpack_from("<Q", record.body, start - 8)
    compressed = memoryview(record.body)[start : start + length]
    data = memoryview(_decompress(_compression(record.body), compressed, size))
    if record.whole and checksum and zlib.crc32(data) != checksum:
        raise ValueError("its bytes do not match its checksum")
    position = 0
    while position + _HEAD.size <= len(data):
        opcode, length = _HEAD.unpack_from(data, position)
        body = data[position + _HEAD.size : position + _HEAD.size + length]
        if opcode == 0:
            raise ValueError(f"no record at byte {position} of it")
        if len(body) < length:
            break
        yield _Record(opcode, body, True, position)
        position += _HEAD.size + length
    if record.whole and position != size:
        raise ValueError(f"its records end at byte {position} of {size}")


def _counts(record: _Record) -> dict[int, int]:
    """How many messages of each channel the summary counts; none if it is damaged."""
    try:
        return dict(_parse(mcap.Statistics, record.body).channel_message_counts)
    except Exception:  # damage makes parsers stumble over anything
        return {}


def _extra(record: _Record) -> Attachment | Metadata:
    if record.opcode == Opcode.METADATA:
        texts = _parse(mcap.Metadata, record.body)
        return Metadata(texts.name, texts.metadata)
    (checksum,) = struct.unpack("<I", record.body[-4:])
    if checksum and zlib.crc32(record.body[:-4]) != checksum:
        raise ValueError("its bytes do not match its checksum")
    found = _parse(mcap.Attachment, record.body)
    return Attachment(found.create_time, found.log_time, found.name, found.media_type, found.data)


def _compression(body: Buffer) -> str:
    """How a chunk is compressed."""
    length = _CHUNK.unpack_from(body)[-1]
    return str(bytes(body[_CHUNK.size : _CHUNK.size + length]), "utf-8")


def _decompress(compression: str, data: memoryview, size: int) -> Buffer:
    """At most `size` bytes; fewer of data that breaks off."""
    if compression == "":
        return data
    size = min(size, _MAX_CHUNK)
    if compression == "zstd":
        return read_up_to(zstandard.ZstdDecompressor().stream_reader(data), size)
    if compression == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
    raise ValueError(f"compression '{compression}', expected zstd, lz4 or none")


def _parse(kind: Any, body: Buffer) -> Any:
    """A record of a class of mcap.records."""
    return kind.read(ReadDataStream(io.BytesIO(body)))


def _summary(file: IO[bytes]) -> Summary | None:
    """The summary, if it is whole and tells where every message is."""
    try:
        summary = SeekingReader(file).get_summary()
        if summary is None or (statistics := summary.statistics) is None:
            return None
        schemas = {channel.schema_id for channel in summary.channels.values()} - {0}
        counts = statistics.channel_message_counts
        complete = (
            sum(counts.values()) == statistics.message_count
            and counts.keys() <= summary.channels.keys()
            and len(summary.channels) == statistics.channel_count
            and schemas <= summary.schemas.keys()
            and len(summary.chunk_indexes) == statistics.chunk_count > 0
        )
        return summary if complete and _matches_its_checksum(file) else None
    except Exception:  # there is none, or it is damaged in any way
        return None


def _matches_its_checksum(file: IO[bytes]) -> bool:
    """Whether the summary is what was written, if its writer made a checksum."""
    footer = _HEAD.size + struct.calcsize("<QQI")
    end = file.seek(-len(MAGIC) - footer, io.SEEK_END)
    start, _, checksum = struct.unpack("<QQI", file.read(footer)[_HEAD.size :])
    file.seek(start)
    return not checksum or zlib.crc32(file.read(end + footer - 4 - start)) == checksum
