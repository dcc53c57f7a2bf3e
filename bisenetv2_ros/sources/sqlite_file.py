"""rosbag2's SQLite files (.db3), by their tables: topics, message_definitions, messages."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from bisenetv2_ros.sources.bag_file import (
    BagFile,
    Channel,
    Lost,
    Message,
    Schema,
    one_line,
    open_plain,
    ros2_name,
)

MAGIC = b"SQLite format 3\0"


class SqliteFile(BagFile):
    """A .db3 of any of rosbag2's versions, with what is still in its -wal, or as .db3.zstd."""

    def __init__(self, path: Path) -> None:
        """Find the channels and count the messages. sqlite3.DatabaseError if that cannot be."""
        super().__init__(path)
        self._channels: dict[int, Channel] = {}
        self._claimed: int | None = None  # messages; None if damage hides their number
        with self._open() as database:
            schemas: dict[Any, Schema] = {}  # by type and hash: a name may have two definitions
            for kind, encoding, text, digest in _rows(database, "message_definitions", _DEFINITION):
                schemas[kind, digest] = Schema(kind, encoding, _bytes(text))
                schemas.setdefault(kind, schemas[kind, digest])
            for number, topic, kind, encoding, qos, digest in _rows(database, "topics", _TOPIC):
                metadata = {"offered_qos_profiles": qos or "", "topic_type_hash": digest or ""}
                schema = schemas.get((kind, digest), schemas.get(kind))
                self._channels[number] = Channel(topic, ros2_name(kind), encoding, schema, metadata)
            self.counts = dict.fromkeys(self._channels.values(), 0)
            try:
                self._count(database)
            except sqlite3.DatabaseError:
                for message in self._salvage(database, (-1, -1)):
                    self._note(message.channel, message.log_time)

    def messages(self, channels: Collection[Channel], lost: Lost) -> Iterator[Message]:
        read, newest = 0, (-1, -1)
        with self._open() as database:
            try:
                for row in database.execute(f"{_MESSAGES} ORDER BY timestamp, id"):
                    read, newest = read + 1, (row[1], row[0])
                    if (message := self._message(row)).channel in channels:
                        yield message
            except sqlite3.DatabaseError as error:
                before = read
                for message in self._salvage(database, newest):
                    read += 1
                    if message.channel in channels:
                        yield message
                total = "an unknown number" if self._claimed is None else self._claimed
                lost(
                    f"{self.path}: damaged after {before} messages, {read} can be read of "
                    f"{total}: {one_line(error)}"
                )

    def _count(self, database: sqlite3.Connection) -> None:
        query = "SELECT topic_id, count(*), min(timestamp), max(timestamp) FROM messages GROUP BY 1"
        for number, count, first, last in database.execute(query).fetchall():
            channel = self._channels[number]
            self.counts[channel] = count
            self.start_time, self.end_time = min(self.start_time, first), max(self.end_time, last)
        self._claimed = sum(self.counts.values())

    def _message(self, row: tuple[int, int, int, bytes]) -> Message:
        _, time, number, data = row
        return Message(self._channels[number], time, time, 0, _bytes(data))

    def _salvage(self, database: sqlite3.Connection, newest: tuple[int, int]) -> Iterator[Message]:
        """The messages after (time, id) that are left, in the order in which they were written."""
        position: int | None = -1
        while position is not None:
            try:
                for row in database.execute(f"{_MESSAGES} WHERE id > ? ORDER BY id", (position,)):
                    position = row[0]
                    if (row[1], row[0]) > newest:
                        yield self._message(row)
                return
            except sqlite3.DatabaseError:
                position = _after_damage(database, position)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database, read only. Nothing is written to its folder, not even by SQLite."""
        log = self.path.with_name(f"{self.path.name}-wal")
        with ExitStack() as stack:
            path, mode = self.path, "immutable=1"  # takes no lock, and passes over a -wal
            with open_plain(path) as stream:
                plain = stream.seekable()
                pending = plain and log.is_file() and log.stat().st_size > 0
                if pending or not plain:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bag-"))
                    path, mode = Path(folder) / "bag.db3", "mode=rw"
                    with path.open("wb") as copy:
                        shutil.copyfileobj(stream, copy, 1 << 20)
                if pending:
                    shutil.copyfile(log, path.with_name(f"{path.name}-wal"))
            uri = f"{path.resolve().as_uri()}?{mode}"
            database = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            # What is beyond the end of a file that was cut off does not forbid the rest.
            database.execute("PRAGMA writable_schema=ON")
            yield database


_MESSAGES = "SELECT id, timestamp, topic_id, data FROM messages"
_HASH = "type_description_hash"
_TOPIC = ("id", "name", "type", "serialization_format", "offered_qos_profiles", _HASH)
_DEFINITION = ("topic_type", "encoding", "encoded_message_definition", _HASH)


def _rows(
    database: sqlite3.Connection, table: str, columns: tuple[str, ...]
) -> list[tuple[Any, ...]]:
    """Those columns of a table; None for columns that older versions do not have."""
    there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    names = ", ".join(column if column in there else f"NULL AS {column}" for column in columns)
    return database.execute(f"SELECT {names} FROM {table}").fetchall() if there else []


def _after_damage(database: sqlite3.Connection, position: int) -> int | None:
    """The first id after which messages can be read again, behind damage at `position`."""

    def readable(after: int) -> bool:
        query = f"{_MESSAGES} WHERE id > ? ORDER BY id"
        try:
            return database.execute(query, (after,)).fetchone() is not None
        except sqlite3.DatabaseError:
            return False

    step = 1
    while not readable(position + step):
        step *= 2
        if step > 2**40:
            return None
    low, high = position + step // 2, position + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if readable(middle) else (middle, high)
    return high


def _bytes(value: bytes | str) -> bytes:
    """Columns of texts may hold blobs, and the other way round."""
    return value.encode() if isinstance(value, str) else bytes(value)
