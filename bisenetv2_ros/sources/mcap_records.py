"""The records of an MCAP file, also of a damaged one: located here, parsed by the library `mcap`.

The library's readers stop at the first damage and take a truncated record for a complete one.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Set
from typing import IO, Any, NamedTuple

import lz4.frame
import mcap.records as mcap
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.summary import Summary

from bisenetv2_ros.sources.bag_file import Attachment, Buffer, Metadata, read_up_to

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")  # opcode and length of every record
_CHUNK = struct.Struct("<QQQII")  # first and last time, size, checksum, length of the name
_ALL = frozenset(range(256))
_MAX_CHUNK = 4 << 30  # bytes of a chunk when uncompressed
_MAX_PARTIAL = 256 << 20  # bytes read of a truncated record


class Record(NamedTuple):
    """A record of a file or chunk, not yet parsed."""

    opcode: int
    body: Buffer
    whole: bool  #: else the file or chunk ends inside the record
    position: int


class BreaksOff(Exception):
    """There is no next record, although the file is not marked as ended."""


def records(stream: IO[bytes], wanted: Set[int], magic: bool = True) -> Iterator[Record]:
    """The records of the `wanted` opcodes. Raises BreaksOff if the file's end is not marked."""
    position = len(read_up_to(stream, len(MAGIC))) if magic else 0
    # The length of a compressed stream is unknown.
    end = os.fstat(stream.fileno()).st_size if stream.seekable() else _MAX_CHUNK
    while True:
        head = read_up_to(stream, _HEAD.size)
        if len(head) < _HEAD.size:
            raise BreaksOff(f"no end is marked up to byte {position + len(head)}")
        opcode, length = _HEAD.unpack(head)
        if opcode == Opcode.FOOTER:
            return
        if opcode == 0:
            raise BreaksOff(f"no record at byte {position}, the rest cannot be read")
        whole = length <= (end - stream.tell() if stream.seekable() else end)
        if opcode in wanted:
            body = read_up_to(stream, length if whole else min(length, _MAX_PARTIAL))
            whole = len(body) == length
            yield Record(opcode, body, whole, position)
        elif whole:
            whole = _skip(stream, length)
        if not whole:
            name = Opcode(opcode).name if opcode in set(Opcode) else f"opcode {opcode}"
            raise BreaksOff(f"in the middle of a record ({name}) that begins at byte {position}")
        position += _HEAD.size + length


def _skip(stream: IO[bytes], length: int) -> bool:
    """Skip `length` bytes; False if there are fewer."""
    if stream.seekable():
        stream.seek(length, io.SEEK_CUR)
        return True
    while length and (part := read_up_to(stream, min(length, 1 << 20))):
        length -= len(part)
    return not length


def chunk_at(stream: IO[bytes], offset: int) -> Iterator[Record]:
    """The records inside the chunk at that byte."""
    stream.seek(offset)
    record = next(records(stream, _ALL, magic=False))
    if record.opcode != Opcode.CHUNK or not record.whole:
        raise ValueError("there is no whole chunk")
    yield from inside_chunk(record)


def inside_chunk(record: Record) -> Iterator[Record]:
    """The records inside a chunk; of a truncated one, those that exist."""
    _, _, size, checksum, length = _CHUNK.unpack_from(record.body)
    start = _CHUNK.size + length + 8
    (length,) = struct.unpack_from("<Q", record.body, start - 8)
    compressed = memoryview(record.body)[start : start + length]
    data = memoryview(_decompress(compression_of(record.body), compressed, size))
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
        yield Record(opcode, body, True, position)
        position += _HEAD.size + length
    if record.whole and position != size:
        raise ValueError(f"its records end at byte {position} of {size}")


def counts_in(record: Record) -> dict[int, int]:
    """The number of messages by channel in the summary; empty if it is damaged."""
    try:
        return dict(parse(mcap.Statistics, record.body).channel_message_counts)
    except Exception:  # parsers of damaged data raise anything
        return {}


def extra(record: Record) -> Attachment | Metadata:
    """The attachment or metadata in a record. Raises any error if it is damaged."""
    if record.opcode == Opcode.METADATA:
        texts = parse(mcap.Metadata, record.body)
        return Metadata(texts.name, texts.metadata)
    (checksum,) = struct.unpack("<I", record.body[-4:])
    if checksum and zlib.crc32(record.body[:-4]) != checksum:
        raise ValueError("its bytes do not match its checksum")
    found = parse(mcap.Attachment, record.body)
    return Attachment(found.create_time, found.log_time, found.name, found.media_type, found.data)


def compression_of(body: Buffer) -> str:
    """The compression of a chunk."""
    length = _CHUNK.unpack_from(body)[-1]
    return str(bytes(body[_CHUNK.size : _CHUNK.size + length]), "utf-8")


def _decompress(compression: str, data: memoryview, size: int) -> Buffer:
    """At most `size` bytes; fewer if the data is truncated."""
    if compression == "":
        return data
    size = min(size, _MAX_CHUNK)
    if compression == "zstd":
        return read_up_to(zstandard.ZstdDecompressor().stream_reader(data), size)
    if compression == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
    raise ValueError(f"compression '{compression}', expected zstd, lz4 or none")


def parse(kind: Any, body: Buffer) -> Any:
    """Parse a record of a class of mcap.records."""
    return kind.read(ReadDataStream(io.BytesIO(body)))


def read_summary(file: IO[bytes]) -> Summary | None:
    """The summary, if it is complete and locates every message."""
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
    except Exception:  # missing, or damaged in any way
        return None


def _matches_its_checksum(file: IO[bytes]) -> bool:
    """Whether the summary is intact, if its writer made a checksum."""
    footer = _HEAD.size + struct.calcsize("<QQI")
    end = file.seek(-len(MAGIC) - footer, io.SEEK_END)
    start, _, checksum = struct.unpack("<QQI", file.read(footer)[_HEAD.size :])
    file.seek(start)
    return not checksum or zlib.crc32(file.read(end + footer - 4 - start)) == checksum
