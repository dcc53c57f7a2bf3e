"""Small recordings with an image topic, written by the formats' own libraries or by hand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import mcap.reader
import mcap.writer
import numpy as np
from rosbags.typesys import Stores, get_typestore

IMAGE = "sensor_msgs/msg/Image"
TOPIC = "/front/image_raw"
SIZE = (30, 20)  # width, height
T0 = 1_700_000_000 * 10**9
QOS = (
    "- history: 1\n  depth: 7\n  reliability: 2\n  durability: 1\n"
    "  deadline: {sec: 3, nsec: 0}\n  lifespan: {sec: 0, nsec: 0}\n  liveliness: 1\n"
    "  liveliness_lease_duration: {sec: 0, nsec: 0}\n  avoid_ros_namespace_conventions: false\n"
)
TYPES = get_typestore(Stores.ROS2_HUMBLE)
ROS1 = get_typestore(Stores.ROS1_NOETIC)
IMAGE_TEXT = TYPES.generate_msgdef(IMAGE, ros_version=2)[0]
IMAGE_METADATA = {"offered_qos_profiles": QOS, "topic_type_hash": TYPES.hash_rihs01(IMAGE)}


def pixels(number: int) -> np.ndarray:
    """(20, 30, 3) uint8 RGB that compresses badly."""
    return np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def image_message(number: int, encoding: str = "rgb8", data: np.ndarray | None = None):
    """A sensor_msgs/Image of ROS 2 with the stamp `number` / 10 s."""
    data = pixels(number) if data is None else data
    second, tenth = divmod(number, 10)
    time = TYPES.types["builtin_interfaces/msg/Time"](1_700_000_000 + second, tenth * 10**8)
    header = TYPES.types["std_msgs/msg/Header"](time, "camera")
    step = data.nbytes // SIZE[1]
    return TYPES.types[IMAGE](header, SIZE[1], SIZE[0], encoding, 0, step, data.ravel())


def image_bytes(number: int, encoding: str = "rgb8", data: np.ndarray | None = None) -> bytes:
    """The same in CDR."""
    return bytes(TYPES.serialize_cdr(image_message(number, encoding, data), IMAGE))


def write_mcap(
    path: Path,
    frames: int = 4,
    others: tuple = (),
    extras: bool = False,
    finish: bool = True,
    first: int = 0,
    images=image_bytes,
    **options,
) -> Path:
    """An MCAP of images, and a message of each of `others` with every frame.

    others: (topic, message encoding, (name, encoding, text) of the schema or None, data).
    """
    with path.open("wb") as file:
        writer = mcap.writer.Writer(file, **options)
        writer.start("ros2")
        schema = writer.register_schema(IMAGE, "ros2msg", IMAGE_TEXT.encode())
        channel = writer.register_channel(TOPIC, "cdr", schema, IMAGE_METADATA)
        channels = []
        for topic, encoding, definition, data in others:
            number = writer.register_schema(*definition) if definition else 0
            channels.append((writer.register_channel(topic, encoding, number, {"a": "b"}), data))
        if extras:
            writer.add_attachment(5, 6, "map.png", "image/png", b"\0\1\2" * 100)
            writer.add_metadata("calibration", {"fx": "1.5", "unit": "px"})
        for number in range(first, first + frames):
            time = T0 + number * 10**8
            writer.add_message(channel, time, images(number), time - 5, 100 + number)
            for other, data in channels:
                writer.add_message(other, time + 1, data, time - 7, 200 + number)
        if finish:
            writer.finish()
        else:
            writer.flush()
    return path


def write_db3(
    path: Path, frames: int = 4, others: tuple = (), first: int = 0, images=image_bytes
) -> Path:
    """The same in SQLite, in the tables that rosbag2 makes since Iron."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            "CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);"
            "CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL,"
            " metadata TEXT NOT NULL);"
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,"
            " serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL,"
            " type_description_hash TEXT NOT NULL);"
            "CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL,"
            " encoding TEXT NOT NULL, encoded_message_definition TEXT NOT NULL,"
            " type_description_hash TEXT NOT NULL);"
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,"
            " timestamp INTEGER NOT NULL, data BLOB NOT NULL);"
            "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
            "INSERT INTO schema VALUES (4, 'jazzy');"
        )
        image = (TOPIC, "cdr", (IMAGE, "ros2msg", IMAGE_TEXT.encode()), b"")
        for number, (topic, encoding, definition, _) in enumerate((image, *others), 1):
            name, kind, text = definition
            digest = IMAGE_METADATA["topic_type_hash"] if number == 1 else f"RIHS01_{number}"
            row = (number, topic, name, encoding, QOS, digest)
            database.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?, ?)", row)
            row = (number, name, kind, text.decode(), digest)
            database.execute("INSERT INTO message_definitions VALUES (?, ?, ?, ?, ?)", row)
        insert = "INSERT INTO messages VALUES (NULL, ?, ?, ?)"
        for frame in range(first, first + frames):
            time = T0 + frame * 10**8
            database.execute(insert, (1, time, images(frame)))
            for number, (_, _, _, data) in enumerate(others, 2):
                database.execute(insert, (number, time + 1, data))
    return path


def everything(path: Path) -> dict[str, list]:
    """What an MCAP holds, by the library of the format's authors, in comparable form."""
    with path.open("rb") as file:
        reader = mcap.reader.make_reader(file, validate_crcs=True)
        return {
            "messages": [
                (
                    channel.topic,
                    channel.message_encoding,
                    channel.metadata,
                    (schema.name, schema.encoding, schema.data) if schema else None,
                    message.log_time,
                    message.publish_time,
                    message.sequence,
                    message.data,
                )
                for schema, channel, message in reader.iter_messages()
            ],
            "attachments": list(reader.iter_attachments()),
            "metadata": list(reader.iter_metadata()),
        }


def table_rows(path: Path) -> list[tuple]:
    """What a .db3 holds, in comparable form."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(
            "SELECT name, type, serialization_format, offered_qos_profiles,"
            " topics.type_description_hash, encoding, encoded_message_definition, timestamp, data"
            " FROM messages JOIN topics ON topic_id = topics.id JOIN message_definitions"
            " ON topic_type = type AND message_definitions.type_description_hash ="
            " topics.type_description_hash ORDER BY messages.id"
        ).fetchall()
