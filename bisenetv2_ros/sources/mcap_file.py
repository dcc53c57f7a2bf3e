"""MCAP files: chunk by chunk in order of time with a summary, otherwise record by record.

The library `mcap` parses the records; schemas and messages are not parsed, so their content does
not matter. Damage loses the rest of its chunk or, without a summary, of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import IO

import mcap.records as mcap
from mcap.opcode import Opcode
from mcap.summary import Summary

from bisenetv2_ros.sources.bag_file import (
    Attachment,
    BagFile,
    Channel,
    Lost,
    Message,
    Metadata,
    Reading,
    Schema,
    ignore,
    in_time_order,
    one_line,
    open_plain,
    ros2_name,
    seconds,
)
from bisenetv2_ros.sources.mcap_records import (
    BreaksOff,
    Record,
    chunk_at,
    compression_of,
    counts_in,
    extra,
    inside_chunk,
    parse,
    read_summary,
    records,
)

_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
IN_SUMMARY = "that its summary counts"


class McapFile(BagFile):
    """An MCAP file, also if it is truncated or compressed as a whole (.mcap.zstd)."""

    def __init__(self, path: Path) -> None:
        """Find the channels and count the messages, by the summary or by reading everything."""
        super().__init__(path)
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._chunks: list[mcap.ChunkIndex] = []  # by time; empty without a summary
        with open_plain(path) as stream, suppress(Exception):  # the profile is not required
            header = next(records(stream, {Opcode.HEADER}))
            self.profile = parse(mcap.Header, header.body).profile
        with path.open("rb") as file:
            summary = read_summary(file)
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
        with open_plain(self.path) as stream, suppress(BreaksOff):  # `messages` reports that
            for record in records(stream, {Opcode.ATTACHMENT, Opcode.METADATA}):
                try:
                    yield extra(record)
                except Exception as error:  # parsers of damaged data raise anything
                    name = Opcode(record.opcode).name.lower()
                    lost(
                        f"{self.path}: {name} at byte {record.position} cannot be read: "
                        f"{one_line(error)}"
                    )

    def _take(self, summary: Summary) -> None:
        """Use the summary, which has everything that `_scan` would find."""
        for schema in summary.schemas.values():
            self._define(schema)
        for channel in summary.channels.values():
            self._declare(channel)
        statistics = summary.statistics
        assert statistics is not None, "read_summary asks for them"
        for number, declared in self._channels.items():
            self.counts[declared] = statistics.channel_message_counts.get(number, 0)
        if statistics.message_count:
            self.start_time = statistics.message_start_time
            self.end_time = statistics.message_end_time
        self._chunks = sorted(summary.chunk_indexes, key=lambda chunk: chunk.message_start_time)
        self.compression = next((chunk.compression for chunk in self._chunks), "")

    def _scan(self) -> None:
        """Read the whole file; damage is reported when messages are requested."""
        with open_plain(self.path) as stream:
            self._note_all(self._sequential(stream, None, ignore))
        for channel in self._channels.values():
            self.counts.setdefault(channel, 0)

    def _indexed(
        self, stream: IO[bytes], wanted: Set[int], lost: Lost
    ) -> Iterator[tuple[int, list[Message]]]:
        """By the summary: the earliest time of each chunk, and its messages."""
        reading = Reading(self.path, lost)
        for chunk in self._chunks:
            if chunk.message_index_offsets and not wanted & chunk.message_index_offsets.keys():
                continue
            found = self._messages(chunk_at(stream, chunk.chunk_start_offset), wanted)
            messages, error = reading.up_to_damage(found)
            if error is not None:
                until = seconds(chunk.message_end_time)
                which = "the rest" if chunk is self._chunks[-1] else f"those up to {until}"
                at = f"Chunk at byte {chunk.chunk_start_offset}"
                reading.damaged(f"{which} cannot be read: {at}", error)
            yield chunk.message_start_time, messages
        claimed = sum(self.counts[self._channels[number]] for number in wanted)
        reading.compare(claimed, IN_SUMMARY)

    def _sequential(
        self, stream: IO[bytes], wanted: Set[int] | None, lost: Lost
    ) -> Iterator[tuple[int, list[Message]]]:
        """The same by reading record by record; None for `wanted` takes all."""
        reading = Reading(self.path, lost)
        top = {Opcode.CHUNK, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.STATISTICS}
        try:
            for record in records(stream, top):
                found = inside_chunk(record) if record.opcode == Opcode.CHUNK else [record]
                messages, error = reading.up_to_damage(self._messages(found, wanted))
                if record.opcode == Opcode.CHUNK and error is None and not self.compression:
                    self.compression = compression_of(record.body)
                if record.opcode == Opcode.STATISTICS and wanted:
                    counts = counts_in(record)
                    claimed = sum(counts.get(number, 0) for number in wanted)
                    reading.compare(claimed, IN_SUMMARY)
                if error is not None and record.whole:  # otherwise the file is truncated
                    rest = f"the rest of the record at byte {record.position} cannot be read"
                    reading.damaged(rest, error)
                if messages:
                    yield min(message.log_time for message in messages), messages
        except BreaksOff as cut:
            reading.breaks_off(f": {cut}")

    def _messages(self, found: Iterable[Record], wanted: Set[int] | None) -> Iterator[Message]:
        """The wanted messages among records; stores schemas and channels on the way."""
        for record in found:
            if not record.whole:
                continue
            if record.opcode == Opcode.SCHEMA:
                self._define(parse(mcap.Schema, record.body))
            elif record.opcode == Opcode.CHANNEL:
                self._declare(parse(mcap.Channel, record.body))
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
