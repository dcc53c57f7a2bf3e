"""The camera as a process of its own, seen from another node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the camera needs a ROS 2")

from patience import HANG
from rclpy.qos import ReliabilityPolicy
from ros_graph import ENVIRONMENT, Program, graph
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bisenetv2_ros.street.scene import StreetScene

COUNT = 6
SHAPE = (48, 64)


@pytest.fixture
def program(tmp_path):
    """Start `bisenetv2 camera` with these words; it is ended with the test."""
    started = []

    def start(*words: str) -> Program:
        made = Program(["camera", *words], tmp_path / "camera.log")
        started.append(made)
        return made

    yield start
    for made in started:
        made.end()


@pytest.fixture
def ros():
    with graph() as made:
        yield made


@pytest.fixture
def drive(tmp_path):
    """Pictures of noise and their labels: (image folder, label folder, images RGB, labels)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (COUNT, *SHAPE, 3), np.uint8)
    labels = rng.integers(0, 11, (COUNT, *SHAPE), np.uint8)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for index in range(COUNT):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), images[index, ..., ::-1])
        cv2.imwrite(str(tmp_path / "labels" / f"{index}.png"), labels[index])
    return SimpleNamespace(
        images_path=tmp_path / "images",
        labels_path=tmp_path / "labels",
        images=images,
        labels=labels,
    )


def pixels(message: Image) -> np.ndarray:
    channels = {"mono8": (), "rgb8": (3,), "bgr8": (3,)}[message.encoding]
    assert message.step == message.width * (channels[0] if channels else 1)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, *channels)


def stamps(messages: list) -> list[int]:
    return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_every_frame_arrives_once_with_its_label(program, ros, drive, encoding):
    images, labels = ros.collect(Image, "image_raw"), ros.collect(Image, "label")
    infos = ros.collect(CameraInfo, "camera_info")
    began = ros.node.get_clock().now().nanoseconds
    camera = program(
        str(drive.images_path), "--labels", str(drive.labels_path), "--encoding", encoding,
        "--rate", "40", "--wait-for-subscribers", "1", "--frame-id", "front",
    )  # fmt: skip
    assert ros.spin_until(lambda: len(infos) == len(images) == len(labels) == COUNT), camera.output
    assert camera.wait() == 0
    assert f"{COUNT} frames sent" in camera.output
    for index in range(COUNT):
        assert images[index].encoding == encoding
        sent = drive.images[index]
        np.testing.assert_array_equal(
            pixels(images[index]), sent if encoding == "rgb8" else sent[..., ::-1]
        )
        assert labels[index].encoding == "mono8"
        np.testing.assert_array_equal(pixels(labels[index]), drive.labels[index])
    assert stamps(images) == stamps(labels) == stamps(infos)
    assert sorted(set(stamps(images))) == stamps(images)
    now = ros.node.get_clock().now().nanoseconds
    assert all(began < stamp < now for stamp in stamps(images))
    assert {m.header.frame_id for m in (*images, *labels, *infos)} == {"front"}


def test_the_calibration_is_that_of_an_ideal_camera(program, ros, drive):
    infos = ros.collect(CameraInfo, "/left/camera_info")
    program(str(drive.images_path), "--loop", "--ros-args", "-r", "__ns:=/left")
    assert ros.spin_until(lambda: infos)
    info = infos[0]
    assert (info.width, info.height) == (SHAPE[1], SHAPE[0])
    intrinsic = np.reshape(info.k, (3, 3))
    # A ray 30 degrees to the side meets the image's edge, half a pixel outside the last centre.
    edge = intrinsic @ (np.tan(np.radians(30)), 0, 1)
    assert edge[0] == pytest.approx(SHAPE[1] - 0.5)
    centre = intrinsic @ (0, 0, 1)
    assert centre[:2] == pytest.approx([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    assert intrinsic[0, 0] == intrinsic[1, 1]
    np.testing.assert_array_equal(np.reshape(info.p, (3, 4))[:, :3], intrinsic)
    np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
    assert not any(info.d)


def test_the_street_is_published_with_its_exact_labels(program, ros):
    images, labels = ros.collect(Image, "image_raw"), ros.collect(Image, "label")
    camera = program(
        "--size", "128x96", "--seed", "6", "--rate", "20", "--frames", "3",
        "--wait-for-subscribers", "1",
    )  # fmt: skip
    assert ros.spin_until(lambda: len(images) == len(labels) == 3), camera.output
    assert camera.wait() == 0
    scene = StreetScene(6, (128, 96))
    for index in range(3):
        rgb, label = scene.render(index / 20)
        np.testing.assert_array_equal(pixels(images[index]), rgb)
        np.testing.assert_array_equal(pixels(labels[index]), label)


def test_compressed_frames_show_the_same(program, ros):
    compressed = ros.collect(CompressedImage, "image_raw/compressed")
    images = ros.collect(Image, "image_raw")
    program("--size", "320x240", "--frames", "4", "--wait-for-subscribers", "2")
    assert ros.spin_until(lambda: len(images) == len(compressed) == 4)
    assert stamps(compressed) == stamps(images)
    for message, image in zip(compressed, images, strict=True):
        assert message.format == "rgb8; jpeg compressed bgr8"
        bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
        difference = np.abs(bgr[..., ::-1].astype(int) - pixels(image))
        assert difference.mean() < 6
        assert len(message.data) < len(image.data) / 4


def test_several_cameras_of_a_bag(program, ros, tmp_path):
    """Each under its recorded name, with its recorded frame id, in the order of the recording."""
    pytest.importorskip("mcap", reason="needs mcap")
    bags = pytest.importorskip("bags", reason="needs rosbags")
    rear = "/rear/image_raw"
    definition = (bags.IMAGE, "ros2msg", bags.IMAGE_TEXT.encode())
    others = ((rear, "cdr", definition, bags.image_bytes(77)),)
    drive = bags.write_mcap(tmp_path / "drive.mcap", COUNT, others=others)
    front, back = ros.collect(Image, bags.TOPIC), ros.collect(Image, rear)
    infos = (
        ros.collect(CameraInfo, "/front/camera_info"),
        ros.collect(CameraInfo, "/rear/camera_info"),
    )
    camera = program(
        str(drive), "--topic", bags.TOPIC, "--topic", rear, "--wait-for-subscribers", "2",
    )  # fmt: skip
    assert ros.spin_until(lambda: len(front) == len(back) == COUNT), camera.output
    assert camera.wait() == 0 and f"{2 * COUNT} frames sent" in camera.output
    for number in range(COUNT):
        np.testing.assert_array_equal(pixels(front[number]), bags.pixels(number))
        np.testing.assert_array_equal(pixels(back[number]), bags.pixels(77))
    assert {m.header.frame_id for m in (*front, *back)} == {"camera"}
    images = [stamps(front), stamps(back)]
    assert ros.spin_until(lambda: [stamps(part) for part in infos] == images), infos
    took = (stamps(front)[-1] - stamps(front)[0]) / 1e9
    assert took > 0.8 * (COUNT - 1) / 10  # each at its own rate, not at half of it or double


def test_names_of_several_cameras():
    from bisenetv2_ros.node.camera_node import topic_names

    assert topic_names(["/front/image_raw"])["/front/image_raw"].image == "image_raw"
    stereo = topic_names(["/stereo/left", "/stereo/right", "/rear/image_raw"])
    assert stereo["/stereo/left"] == ("stereo/left", "stereo/left/camera_info", "stereo/left/label")
    assert stereo["/rear/image_raw"] == ("rear/image_raw", "rear/camera_info", "rear/label")


def test_frames_come_at_the_rate(program, ros, drive):
    images = ros.collect(Image, "image_raw")
    program(str(drive.images_path), "--loop", "--rate", "20", "--wait-for-subscribers", "1")
    # Some may be lost: the camera keeps ten for a subscriber that has to wait for the processor.
    assert ros.spin_until(lambda: len(images) >= 31)
    gaps = np.diff(stamps(images)) / 1e9
    assert np.median(gaps) > 0.8 / 20
    assert gaps.min() > 0.49 / 20  # even where the machine was busy and frames were late

    def pause() -> float:
        began = time.monotonic()
        time.sleep(1 / 20)
        return time.monotonic() - began

    # The same pauses on the same machine; a busy one makes both late.
    assert np.median(gaps) < 4 * np.median([pause() for _ in range(10)])


STALLED = """
import sys, time
from rclpy.clock import Clock
from bisenetv2_ros.cli.main import main

now, calls = Clock.now, 0

def late(clock):
    global calls
    calls += 1
    if calls % 5 == 0:
        time.sleep(0.12)
    return now(clock)

Clock.now = late
sys.exit(main(sys.argv[1:]))
"""


def test_frames_keep_apart_when_the_camera_has_to_wait_for_the_processor(ros, drive, tmp_path):
    images = ros.collect(Image, "image_raw")
    words = ["camera", str(drive.images_path), "--loop", "--rate", "20"]
    camera = Program(words, tmp_path / "camera.log", [sys.executable, "-c", STALLED])
    try:
        assert ros.spin_until(lambda: len(images) > 20), camera.output
    finally:
        camera.end()
    assert np.diff(stamps(images)).min() > 0.49e9 / 20


def test_nothing_is_sent_before_the_subscribers_are_there(program, ros, drive):
    camera = program(str(drive.images_path), "--rate", "100", "--wait-for-subscribers", "2")
    assert ros.spin_until(lambda: ros.node.count_publishers("image_raw"))
    first = ros.collect(Image, "image_raw")
    ros.spin(1.0)
    assert first == []
    second = ros.collect(Image, "image_raw")
    assert ros.spin_until(lambda: len(first) == len(second) == COUNT), camera.output
    assert camera.wait() == 0


def test_a_damaged_picture_is_skipped_and_named(program, ros, drive):
    images = ros.collect(Image, "image_raw")
    (drive.images_path / "2.png").write_bytes(b"not a picture")
    camera = program(str(drive.images_path), "--rate", "40", "--wait-for-subscribers", "1")
    assert ros.spin_until(lambda: len(images) == COUNT - 1)
    assert camera.wait() == 1
    assert f"skipped: {drive.images_path / '2.png'}" in camera.output
    assert f"{COUNT - 1} frames sent, 1 skipped" in camera.output
    np.testing.assert_array_equal(pixels(images[2]), drive.images[3])


def test_what_was_passed_over_is_named(program, drive):
    (drive.images_path / "a.heic").write_bytes(b"")
    os.mkfifo(drive.images_path / "control")
    camera = program(str(drive.images_path), "--rate", "40")
    assert camera.wait() == 1
    assert "error: 1 images of an unsupported format: a.heic" in camera.output
    assert "skipped 1 files that are no images: control" in camera.output
    assert f"camera: {COUNT} frames sent in " in camera.output


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [(), ("--wait-for-subscribers", "9")])
def test_a_signal_ends_it_in_order(program, ros, by, words):
    camera = program("--size", "64x48", *words)
    assert ros.spin_until(lambda: ros.node.count_publishers("image_raw"))
    code, _ = camera.end(by)
    assert code == 0, camera.output
    assert "frames sent" in camera.output


ENDLESS_READING = """
import sys
import cv2
import numpy as np
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.street.scene import StreetScene

def render(*_):
    print("reading", flush=True)
    while True:
        cv2.GaussianBlur(np.zeros((1000, 1000), np.float32), (0, 0), 9)

StreetScene.render = render
sys.exit(main(sys.argv[1:]))
"""


def test_a_frame_that_is_still_being_read_does_not_crash_the_end(tmp_path):
    """Python ends the reading thread amid OpenCV's C++, which aborts the process."""
    command = [sys.executable, "-c", ENDLESS_READING]
    camera = Program(["camera"], tmp_path / "camera.log", command)
    give_up = time.monotonic() + HANG
    while "reading" not in camera.output and time.monotonic() < give_up:
        time.sleep(0.05)
    code, _ = camera.end()
    assert code == 0, camera.output
    assert camera.output.splitlines()[-1].startswith("camera: 0 frames sent in ")


@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_the_reliability_offered_is_the_one_asked_for(program, ros, reliability):
    program("--size", "64x48", "--reliability", reliability)
    topics = ("image_raw", "image_raw/compressed", "camera_info", "label")
    assert ros.spin_until(lambda: all(ros.node.count_publishers(topic) for topic in topics))
    for topic in topics:
        (publisher,) = ros.node.get_publishers_info_by_topic(topic)
        assert publisher.qos_profile.reliability == ReliabilityPolicy[reliability.upper()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "source 'nowhere': no such file or folder"),
        (["--rate", "0"], "got 0, expected a number above 0"),
        (["--size", "wide"], "got 'wide', expected WIDTHxHEIGHT"),
        (["--frames", "0"], "got 0, expected at least 1"),
        (["--size", "8x8"], "expected at least 32x32"),
        (["--ros-args", "-r", "nonsense"], "nonsense"),
    ],
)
def test_wrong_options_are_one_line(words, said):
    result = subprocess.run(
        [sys.executable, "-m", "bisenetv2_ros.cli.main", "camera", *words],
        capture_output=True, text=True, timeout=HANG, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("bisenetv2 camera: error: ")
    assert said in last
    assert "Traceback" not in result.stderr
