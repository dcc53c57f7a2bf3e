"""Writes a recording in the format of another one: channels, schemas, times and compression.

Does not interpret messages. Every `flush` completes a block on disk, so that a killed process
leaves a recording that is readable up to there.
"""

from __future__ import annotations

import errno
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mcap.writer as mcap
import yaml
import zstandard

from bisenetv2_ros.files.paths import naming
from bisenetv2_ros.files.safe_yaml import YamlError, parse_yaml
from bisenetv2_ros.sources.bag_file import (
    ZSTD_MAGIC,
    Attachment,
    BagFile,
    Channel,
    Lost,
    Message,
    Metadata,
    Schema,
)
from bisenetv2_ros.sources.bag_paths import METADATA
from bisenetv2_ros.sources.recording import Recording
from bisenetv2_ros.sources.sqlite_file import SqliteFile

_EMBEDDED = "rosbag2"  # name of the MCAP record with the content of metadata.yaml
_COMPRESSIONS = {
    "zstd": mcap.CompressionType.ZSTD,
    "lz4": mcap.CompressionType.LZ4,
    "": mcap.CompressionType.NONE,
}
_DEFAULT = mcap.CompressionType.ZSTD


class BagWriter:
    """A new folder with one file of messages and metadata.yaml, as rosbag2 writes it."""

    def __init__(
        self, path: Path, original: Recording, left_out: Collection[str], lost: Lost
    ) -> None:
        """Create the folder, and copy everything in `original` but its messages.

        The file is SQLite if those of `original` are, otherwise MCAP, which holds anything.
        left_out: topics that are not declared. lost: receives what cannot be read.
        """
        self.path = path
        self._original = original
        self._ids: dict[Channel, int] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Counter[int] = Counter()
        self._start, self._end = 2**63 - 1, 0
        mode = str(original.metadata.get("compression_mode", ""))
        self._compresses_messages = mode.lower() == "message"
        self._compresses_file = original.files[0].is_compressed
        #: Of rosbag2's metadata: QoS policies are names from version 9 on, and numbers before.
        self.version = 9 if any(map(_names_policies, original.counts)) else 8
        path.mkdir(parents=True)
        sqlite = all(isinstance(file, SqliteFile) for file in original.files)
        self._file = path / f"{path.name}.{'db3' if sqlite else 'mcap'}"
        with self._naming():
            self._storage: _McapStorage | _SqliteStorage
            if sqlite:
                self._storage = _SqliteStorage(self._file)
            else:
                self._storage = _McapStorage(self._file, original.files[0])
        equal: dict[tuple[Any, ...], int] = {}  # channels that continue in another file
        for file in original.files:
            same: Counter[tuple[Any, ...]] = Counter()
            for channel in file.counts:
                if channel.topic in left_out:
                    continue
                what = (channel.topic, channel.encoding, channel.schema, str(channel.metadata))
                key = (*what, same[what])
                same[what] += 1
                if key not in equal:
                    equal[key] = self.add(channel)
                self._ids[channel] = equal[key]
        self._has_metadata = False
        with self._naming():
            for extra in (extra for file in original.files for extra in file.extras(lost)):
                self._has_metadata |= isinstance(extra, Metadata) and extra.name == _EMBEDDED
                self._storage.add_extra(extra)

    def add(self, channel: Channel) -> int:
        """Declare a channel."""
        number = self._ids[channel] = len(self._channels) + 1
        self._channels[number] = channel
        with self._naming():
            self._storage.add(number, channel)
        return number

    def write(self, message: Message) -> None:
        """Append a message of a declared channel unchanged."""
        number = self._ids[message.channel]
        self._counts[number] += 1
        self._start = min(self._start, message.log_time)
        self._end = max(self._end, message.log_time)
        # Uncompressed CDR begins with a zero.
        if message.channel.encoding == "cdr" and message.data.startswith(ZSTD_MAGIC):
            self._compresses_messages = True
        with self._naming():
            self._storage.write(number, message)

    def write_new(self, message: Message) -> None:
        """Append an uncompressed message, compressing it if the others are."""
        if self._compresses_messages:
            message = message._replace(data=zstandard.compress(message.data))
        self.write(message)

    def flush(self) -> None:
        """Write everything to disk."""
        with self._naming():
            self._storage.flush()

    def close(self) -> None:
        """Complete the file and describe it in metadata.yaml."""
        file = self._file
        with self._naming():
            final = file.with_name(f"{file.name}.zstd") if self._compresses_file else file
            metadata = self._metadata(final.name)
            self._storage.close("" if self._has_metadata else _yaml(metadata), self.version)
            if self._compresses_file:
                with file.open("rb") as plain, final.open("wb") as compressed:
                    zstandard.ZstdCompressor().copy_stream(plain, compressed)
                file.unlink()
            text = _yaml({"rosbag2_bagfile_information": metadata})
            (self.path / METADATA).write_text(text, encoding="utf-8")

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turn errors of writing into OSErrors that name the file."""
        try:
            with naming(self._file):
                yield
        except sqlite3.Error as error:
            code = errno.ENOSPC if "full" in str(error) else errno.EIO
            raise OSError(code, str(error), str(self._file)) from error

    def _metadata(self, name: str) -> dict[str, Any]:
        """The content of metadata.yaml."""
        total = self._counts.total()
        starting_time = {"nanoseconds_since_epoch": self._start if total else 0}
        duration = {"nanoseconds": self._end - self._start if total else 0}
        mode = "FILE" if self._compresses_file else "MESSAGE" if self._compresses_messages else ""
        original = self._original.metadata
        span = {"starting_time": starting_time, "duration": duration, "message_count": total}
        return {
            "version": self.version,
            "storage_identifier": self._storage.identifier,
            **span,
            "topics_with_message_count": [
                {"topic_metadata": self._topic(channel), "message_count": self._counts[number]}
                for number, channel in self._channels.items()
            ],
            "compression_format": "zstd" if mode else "",
            "compression_mode": mode,
            "relative_file_paths": [name],
            "files": [{"path": name, **span}],
            "custom_data": original.get("custom_data") or {},
            "ros_distro": str(original.get("ros_distro") or ""),
        }

    def _topic(self, channel: Channel) -> dict[str, Any]:
        qos: Any = channel.metadata.get("offered_qos_profiles", "")
        if self.version >= 9:
            qos = _profiles(qos)
        return {
            "name": channel.topic,
            "type": channel.type,
            "serialization_format": channel.encoding,
            "offered_qos_profiles": qos,
            "type_description_hash": channel.metadata.get("topic_type_hash", ""),
        }


def _yaml(content: dict[str, Any]) -> str:
    dumper = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    return str(yaml.dump(content, Dumper=dumper, sort_keys=False))


def _profiles(text: str) -> list[dict[str, Any]]:
    """The QoS profiles in a channel's metadata; none if it has no such text."""
    try:
        profiles = parse_yaml(text)
    except YamlError:
        return []
    return profiles if isinstance(profiles, list) else []


def _names_policies(channel: Channel) -> bool:
    profiles = _profiles(channel.metadata.get("offered_qos_profiles", ""))
    return any(isinstance(p, dict) and isinstance(p.get("reliability"), str) for p in profiles)


class _McapStorage:
    identifier = "mcap"  #: as rosbag2 names the format

    def __init__(self, path: Path, original: BagFile) -> None:
        self._file = path.open("wb")
        compression = _COMPRESSIONS.get(original.compression, _DEFAULT)
        self._writer = mcap.Writer(self._file, compression=compression)
        self._writer.start(original.profile)
        self._schemas: dict[Any, int] = {None: 0}
        self._ids: dict[int, int] = {}

    def add(self, number: int, channel: Channel) -> None:
        schema = channel.schema
        if schema is None and channel.type:  # as rosbag2 keeps a type without a definition
            schema = Schema(channel.type, "", b"")
        if schema is not None and schema not in self._schemas:
            self._schemas[schema] = self._writer.register_schema(
                schema.name, schema.encoding, schema.data
            )
        self._ids[number] = self._writer.register_channel(
            channel.topic, channel.encoding, self._schemas[schema], channel.metadata
        )

    def write(self, number: int, message: Message) -> None:
        self._writer.add_message(
            self._ids[number],
            message.log_time,
            message.data,
            message.publish_time,
            message.sequence,
        )

    def add_extra(self, extra: Attachment | Metadata) -> None:
        if isinstance(extra, Attachment):
            self._writer.add_attachment(*extra)
        else:
            self._writer.add_metadata(*extra)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, metadata: str, version: int) -> None:
        if metadata:
            self._writer.add_metadata(_EMBEDDED, {"serialized_metadata": metadata})
        self._writer.finish()
        self._file.close()


class _SqliteStorage:
    identifier = "sqlite3"

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_TABLES)
        self._definitions: set[Any] = set()

    def add(self, number: int, channel: Channel) -> None:
        name = channel.schema.name if channel.schema else channel.type
        type_hash = channel.metadata.get("topic_type_hash", "")
        qos = channel.metadata.get("offered_qos_profiles", "")
        self._database.execute(
            "INSERT INTO topics VALUES (?, ?, ?, ?, ?, ?)",
            (number, channel.topic, name, channel.encoding, qos, type_hash),
        )
        if channel.schema and (channel.schema, type_hash) not in self._definitions:
            self._definitions.add((channel.schema, type_hash))
            text = channel.schema.data.decode("utf-8", "surrogateescape")
            self._database.execute(
                "INSERT INTO message_definitions VALUES (NULL, ?, ?, ?, ?)",
                (name, channel.schema.encoding, text, type_hash),
            )

    def write(self, number: int, message: Message) -> None:
        self._database.execute(
            "INSERT INTO messages VALUES (NULL, ?, ?, ?)", (number, message.log_time, message.data)
        )

    def add_extra(self, extra: Attachment | Metadata) -> None:
        pass  # only MCAP files have any

    def flush(self) -> None:
        self._database.commit()

    def close(self, metadata: str, version: int) -> None:
        self._database.execute("INSERT INTO metadata VALUES (NULL, ?, ?)", (version, metadata))
        self._database.commit()
        self._database.execute("PRAGMA journal_mode=DELETE")  # one file
        self._database.close()


_TABLES = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(
  id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE topics(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
  serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL,
  type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(
  id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
  encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE messages(
  id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
  data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
INSERT INTO schema VALUES (4, '');
"""
