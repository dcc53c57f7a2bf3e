"""Bags: `bisenetv2 predict` reads frames out of them and writes copies with segmentation topics."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from patience import HANG

pytest.importorskip("rosbags", reason="needs rosbags")

from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.offline import bag_copy
from bisenetv2_ros.offline.result_files import ResultFiles
from bisenetv2_ros.regions import parse_regions
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.sources import bag
from bisenetv2_ros.sources.frame import SourceError
from bisenetv2_ros.visualization import colorize, draw_regions, overlay

SIZE = (150, 100)
FRAMES = 4
FRONT, REAR = "/front/image_raw", "/rear/image_raw/compressed"
T0 = 1_700_000_000 * 10**9
TYPES = bag.typestore()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_model(folder / "bisenetv2_tiny_96x64_float32.onnx", tiny_info((96, 64)))


def scene(number: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, SIZE)


def header(number: int):
    time = TYPES.types["builtin_interfaces/msg/Time"](1_700_000_000, 100_000_000 * number + 7)
    return TYPES.types["std_msgs/msg/Header"](time, f"camera_{number}")


def raw(number: int, encoding: str = "bgr8", lost: int = 0):
    pixels = scene(number) if encoding == "rgb8" else scene(number)[..., ::-1]
    data = np.ascontiguousarray(pixels).ravel()
    return TYPES.types["sensor_msgs/msg/Image"](
        header(number), SIZE[1], SIZE[0], encoding, 0, 3 * SIZE[0], data[: data.size - lost]
    )


def compressed(number: int):
    data = cv2.imencode(".png", scene(100 + number)[..., ::-1])[1].ravel()
    return TYPES.types["sensor_msgs/msg/CompressedImage"](header(number), "png", data)


def write_bag(
    path: Path, storage: str = "MCAP", cameras=(FRONT, REAR), lost: int = 0, frames: int = FRAMES
) -> Path:
    """A drive of frames a camera, with a topic that is none; frame 1 lacks `lost` bytes."""
    plugin = StoragePlugin[storage]
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        text = "std_msgs/msg/String"
        talk = writer.add_connection(
            "/talk", text, typestore=TYPES, offered_qos_profiles=[bag_copy._qos(latched=True)]
        )
        kinds = {
            topic: f"sensor_msgs/msg/{'CompressedImage' if 'compressed' in topic else 'Image'}"
            for topic in cameras
        }
        connections = {
            topic: writer.add_connection(topic, kind, typestore=TYPES)
            for topic, kind in kinds.items()
        }
        for number in range(frames):
            time = T0 + number * 10**8
            said = TYPES.types[text](f"word {number}")
            writer.write(talk, time, TYPES.serialize_cdr(said, text))
            for topic, connection in connections.items():
                message = compressed(number) if "compressed" in topic else raw(number)
                if "compressed" not in topic and number == 1:
                    message = raw(number, lost=lost)
                writer.write(connection, time + 5, TYPES.serialize_cdr(message, kinds[topic]))
    return path


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


def content(path: Path, topics=()) -> list[tuple[str, int, bytes]]:
    with AnyReader([path]) as reader:
        return [
            (connection.topic, time, bytes(data))
            for connection, time, data in reader.messages()
            if not topics or connection.topic in topics
        ]


def messages(path: Path, topic: str) -> list[tuple[int, object]]:
    with AnyReader([path]) as reader:
        return [
            (time, reader.deserialize(data, connection.msgtype))
            for connection, time, data in reader.messages()
            if connection.topic == topic
        ]


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_files_and_a_new_bag_of_two_cameras(tmp_path, model, storage):
    drive, out = write_bag(tmp_path / "drive", storage), tmp_path / "out"
    words = ("--topic", FRONT, "--topic", REAR, "--model", model, "--backend", "onnxruntime")
    assert predict(drive, "-o", out, *words, "--save", "masks,video,jsonl,bag") == 0

    new = out / "bag"
    originals = content(drive)
    assert content(new, {"/talk", FRONT, REAR}) == originals and len(originals) == 3 * FRAMES
    assert any(new.glob("*.mcap" if storage == "MCAP" else "*.db3"))
    with AnyReader([drive]) as old, AnyReader([new]) as copy:
        assert set(copy.topics) == set(old.topics) | {
            f"/{side}/segmentation/{name}"
            for side in ("front", "rear")
            for name in ("mask", "class_fractions", "label_info")
        }
        qos = {c.topic: c.ext.offered_qos_profiles for c in copy.connections}
        assert qos["/talk"] == next(
            c.ext.offered_qos_profiles for c in old.connections if c.topic == "/talk"
        )
        latched = QosDurability.TRANSIENT_LOCAL
        assert qos["/front/segmentation/label_info"][0].durability == latched
        assert qos["/front/segmentation/mask"][0].durability == QosDurability.VOLATILE

    records = [json.loads(line) for line in (out / "fractions.jsonl").read_text().splitlines()]
    assert len(records) == 2 * FRAMES
    with Segmenter(model, backend="onnxruntime") as segmenter:
        for side, first in (("front", 0), ("rear", 100)):
            masks = messages(new, f"/{side}/segmentation/mask")
            shares = messages(new, f"/{side}/segmentation/class_fractions")
            assert len(masks) == len(shares) == FRAMES
            for number, ((time, mask), (_, share)) in enumerate(zip(masks, shares, strict=True)):
                result = segmenter(scene(first + number))
                expected = resize_mask(result.mask, SIZE)
                assert len(np.unique(expected)) > 2  # something to compare
                np.testing.assert_array_equal(mask.data.reshape(SIZE[::-1]), expected)
                name = f"{side}_image_raw_1700000000_{number}00000007"
                picture = cv2.imread(str(out / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
                np.testing.assert_array_equal(picture, expected)
                assert time == T0 + number * 10**8 + 5
                assert (mask.encoding, mask.step) == ("mono8", SIZE[0])
                assert str(mask.header) == str(share.header) == str(header(number))
                assert [c.class_name for c in share.classes] == list(CAMVID.names)
                counts = [c.pixel_count for c in share.classes]
                assert counts == result.counts.tolist()
                fractions = [c.fraction for c in share.classes]
                np.testing.assert_allclose(fractions, result.counts / result.mask.size, atol=1e-6)
                assert (share.width, share.height, share.model) == (96, 64, model.stem)
                assert math.isnan(share.latency) and 0 < share.inference_time < HANG
                (record,) = [record for record in records if record["frame"] == name]
                assert record["camera"] == f"/{side}/image_raw"
                assert record["stamp"] == {"sec": 1_700_000_000, "nanosec": number * 10**8 + 7}
                assert record["frame_id"] == f"camera_{number}"
                assert record["time_s"] == pytest.approx(number / 10)
                np.testing.assert_allclose(list(record["fractions"].values()), fractions, atol=1e-6)
    ((_, info),) = messages(new, "/rear/segmentation/label_info")
    assert [(c.class_id, c.class_name) for c in info.class_map] == list(enumerate(CAMVID.names))
    for side in ("front", "rear"):
        capture = cv2.VideoCapture(str(out / f"video_{side}_image_raw.mp4"))
        assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == FRAMES  # noqa: B023
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10, rel=0.01)


def test_further_topics_and_the_size_of_the_network(tmp_path, model):
    drive = write_bag(tmp_path / "drive", cameras=(FRONT,))
    out = tmp_path / "out"
    names = "mask,color_mask,overlay,confidence,class_fractions"
    words = ("--model", model, "--save", "bag", "--bag-topics", names, "--mask-size", "network")
    words += ("--region", "low @ /front/image_raw: 0 0.5, 1 0.5, 1 1, 0 1")
    assert predict(next(drive.glob("*.mcap")), "-o", out, *words) == 0  # the file alone will do
    with Segmenter(model) as segmenter:
        result = segmenter(scene(2), confidence=True)
        expected = {
            "mask": result.mask,
            "color_mask": colorize(result.mask, segmenter.model.info.labels),
            "overlay": overlay(scene(2), result.mask, segmenter.model.info.labels, 0.5),
            "confidence": result.confidence,
        }
    draw_regions(expected["overlay"], parse_regions(["low: 0 0.5, 1 0.5, 1 1, 0 1"]))
    _, message = messages(out / "bag", "/front/segmentation/class_fractions")[2]
    (region,) = message.regions
    assert (region.name, region.pixel_count) == ("low", 32 * 96)
    counts = np.bincount(result.mask[32:].ravel(), minlength=len(CAMVID)).tolist()
    assert [c.pixel_count for c in region.classes] == counts
    for name, pixels in expected.items():
        _, message = messages(out / "bag", f"/front/segmentation/{name}")[2]
        assert message.encoding == ("mono8" if pixels.ndim == 2 else "rgb8")
        np.testing.assert_array_equal(message.data.reshape(pixels.shape), pixels)


def test_topics_of_an_earlier_segmentation_are_replaced(tmp_path, model):
    drive = write_bag(tmp_path / "drive", cameras=(FRONT,))
    words = ("--topic", FRONT, "--model", model, "--save", "bag")
    assert predict(drive, "-o", tmp_path / "first", *words) == 0
    assert predict(tmp_path / "first" / "bag", "-o", tmp_path / "second", *words) == 0
    for topic in ("/front/segmentation/mask", FRONT, "/talk"):
        assert len(messages(tmp_path / "second" / "bag", topic)) == FRAMES
    assert len(messages(tmp_path / "second" / "bag", "/front/segmentation/label_info")) == 1


def test_bag_of_before_iron_holds_no_definitions(tmp_path, model):
    """As Humble records: the types of a package that nobody here knows are copied all the same."""
    drive = write_bag(tmp_path / "drive", "SQLITE3", cameras=(FRONT,))
    before = content(drive)
    (database,) = drive.glob("*.db3")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE message_definitions")
        connection.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
        connection.execute("DROP TABLE schema")
        connection.execute("UPDATE topics SET type = 'own_msgs/msg/Own' WHERE name = '/talk'")
    path = drive / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text())
    for topic in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]:
        del topic["topic_metadata"]["type_description_hash"]
        if topic["topic_metadata"]["name"] == "/talk":
            topic["topic_metadata"]["type"] = "own_msgs/msg/Own"
    path.write_text(yaml.safe_dump(metadata))
    out = tmp_path / "out"
    assert predict(drive, "-o", out, "--model", model, "--save", "bag") == 0
    assert content(out / "bag", {FRONT, "/talk"}) == before
    assert len(messages(out / "bag", "/front/segmentation/mask")) == FRAMES


def test_damaged_frame_is_named_and_kept_in_the_copy(tmp_path, model, capsys):
    drive, out = write_bag(tmp_path / "drive", cameras=(FRONT,), lost=10), tmp_path / "out"
    assert predict(drive, "-o", out, "--model", model, "--save", "masks,bag") == 1
    error = capsys.readouterr().err
    assert f"skipped {drive}: {FRONT} received at 1700000000.100000005: data is" in error
    assert "data is 44990 bytes long, expected 45000" in error
    assert f"error: 1 of {FRAMES} frames skipped" in error
    assert len(list((out / "masks").iterdir())) == FRAMES - 1
    assert content(out / "bag", {FRONT, "/talk"}) == content(drive)
    assert len(messages(out / "bag", "/front/segmentation/mask")) == FRAMES - 1


def test_bag_that_breaks_off_keeps_what_is_before(tmp_path, model, capsys):
    drive = next(write_bag(tmp_path / "drive", cameras=(FRONT,), frames=30).glob("*.mcap"))
    with AnyReader([drive]) as reader:
        first, second = reader.readers[0].storage.chunks
    data = bytearray(drive.read_bytes())
    data[second.chunk_start_offset + 33] ^= 1  # of its checksum, as a bad sector may leave it
    drive.write_bytes(data)
    assert predict(drive, "-o", tmp_path / "out", "--model", model, "--save", "bag,jsonl") == 1
    error = capsys.readouterr().err
    before = sum(first.channel_count.values())
    assert f"{drive}: damaged after {before} messages, the rest cannot be read: Chunk" in error
    masks = messages(tmp_path / "out" / "bag", "/front/segmentation/mask")
    assert len(masks) == len(messages(tmp_path / "out" / "bag", FRONT))
    assert 20 < len(masks) < 30


@pytest.mark.parametrize("loop", [False, True])
def test_bag_without_a_whole_frame(tmp_path, monkeypatch, loop):
    whole = raw
    monkeypatch.setitem(globals(), "raw", lambda number, lost=0: whole(number, lost=10))
    drive = write_bag(tmp_path / "drive", cameras=(FRONT,))
    damaged = []

    def note(error):
        damaged.append(error)
        assert len(damaged) <= FRAMES, "a second pass"

    source = bag.BagFrames(drive, loop=loop, on_damaged=note)
    with pytest.raises(SourceError, match=f"'{drive}': no message on {FRONT} can be read"):
        next(iter(source))
    assert len(damaged) == FRAMES


def test_bag_that_was_cut_off_gives_what_is_left(tmp_path, model, capsys):
    drive = next(write_bag(tmp_path / "drive").glob("*.mcap"))
    drive.write_bytes(drive.read_bytes()[:-1000])
    words = ("--topic", FRONT, "--model", model, "--save", "masks")
    assert predict(drive, "-o", tmp_path / "out", *words) == 1
    assert f"{drive}: breaks off after {FRAMES} messages: " in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "masks").iterdir())) == FRAMES


def test_interrupt_leaves_a_whole_bag(tmp_path, model, monkeypatch, capsys):
    drive, out = write_bag(tmp_path / "drive", cameras=(FRONT,)), tmp_path / "out"
    write = ResultFiles.write

    def write_and_interrupt(results, *arguments):
        write(results, *arguments)
        if results.frames == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ResultFiles, "write", write_and_interrupt)
    assert predict(drive, "-o", out, "--model", model, "--save", "bag,jsonl") == 130
    assert len(messages(out / "bag", "/front/segmentation/mask")) == 2
    assert len(messages(out / "bag", FRONT)) == 2
    assert len((out / "fractions.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "expected --topic TOPIC, any number of times (of `predict`, `view`, `camera`, and once "
            f"of `demo`); image topics: {FRONT}, {REAR}",
        ),
        (("--topic", "/talk"), f"no image topic '/talk'; image topics: {FRONT}, {REAR}"),
    ],
)
def test_topics_that_cannot_be_are_refused(tmp_path, model, capsys, words, message):
    drive = write_bag(tmp_path / "drive")
    assert predict(drive, "-o", tmp_path / "out", "--model", model, *words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_cameras_in_one_namespace_only_share_a_topic_in_a_bag(tmp_path, model, capsys):
    cameras = (FRONT, FRONT.replace("image_raw", "image_rect"))
    drive = write_bag(tmp_path / "drive", cameras=cameras)
    words = ("--model", model, "--topic", cameras[0], "--topic", cameras[1])
    assert predict(drive, "-o", tmp_path / "out", *words, "--save", "bag") == 2
    error = capsys.readouterr().err
    assert "would share the topic /front/segmentation/mask" in error
    assert len(error.splitlines()) == 2 and not (tmp_path / "out").exists()
    assert predict(drive, "-o", tmp_path / "out", *words, "--save", "masks") == 0
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2 * FRAMES


def test_a_bag_that_is_there_already_stays(tmp_path, model, capsys):
    drive, out = write_bag(tmp_path / "drive", cameras=(FRONT,)), tmp_path / "out"
    words = ("-o", out, "--model", model, "--save", "bag")
    assert predict(drive, *words) == 0
    before = content(out / "bag")
    assert predict(drive, *words, "--frames", 1) == 1
    assert f"File exists: '{out / 'bag'}'" in capsys.readouterr().err
    assert content(out / "bag") == before


def test_bag_as_a_result_needs_one_as_the_source(tmp_path, model, capsys):
    assert predict("synthetic", "-o", tmp_path / "out", "--model", model, "--save", "bag") == 2
    assert "synthetic: a bag as a result: expected one as the source" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ClassFraction", "ClassFractions", "RegionFractions"])
def test_messages_are_the_installed_ones(name):
    """A player finds the type by this hash, of which not a comment but every field is part."""
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        share = Path(packages.get_package_share_directory("bisenetv2_ros"))
    except packages.PackageNotFoundError:
        pytest.skip("the package is not built by colcon")
    described = share / "msg" / f"{name}.json"
    if not described.is_file():
        pytest.skip("Humble describes no types")
    hashes = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(described.read_text())["type_hashes"]
    }
    name = f"bisenetv2_ros/msg/{name}"
    assert TYPES.hash_rihs01(name) == hashes[name]


def test_the_live_node_gives_the_same_masks(tmp_path, model):
    """Every message of the bag over DDS to the node as users start it, one at a time."""
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    from bisenetv2_ros.msg import ClassFractions
    from rclpy.serialization import deserialize_message
    from ros_graph import Program, graph
    from running_node import of, publish_until
    from sensor_msgs.msg import CompressedImage, Image

    drive, out = write_bag(tmp_path / "drive"), tmp_path / "out"
    words = ("--topic", FRONT, "--topic", REAR, "--model", model, "--backend", "onnxruntime")
    topics = ("--bag-topics", "mask,class_fractions,confidence")
    assert predict(drive, "-o", out, *words, "--save", "bag", *topics) == 0
    given = {"model": model, "backend": "onnxruntime", "mask_size": "camera"}
    for side, topic, kind in (("front", FRONT, Image), ("rear", REAR, CompressedImage)):
        transport = "compressed" if kind is CompressedImage else "raw"
        settings = given | {"cameras": f"[/{side}/image_raw]", "image_transport": transport}
        options = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
        node = Program(["segment", "--ros-args", *options], tmp_path / f"{side}.log")
        try:
            with graph() as ros:
                beside = f"/{side}/segmentation"
                kinds = {"mask": Image, "confidence": Image, "class_fractions": ClassFractions}
                live = {name: ros.collect(kind, f"{beside}/{name}") for name, kind in kinds.items()}
                publisher = ros.node.create_publisher(kind, topic, 10)
                assert ros.spin_until(publisher.get_subscription_count), node.output
                names = [f"{beside}/{name}" for name in kinds]
                assert ros.spin_until(lambda: all(map(ros.node.count_publishers, names)))  # noqa: B023
                for sent, (_, _, data) in enumerate(content(drive, {topic})):
                    message = deserialize_message(data, kind)
                    done = lambda: all(of(message, got) for got in live.values())  # noqa: B023, E731
                    # Again and again: until the graph has formed, nobody may listen.
                    assert publish_until(ros, publisher, message, done, period=0.5), (
                        f"no outputs of frame {sent}\n{node.output}"
                    )
        finally:
            node.end()
        for name, got in live.items():
            recorded = messages(out / "bag", f"{beside}/{name}")
            assert len(recorded) == FRAMES
            for _, offline in recorded:
                stamp = (offline.header.stamp.sec, offline.header.stamp.nanosec)
                online = next(
                    m for m in got if (m.header.stamp.sec, m.header.stamp.nanosec) == stamp
                )
                assert online.header.frame_id == offline.header.frame_id
                if name == "class_fractions":
                    assert [c.pixel_count for c in online.classes] == [
                        c.pixel_count for c in offline.classes
                    ]
                else:
                    assert (online.width, online.height) == (offline.width, offline.height) == SIZE
                    assert (online.encoding, online.step) == (offline.encoding, offline.step)
                    np.testing.assert_array_equal(np.frombuffer(online.data, "u1"), offline.data)


@pytest.mark.parametrize("stamped", [True, False])
def test_cameras_in_rerun_by_their_stamps(tmp_path, model, monkeypatch, stamped):
    """By the times of recording where there are no stamps."""
    chunk = pytest.importorskip("rerun.chunk")
    expected = [header(i).stamp.sec * 10**9 + header(i).stamp.nanosec for i in range(FRAMES)]
    if not stamped:
        never = TYPES.types["builtin_interfaces/msg/Time"](0, 0)
        nothing = TYPES.types["std_msgs/msg/Header"](never, "")
        monkeypatch.setitem(globals(), "header", lambda number: nothing)
        expected = [T0 + i * 10**8 + 5 for i in range(FRAMES)]
    source = write_bag(tmp_path / "drive")
    path = tmp_path / "drive.rrd"
    topics = [word for topic in (FRONT, REAR) for word in ("--topic", topic)]
    assert main(["view", str(source), *topics, "--model", str(model), "--save", str(path)]) == 0
    stamps: dict[str, list[int]] = {}
    for part in chunk.RrdReader(str(path)).stream():
        columns = part.to_record_batch()
        if "SegmentationImage:buffer" in columns.schema.names:
            times = columns.column("time").cast("int64").to_pylist()
            stamps.setdefault(part.entity_path, []).extend(times)
    cameras = [topic.removesuffix("/compressed") for topic in (FRONT, REAR)]
    assert stamps == {f"{camera}/image/mask": expected for camera in cameras}
