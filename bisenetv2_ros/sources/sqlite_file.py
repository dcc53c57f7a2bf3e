"""rosbag2's SQLite files (.db3) with the tables topics, message_definitions and messages."""

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
    read_up_to,
    ros2_name,
)

MAGIC = b"SQLite format 3\0"


class SqliteFile(BagFile):
    """A .db3 of any rosbag2 version, including its -wal, or a .db3.zstd."""

    def __init__(self, path: Path) -> None:
        """Find the channels and count the messages. Raises sqlite3.DatabaseError if it cannot."""
        super().__init__(path)
        self._channels: dict[int, Channel] = {}
        self._claimed: int | None = None  # messages; None if damage hides the number
        with self._open() as database:
            schemas: dict[Any, Schema] = {}  # by type and hash: a name may have two definitions
            for row in _rows(database, "message_definitions", _DEFINITION):
                kind, encoding, digest = map(_text, row[:3])
                schemas[kind, digest] = Schema(kind, encoding, _bytes(row[3] or b""))
                schemas.setdefault(kind, schemas[kind, digest])
            for number, *texts in _rows(database, "topics", _TOPIC):
                topic, kind, encoding, qos, digest = map(_text, texts)
                metadata = {"offered_qos_profiles": qos, "topic_type_hash": digest}
                schema = schemas.get((kind, digest), schemas.get(kind))
                self._channels[number] = Channel(topic, ros2_name(kind), encoding, schema, metadata)
            self.counts = dict.fromkeys(self._channels.values(), 0)
            try:
                self._count(database)
            except sqlite3.DatabaseError:
                for _, message in self._salvage(database, (-1, -1)):
                    self._note(message.channel, message.log_time)

    def messages(self, channels: Collection[Channel], lost: Lost) -> Iterator[Message]:
        read, newest, reason = 0, (-1, -1), "rows that are no messages"
        with self._open() as database:
            messages = self._in_order(database)
            while True:
                try:
                    row = next(messages, None)
                except sqlite3.DatabaseError as error:
                    reason = one_line(error)
                    messages = self._salvage(database, newest)
                    continue
                if row is None:
                    break
                read, newest = read + 1, (row[1].log_time, row[0])
                if row[1].channel in channels:
                    yield row[1]
        if self._claimed is None or read < self._claimed:
            total = "an unknown number" if self._claimed is None else self._claimed
            lost(f"{self.path}: damaged, {read} messages can be read of {total}: {reason}")

    def _count(self, database: sqlite3.Connection) -> None:
        query = "SELECT topic_id, count(*), min(timestamp), max(timestamp) FROM messages GROUP BY 1"
        claimed = 0
        for number, count, first, last in database.execute(query).fetchall():
            claimed += count
            if number in self._channels and isinstance(first, int) and isinstance(last, int):
                self.counts[self._channels[number]] = count
                self.start_time = min(self.start_time, first)
                self.end_time = max(self.end_time, last)
        self._claimed = claimed

    def _in_order(self, database: sqlite3.Connection) -> Iterator[tuple[int, Message]]:
        """Every message and its id, by time."""
        for row in database.execute(f"{_MESSAGES} ORDER BY timestamp, id"):
            if (message := self._message(*row[1:])) is not None:
                yield row[0], message

    def _salvage(
        self, database: sqlite3.Connection, newest: tuple[int, int]
    ) -> Iterator[tuple[int, Message]]:
        """The remaining messages after (time, id), in the order in which they were written."""
        position: int | None = -1
        while position is not None:
            try:
                for row in database.execute(f"{_MESSAGES} WHERE id > ? ORDER BY id", (position,)):
                    if row[0] <= position:
                        raise sqlite3.DatabaseError("ids are out of order")
                    position = row[0]
                    message = self._message(*row[1:])
                    if message is not None and (message.log_time, row[0]) > newest:
                        yield row[0], message
                return
            except sqlite3.DatabaseError:
                position = _after_damage(database, position)

    def _message(self, time: Any, number: Any, data: Any) -> Message | None:
        """None for a row that is damaged."""
        channel = self._channels.get(number)
        if channel is None or not isinstance(time, int) or not isinstance(data, (bytes, str)):
            return None
        return Message(channel, time, time, 0, _bytes(data))

    def _has(self, name: str) -> bool:
        """Whether SQLite left a journal of that name beside the file, which must be read too."""
        journal = Path(f"{self.path}{name}")
        return journal.is_file() and journal.stat().st_size > 0

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the database read only. Not even SQLite writes to its folder."""
        with ExitStack() as stack:
            path, mode = self.path, "immutable=1"  # takes no lock and reads no journal
            journals = [name for name in ("-wal", "-journal") if self._has(name)]
            if journals or self.is_compressed:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bag-")))
                path, mode = folder / "bag.db3", "mode=rw"
                with open_plain(self.path) as stream, path.open("wb") as copy:
                    while part := read_up_to(stream, 1 << 20):
                        copy.write(part)
                for name in journals:
                    shutil.copyfile(f"{self.path}{name}", f"{path}{name}")
            uri = f"{path.resolve().as_uri()}?{mode}"
            database = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            # Read the rest although a truncated file lacks some tables.
            database.execute("PRAGMA writable_schema=ON")
            yield database


_MESSAGES = "SELECT id, timestamp, topic_id, data FROM messages"
_HASH = "type_description_hash"
_TOPIC = ("id", "name", "type", "serialization_format", "offered_qos_profiles", _HASH)
_DEFINITION = ("topic_type", "encoding", _HASH, "encoded_message_definition")


def _rows(
    database: sqlite3.Connection, table: str, columns: tuple[str, ...]
) -> list[tuple[Any, ...]]:
    """Those columns of a table, None for columns that older versions lack."""
    there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    names = ", ".join(column if column in there else f"NULL AS {column}" for column in columns)
    return database.execute(f"SELECT {names} FROM {table}").fetchall() if there else []


def _after_damage(database: sqlite3.Connection, position: int) -> int | None:
    """The first id after damage at `position` from which messages can be read again."""

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


def _text(value: Any) -> str:
    """Return the value of a text column, or '' if it is not text (old schema or damaged file)."""
    return value if isinstance(value, str) else ""


def _bytes(value: bytes | str) -> bytes:
    """Return a value's bytes; SQLite allows text in blob columns and blobs in text columns."""
    return value.encode() if isinstance(value, str) else bytes(value)
