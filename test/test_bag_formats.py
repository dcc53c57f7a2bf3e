"""Recordings as they come: any schema, any format, whole or broken off; and copies of them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rosbags", reason="needs rosbags")
pytest.importorskip("mcap", reason="needs mcap")

import mcap.writer
import zstandard
from bags import (
    IMAGE,
    IMAGE_TEXT,
    QOS,
    ROS1,
    SIZE,
    T0,
    TOPIC,
    TYPES,
    everything,
    image_bytes,
    image_message,
    pixels,
    table_rows,
    write_db3,
    write_mcap,
)
from mcap.writer import CompressionType, IndexType
from rosbags.highlevel import AnyReader
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.sources.bag import BagFrames
from bisenetv2_ros.sources.frame import SourceError
from bisenetv2_ros.sources.frame_source import open_source
from bisenetv2_ros.sources.recording import Recording

SEPARATOR = "=" * 80 + "\n"
DEFINITIONS = {
    "service event": (
        "example_interfaces/srv/AddTwoInts_Event",
        "ros2msg",
        "service_msgs/ServiceEventInfo info\nAddTwoInts_Request[<=1] request\n",
    ),
    "IDL include": ("a/msg/B", "ros2idl", '#include "x.idl"\nmodule a { module msg { }; };'),
    "IDL union": (
        "a/msg/U",
        "ros2idl",
        "module a { module msg { union U switch (long) { case 1: long x; }; }; };",
    ),
    "IDL bitmask": ("a/msg/M", "ros2idl", "module a { module msg { bitmask M { A, B }; }; };"),
    "IDL enum": (
        "a/msg/E",
        "ros2idl",
        "module a { module msg { enum K { A, B }; struct E { K k; }; }; };",
    ),
    "CRLF": ("a/msg/C", "ros2msg", "int32 x\r\n\r\n# words\r\nfloat64 y\r\n"),
    "empty constant": ("a/msg/S", "ros2msg", "string E=\nint32 x\n"),
    "missing dependency": ("a/msg/D", "ros2msg", "b/Other other\n"),
    "wstring": ("a/msg/W", "ros2msg", "wstring text\n"),
    "protobuf": ("foxglove.Log", "protobuf", "\x0a\x01\x7f"),
    "JSON": ("Thing", "jsonschema", '{"type": "object"}'),
    "unknown": ("x", "of-tomorrow", "\x01\x02"),
    "empty": ("a/msg/N", "ros2msg", ""),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_model(folder / "bisenetv2_tiny_96x64_float32.onnx", tiny_info((96, 64)))


@pytest.fixture
def predict(tmp_path, model):
    def run(source: Path, *words: object) -> int:
        words = ("-o", tmp_path / "out", "--model", model, "--backend", "onnxruntime", *words)
        return main(["predict", str(source), *map(str, words)])

    return run


def other(name: str, topic: str = "/odd") -> tuple:
    kind, encoding, text = DEFINITIONS[name]
    message = {"protobuf": "protobuf", "jsonschema": "json"}.get(encoding, "cdr")
    return (topic, message, (kind, encoding, text.encode("latin1")), b"\0\1\0\0anything")


def read(path: Path, **options) -> tuple[list[int], list[str]]:
    """The numbers of the frames, whose pixels are compared, and what was reported."""
    lost: list[str] = []
    numbers = []
    on_damaged = lambda error: lost.append(str(error))  # noqa: E731
    for frame in BagFrames(path, [TOPIC], on_damaged=on_damaged, **options):
        number = frame.origin.nanosec // 10**8 + 10 * (frame.origin.sec - 1_700_000_000)
        np.testing.assert_array_equal(frame.image, pixels(number))
        numbers.append(number)
    assert all("\n" not in text for text in lost)
    return numbers, lost


def recorded(rows: list) -> list:
    """Without the outputs that were added."""
    return [row for row in rows if "/segmentation/" not in row[0]]


# Any schema --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFINITIONS)
def test_no_definition_stands_in_the_way_of_an_mcap(tmp_path, predict, name):
    drive = write_mcap(tmp_path / "drive.mcap", others=(other(name),))
    assert predict(drive, "--save", "bag,masks") == 0
    (new,) = (tmp_path / "out" / "bag").glob("*.mcap")
    before, after = everything(drive)["messages"], everything(new)["messages"]
    assert recorded(after) == before and len(before) == 8
    assert len(after) == 8 + 2 * 4 + 1
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_channels_without_a_schema_and_two_definitions_of_one_name(tmp_path, predict):
    second = ("/c", "cdr", ("a/msg/C", "ros2msg", b"string y\n"), b"\0\1\0\0c")
    others = (("/a", "json", None, b"{}"), other("CRLF", "/b"), second, ("/d", "", None, b""))
    drive = write_mcap(tmp_path / "drive.mcap", others=others)
    assert predict(drive, "--save", "bag") == 0
    (new,) = (tmp_path / "out" / "bag").glob("*.mcap")
    assert recorded(everything(new)["messages"]) == everything(drive)["messages"]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_no_definition_stands_in_the_way_of_sqlite(tmp_path, predict, name):
    drive = write_db3(tmp_path / "drive.db3", others=(other(name),))
    assert predict(drive, "--save", "bag") == 0
    (new,) = (tmp_path / "out" / "bag").glob("*.db3")
    before, after = table_rows(drive), table_rows(new)
    assert recorded(after) == before and len(before) == 8
    assert len(after) == 8 + 2 * 4 + 1


def test_two_definitions_of_one_name_in_sqlite(tmp_path, predict):
    second = ("/c", "cdr", ("a/msg/C", "ros2msg", b"string y\n"), b"\0\1\0\0c")
    drive = write_db3(tmp_path / "drive.db3", others=(other("CRLF", "/b"), second))
    assert predict(drive, "--save", "bag") == 0
    (new,) = (tmp_path / "out" / "bag").glob("*.db3")
    assert recorded(table_rows(new)) == table_rows(drive)


def test_types_without_a_definition_keep_their_name(tmp_path, predict):
    """Also in a folder of both formats, of which the copy is an MCAP."""
    folder = tmp_path / "drive"
    folder.mkdir()
    drive = write_db3(folder / "b.db3", 2, others=(other("CRLF"),))
    with closing(sqlite3.connect(drive)) as database, database:
        database.execute("DELETE FROM message_definitions")
    write_mcap(folder / "a.mcap", 2, first=2)
    assert predict(folder, "--save", "bag") == 0
    (new,) = (tmp_path / "out" / "bag").glob("*.mcap")
    rows = recorded(everything(new)["messages"])
    assert len(rows) == 6
    assert {row[3][0] for row in rows if row[0] == "/odd"} == {"a/msg/C"}


def test_every_way_of_writing_an_mcap_is_read_whole(tmp_path):
    """Summaries may lack any part, and then nothing must be missing, nor be called lost."""
    switches = ("use_chunking", "repeat_channels", "repeat_schemas", "use_statistics")
    switches += ("use_summary_offsets", "enable_crcs", "enable_data_crcs")
    indexes = (IndexType.ALL, IndexType.NONE, IndexType.CHUNK, IndexType.MESSAGE)
    for values in itertools.product((True, False), repeat=len(switches)):
        for index in indexes:
            options = dict(zip(switches, values, strict=True)) | {"index_types": index}
            others = (("/b", "json", None, b"{}"),)
            drive = write_mcap(tmp_path / "a.mcap", 3, others, chunk_size=5000, **options)
            recording, lost = Recording(drive), []
            messages = list(recording.messages(recording.counts, lost.append))
            assert len(messages) == 6 and not lost, options
            assert [m.data for m in messages[::2]] == [image_bytes(n) for n in range(3)], options


# Folders and files that break off ----------------------------------------------------------------


@pytest.mark.parametrize(("write", "suffix"), [(write_mcap, "mcap"), (write_db3, "db3")])
def test_folder_of_several_files_without_metadata(tmp_path, write, suffix):
    folder = tmp_path / "drive"
    folder.mkdir()
    for part in range(11):  # in the order of numbers: 10 after 9
        write(folder / f"drive_{part}.{suffix}", frames=2, first=2 * part)
    assert read(folder) == (list(range(22)), [])
    assert len(list(open_source(str(folder)))) == 22


def test_files_that_overlap_in_time_are_read_in_its_order(tmp_path):
    write_mcap(tmp_path / "a.mcap", frames=4)
    write_mcap(tmp_path / "b.mcap", frames=4, first=2)
    assert read(tmp_path) == ([0, 1, 2, 2, 3, 3, 4, 5], [])


def test_write_ahead_log_of_a_killed_recorder(tmp_path, predict):
    """It is read, and nothing is written beside it."""
    folder = tmp_path / "drive"
    folder.mkdir()
    write_db3(folder / "drive.db3", frames=2)
    code = (
        "import os, signal, sqlite3, sys\n"
        "from bags import T0, image_bytes\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "database.execute('PRAGMA journal_mode=WAL')\n"
        "for number in range(2, 6):\n"
        "    row = (1, T0 + number * 10**8, image_bytes(number))\n"
        "    database.execute('INSERT INTO messages VALUES (NULL, ?, ?, ?)', row)\n"
        "    database.commit()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    support = str(Path(__file__).parent / "support")
    command = [sys.executable, "-c", code, str(folder / "drive.db3")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": support}, check=False)
    assert done.returncode == -signal.SIGKILL and (folder / "drive.db3-wal").stat().st_size
    for name in ("drive.db3-shm", "none"):  # with and without it, as when copied
        (folder / name).unlink(missing_ok=True)
        before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
        assert read(folder) == (list(range(6)), [])
        after = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
        assert after == before


def test_journal_of_a_killed_recorder(tmp_path):
    """What was being written when it was killed is taken back, as by every reader of SQLite."""
    drive = write_db3(tmp_path / "drive.db3", frames=3)
    code = (
        "import os, signal, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "database.execute('PRAGMA cache_size=1')\n"  # so that changes get into the file early
        "database.execute('BEGIN')\n"
        "database.execute('DELETE FROM messages WHERE id > 1')\n"
        "for number in range(200):\n"
        "    database.execute('INSERT INTO messages VALUES (NULL, 1, 1, ?)', (bytes(9000),))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(drive)], check=False)
    assert done.returncode == -signal.SIGKILL and (tmp_path / "drive.db3-journal").stat().st_size
    before = drive.read_bytes()
    assert read(drive) == ([0, 1, 2], [])
    assert drive.read_bytes() == before


@pytest.mark.parametrize("compression", CompressionType)
def test_mcap_without_an_end(tmp_path, predict, capsys, compression):
    drive = write_mcap(tmp_path / "a.mcap", 6, finish=False, compression=compression)
    assert predict(drive, "--save", "masks,bag") == 1
    error = capsys.readouterr().err
    assert f"{drive}: breaks off after 6 messages: no end is marked" in error
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 6
    (new,) = (tmp_path / "out" / "bag").glob("*.mcap")
    assert len(recorded(everything(new)["messages"])) == 6
    assert read(new.parent) == (list(range(6)), [])


@pytest.mark.parametrize("compression", CompressionType)
def test_mcap_that_ends_within_a_chunk(tmp_path, compression):
    """Compressed blocks are of 64 KiB and more, so there is more data here than elsewhere."""
    options = {"compression": compression, "chunk_size": 1 << 30}
    many = tuple((f"/{n}", "cdr", None, np.random.default_rng(n).bytes(150_000)) for n in range(3))
    drive = write_mcap(tmp_path / "a.mcap", 4, others=many, finish=False, **options)
    drive.write_bytes(drive.read_bytes()[: drive.stat().st_size * 2 // 3])
    numbers, (text,) = read(drive)
    assert numbers == list(range(len(numbers))) and 0 < len(numbers) < 4
    assert text.startswith(f"{drive}: breaks off after") and "in the middle of a record" in text
    assert "(CHUNK)" in text


def test_chunk_whose_length_was_never_filled_in(tmp_path):
    """As writers leave it that put the lengths in when the chunk is complete."""
    options = {"compression": CompressionType.NONE, "chunk_size": 1 << 30}
    drive = write_mcap(tmp_path / "a.mcap", 4, finish=False, **options)
    data = bytearray(drive.read_bytes())
    start = data.index(IMAGE.encode()) - 15 - 49  # the chunk's record, before its first schema
    assert data[start] == 6, "the layout of MCAP"
    data[start + 1 : start + 9] = b"\xff" * 8
    data[start + 25 : start + 37] = b"\xff" * 12  # size and checksum
    data[start + 41 : start + 49] = b"\xff" * 8
    drive.write_bytes(data[:-700])
    numbers, (text,) = read(drive)
    assert numbers == [0, 1, 2] and "breaks off after 3 messages" in text


def test_unchunked_mcap_is_read_to_where_it_breaks_off(tmp_path):
    drive = write_mcap(tmp_path / "a.mcap", 8, use_chunking=False)
    assert read(drive) == (list(range(8)), [])
    drive.write_bytes(drive.read_bytes()[:-4000])
    numbers, (text,) = read(drive)
    assert numbers == list(range(len(numbers))) and 2 < len(numbers) < 8
    assert f"breaks off after {len(numbers)} messages" in text


@pytest.mark.parametrize("indexed", [True, False])
def test_hole_in_an_mcap(tmp_path, indexed):
    """With its summary the rest is read behind the hole, without it all up to there."""
    drive = write_mcap(tmp_path / "a.mcap", 9, chunk_size=1, finish=indexed)
    data = bytearray(drive.read_bytes())
    time = (T0 + 4 * 10**8).to_bytes(8, "little")
    start = data.index(time + time)  # the first and the last time of a chunk
    data[start - 9 : start + 500] = bytes(509)
    drive.write_bytes(data)
    numbers, (text,) = read(drive)
    assert numbers == ([0, 1, 2, 3, 5, 6, 7, 8] if indexed else [0, 1, 2, 3])
    assert "after 4 messages" in text


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_mcap_cut_within_its_summary_has_all_messages(tmp_path, cut):
    drive = write_mcap(tmp_path / "a.mcap", 5)
    drive.write_bytes(drive.read_bytes()[:-cut])
    numbers, lost = read(drive)
    assert numbers == list(range(5)) and len(lost) == (cut > 8)


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_database_that_was_cut_off(tmp_path, predict, capsys, keep):
    drive = write_db3(tmp_path / "a.db3", 60)
    size = drive.stat().st_size
    os.truncate(drive, int(size * keep) // 4096 * 4096)
    numbers, lost = read(drive)
    assert 60 * keep - 12 < len(numbers) < 60 and len(lost) == 1
    assert f"{drive}: damaged, {len(numbers)} messages can be read" in lost[0]
    assert predict(drive, "--save", "masks,bag") == 1
    assert len(list((tmp_path / "out" / "masks").iterdir())) == len(numbers)
    (new,) = (tmp_path / "out" / "bag").glob("*.db3")
    assert len(recorded(table_rows(new))) == len(numbers)


def test_hole_in_a_database(tmp_path):
    drive = write_db3(tmp_path / "a.db3", 60)
    data = bytearray(drive.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 3 * 4096] = bytes(3 * 4096)
    drive.write_bytes(data)
    numbers, lost = read(drive)
    assert 50 < len(numbers) < 60 and numbers[0] == 0 and numbers[-1] == 59 and len(lost) == 1


def test_files_that_are_not_there_or_no_recordings_are_named(tmp_path):
    folder = tmp_path / "drive"
    folder.mkdir()
    for part in range(3):
        write_mcap(folder / f"drive_{part}.mcap", frames=2, first=2 * part)
    names = [f"drive_{part}.mcap" for part in range(5)]
    content = {"version": 5, "relative_file_paths": names[:2] + names[3:], "message_count": 8}
    text = yaml.safe_dump({"rosbag2_bagfile_information": content})
    (folder / "metadata.yaml").write_text(text)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / names[3]).write_text(pointer)
    numbers, lost = read(folder)
    assert numbers == [0, 1, 2, 3]
    assert [text.split(": ")[0].rpartition("/")[2] for text in lost] == [
        names[2],
        *names[3:],
        "drive",
    ]
    assert "metadata.yaml does not name it" in lost[0] and "a Git LFS pointer" in lost[1]
    assert "No such file" in lost[2] and "4 messages can be read of 8" in lost[3]
    (folder / "metadata.yaml").write_text("")  # as a full disk leaves it
    (folder / names[4]).write_bytes(b"")
    numbers, lost = read(folder)
    assert numbers == list(range(6)) and len(lost) == 3
    assert "metadata.yaml: no metadata" in lost[0] and "the file is empty" in lost[2]


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag", "a.mcap.zstd"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"", "the file is empty"),
        (b"<html>404</html>", "starts with b'<html>404</h'"),
    ],
)
def test_no_recording_is_called_what_it_is(tmp_path, predict, capsys, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert predict(path) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1 and "recover" not in error


# Compression, ROS 1 and what the copy keeps ------------------------------------------------------


@pytest.mark.parametrize("compression", CompressionType)
def test_copy_of_an_mcap_keeps_what_it_holds(tmp_path, predict, compression):
    flat = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    options = {"images": lambda number: image_bytes(number, data=flat), "extras": True}
    drive = write_mcap(tmp_path / "drive.mcap", compression=compression, **options)
    assert predict(drive, "--save", "bag") == 0
    bag = tmp_path / "out" / "bag"
    (new,) = bag.glob("*.mcap")
    before, after = everything(drive), everything(new)
    assert recorded(after["messages"]) == before["messages"]
    assert before["messages"][0][5:7] == (T0 - 5, 100)
    assert after["attachments"] == before["attachments"] and len(after["attachments"]) == 1
    assert [m for m in after["metadata"] if m.name != "rosbag2"] == before["metadata"]
    with new.open("rb") as file:
        chunks = mcap.reader.make_reader(file).get_summary().chunk_indexes
    name = {CompressionType.NONE: "", CompressionType.LZ4: "lz4", CompressionType.ZSTD: "zstd"}
    assert {chunk.compression for chunk in chunks} == {name[compression]}
    described = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    topics = {t["topic_metadata"]["name"]: t for t in described["topics_with_message_count"]}
    image = topics[TOPIC]["topic_metadata"]
    assert image["offered_qos_profiles"] == QOS
    assert image["type_description_hash"] == TYPES.hash_rihs01(IMAGE)
    assert topics[TOPIC]["message_count"] == 4
    with AnyReader([bag]) as reader:
        assert reader.message_count == described["message_count"] == 4 + 2 * 4 + 1


def compress(path: Path) -> Path:
    new = path.with_name(f"{path.name}.zstd")
    new.write_bytes(zstandard.compress(path.read_bytes()))
    path.unlink()
    return new


@pytest.mark.parametrize(("write", "suffix"), [(write_mcap, "mcap"), (write_db3, "db3")])
def test_file_compressed_as_a_whole(tmp_path, predict, write, suffix):
    drive = compress(write(tmp_path / f"drive.{suffix}"))
    assert read(drive) == ([0, 1, 2, 3], [])
    assert predict(drive, "--save", "bag") == 0
    (new,) = (tmp_path / "out" / "bag").glob(f"*.{suffix}*")
    assert new.name == f"bag.{suffix}.zstd" and read(new.parent) == ([0, 1, 2, 3], [])
    with AnyReader([new.parent]) as reader:
        assert reader.message_count == 4 + 2 * 4 + 1


def test_compressed_file_that_breaks_off(tmp_path):
    data = np.random.default_rng(1).bytes(200_000)
    options = {"others": (("/noise", "", None, data),), "compression": CompressionType.NONE}
    drive = write_mcap(tmp_path / "drive.mcap", 9, chunk_size=1, **options)
    cut = tmp_path / "cut.mcap.zstd"
    cut.write_bytes(zstandard.compress(drive.read_bytes())[:150_000])
    numbers, (text,) = read(cut)
    assert numbers == [0] and f"{cut}: breaks off after" in text
    cut.write_bytes(cut.read_bytes()[:20])
    with pytest.raises(SourceError, match=r"topics: none; .* breaks off after 0 messages"):
        BagFrames(cut)


@pytest.mark.parametrize(("write", "suffix"), [(write_mcap, "mcap"), (write_db3, "db3")])
@pytest.mark.parametrize("described", [True, False])
def test_messages_compressed_one_by_one(tmp_path, predict, write, suffix, described):
    folder = tmp_path / "drive"
    folder.mkdir()
    drive = write(
        folder / f"drive.{suffix}", images=lambda number: zstandard.compress(image_bytes(number))
    )
    content = {"relative_file_paths": [drive.name], "compression_mode": "MESSAGE"}
    content |= {"compression_format": "zstd", "version": 5}
    if described:
        text = yaml.safe_dump({"rosbag2_bagfile_information": content})
        (folder / "metadata.yaml").write_text(text)
    assert read(folder) == ([0, 1, 2, 3], [])
    assert predict(folder, "--save", "bag") == 0
    with AnyReader([tmp_path / "out" / "bag"]) as reader:
        masks = [m for c, _, m in reader.messages() if c.topic.endswith("mask")]
        assert len(masks) == 4 and not masks[0].startswith(zstandard.FRAME_HEADER)


def write_ros1(path: Path, compression: str | None = None, frames: int = 4) -> Path:
    from rosbags.rosbag1 import Writer

    writer = Writer(path)
    if compression:
        writer.set_compression(Writer.CompressionFormat[compression])
    with writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=ROS1)
        header = ROS1.types["std_msgs/msg/Header"]
        time = ROS1.types["builtin_interfaces/msg/Time"]
        for number in range(frames):
            stamp = time(1_700_000_000, number * 10**8)
            message = ROS1.types[IMAGE](
                header(number, stamp, "camera"),
                SIZE[1], SIZE[0], "rgb8", 0, 3 * SIZE[0], pixels(number).ravel(),
            )  # fmt: skip
            writer.write(connection, T0 + number * 10**8, ROS1.serialize_ros1(message, IMAGE))
    return path


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_ros1_bag(tmp_path, predict, compression):
    drive = write_ros1(tmp_path / "drive.bag", compression)
    assert read(drive) == ([0, 1, 2, 3], [])
    assert predict(drive, "--save", "bag,masks") == 0
    (new,) = (tmp_path / "out" / "bag").glob("*.mcap")
    rows = everything(new)["messages"]
    assert len(recorded(rows)) == 4 and recorded(rows)[0][1] == "ros1"
    assert len(rows) == 4 + 2 * 4 + 1
    assert read(new) == ([0, 1, 2, 3], [])


def test_ros1_bag_that_breaks_off(tmp_path):
    drive = write_ros1(tmp_path / "drive.bag", frames=9)
    data = drive.read_bytes()
    drive.write_bytes(data[:13000])  # within the only chunk
    numbers, (text,) = read(drive)
    assert numbers == list(range(len(numbers))) and len(numbers) > 1
    assert f"{drive}: breaks off after {len(numbers)} messages" in text


@pytest.mark.parametrize(("write", "suffix"), [(write_mcap, "mcap"), (write_db3, "db3")])
def test_copy_of_a_killed_process_can_be_read(tmp_path, model, write, suffix):
    drive = write(tmp_path / f"drive.{suffix}", 6)
    code = (
        "import os, signal, sys\n"
        "from bisenetv2_ros.cli.main import main\n"
        "from bisenetv2_ros.offline.result_files import ResultFiles\n"
        "write = ResultFiles.write\n"
        "def write_and_die(results, *arguments):\n"
        "    write(results, *arguments)\n"
        "    if results.frames == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "ResultFiles.write = write_and_die\n"
        "main(sys.argv[1:])\n"
    )
    words = [drive, "-o", tmp_path / "out", "--model", model, "--backend", "onnxruntime"]
    command = [sys.executable, "-c", code, "predict", *map(str, words), "--save", "bag"]
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert done.returncode == -signal.SIGKILL
    numbers, lost = read(tmp_path / "out" / "bag")
    assert numbers == [0, 1, 2] and len(lost) == (suffix == "mcap")
    masks = [m for m in Recording(tmp_path / "out" / "bag").counts.items() if "mask" in m[0].topic]
    assert [count for _, count in masks] == [3]


@pytest.mark.parametrize(("write", "suffix"), [(write_mcap, "mcap"), (write_db3, "db3")])
@pytest.mark.parametrize("limit", [1, 20_000, 60_000])
def test_copy_that_does_not_fit_is_named(tmp_path, model, write, suffix, limit):
    drive = write(tmp_path / f"drive.{suffix}", 40)
    code = (
        "import resource, sys\n"
        "from bisenetv2_ros.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    words = [drive, "-o", tmp_path / "out", "--model", model, "--backend", "onnxruntime"]
    # No .pyc: Python leaves one that did not fit, and no later process can import it.
    command = [sys.executable, "-B", "-c", code, str(limit), "predict", *map(str, words)]
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [*command, "--save", "bag"], env={**os.environ, "PYTHONPATH": paths}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"{tmp_path / 'out' / 'bag' / f'bag.{suffix}'}'" in done.stderr.splitlines()[-1]


# Topics and encodings ----------------------------------------------------------------------------


def test_bag_without_an_image_topic_says_so(tmp_path):
    drive = tmp_path / "drive.mcap"
    with drive.open("wb") as file:
        writer = mcap.writer.Writer(file)
        writer.start()
        writer.register_channel("/talk", "json", 0)
        writer.finish()
    with pytest.raises(SourceError, match=r"no image topic in it, expected sensor_msgs Image"):
        BagFrames(drive)


def test_raw_and_compressed_of_one_camera_are_one(tmp_path):
    compressed = "sensor_msgs/msg/CompressedImage"
    others = ((f"{TOPIC}/compressed", "cdr", (compressed, "ros2msg", b""), b"\0\1\0\0"),)
    drive = write_mcap(tmp_path / "drive.mcap", others=others)
    with pytest.raises(SourceError, match="expected each camera once, by one of its transports"):
        BagFrames(drive, [TOPIC, f"{TOPIC}/compressed"])


def test_encoding_that_messages_do_not_tell(tmp_path, predict, capsys):
    def image(number: int) -> bytes:
        return image_bytes(number, "my_camera_format", pixels(number)[..., ::-1].copy())

    drive = write_mcap(tmp_path / "drive.mcap", images=image)
    assert predict(drive, "--save", "masks") != 0
    assert "encoding is 'my_camera_format'" in capsys.readouterr().err
    for words in ({"": "bgr8"}, {TOPIC: "bgr8"}):
        assert read(drive, encodings=words) == ([0, 1, 2, 3], [])
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert predict(drive, "--save", "masks", "--image-encoding", f"{TOPIC}=bgr8") == 0
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rgb9", "encoding is 'rgb9', expected one of rgb8, bgr8"),
        (
            "/talk=rgb8",
            f"an encoding for '/talk', expected one of the topics that are read: {TOPIC}",
        ),
    ],
)
def test_encodings_that_cannot_be_are_refused(tmp_path, predict, capsys, word, said):
    drive = write_mcap(tmp_path / "drive.mcap")
    assert predict(drive, "--image-encoding", word) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("encoding", "channels"), [("8UC1", 1), ("8UC3", 3), ("8UC4", 4), ("mono8", 1)]
)
def test_opencvs_names_of_encodings(tmp_path, encoding, channels):
    """As cv_bridge reads them: grey, BGR, BGRA."""

    def image(number: int) -> bytes:
        bgr = pixels(number)[..., ::-1]
        alpha = np.dstack([bgr, bgr[..., :1]])
        return image_bytes(number, encoding, np.ascontiguousarray(alpha[..., :channels]))

    drive = write_mcap(tmp_path / "drive.mcap", images=image)
    for number, frame in enumerate(BagFrames(drive)):
        rgb = pixels(number)
        expected = np.repeat(rgb[..., 2:], 3, 2) if channels == 1 else rgb
        np.testing.assert_array_equal(frame.image, expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_formats_of_compressed_images(tmp_path, suffix):
    kind = "sensor_msgs/msg/CompressedImage"
    picture = cv2.GaussianBlur(pixels(0), (9, 9), 3)
    data = cv2.imencode(suffix, picture[..., ::-1])[1].ravel()
    message = TYPES.types[kind](image_message(0).header, suffix[1:], data)
    topic, image = "/c/compressed", bytes(TYPES.serialize_cdr(message, kind))
    others = ((topic, "cdr", (kind, "ros2msg", b""), image),)
    drive = write_mcap(tmp_path / "drive.mcap", 1, others=others)
    (frame,) = BagFrames(drive, [topic])
    assert np.abs(frame.image.astype(int) - picture).mean() < 6


def test_encodings_are_for_bags():
    with pytest.raises(SourceError, match="encoding 'bgr8': expected a bag as the source"):
        open_source("synthetic", encodings={"": "bgr8"})


def test_bayer_mosaic_in_a_png_that_does_not_say_so(tmp_path):
    mosaic = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    data = cv2.imencode(".png", mosaic)[1].ravel()
    kind = "sensor_msgs/msg/CompressedImage"
    header = image_message(0).header
    message = TYPES.types[kind](header, "png", data)
    others = (("/b/image_raw/compressed", "cdr", (kind, "ros2msg", b""),
               bytes(TYPES.serialize_cdr(message, kind))),)  # fmt: skip
    drive = write_mcap(tmp_path / "drive.mcap", 1, others=others)
    topics = ["/b/image_raw/compressed"]
    grey, colours = (
        next(iter(BagFrames(drive, topics, encodings=given))).image
        for given in ({}, {"": "bayer_rggb8"})
    )
    np.testing.assert_array_equal(grey, np.repeat(mosaic[..., None], 3, 2))
    np.testing.assert_array_equal(colours, cv2.cvtColor(mosaic, cv2.COLOR_BayerBG2RGB))


def test_verbs_do_not_write_to_the_files_of_a_bag(tmp_path, model, capsys):
    folder = tmp_path / "drive"
    folder.mkdir()
    drive = write_mcap(folder / "drive.mcap")
    before = drive.read_bytes()
    assert main(["view", str(folder), "--model", str(model), "--save", str(drive)]) != 0
    assert drive.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--every", "2"), [0, 2, 4]),
        (("--every", "0.3s"), [0, 3]),
        (("--start", "0.2s", "--end", "0.4s"), [2, 3]),
        (("--start", "4", "--end", "9"), [4, 5]),
    ],
)
def test_excerpt_of_each_camera(tmp_path, predict, words, wanted):
    definition = (IMAGE, "ros2msg", IMAGE_TEXT.encode())
    rear = ("/rear/image_raw", "cdr", definition, image_bytes(0))
    drive = write_mcap(tmp_path / "drive.mcap", 6, others=(rear,))
    topics = ("--topic", TOPIC, "--topic", rear[0])
    assert predict(drive, "--save", "jsonl", *topics, *words) == 0
    lines = (tmp_path / "out" / "fractions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for camera in (TOPIC, rear[0]):
        times = [record["time_s"] for record in records if record["camera"] == camera]
        assert times == pytest.approx([number / 10 for number in wanted], abs=1e-6)
