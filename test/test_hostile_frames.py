"""Malformed frames sent to the real node: no mask, counted by cause, the next good one answered."""

from __future__ import annotations

import array
import itertools
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

import cv2
from builtin_interfaces.msg import Time
from long_run import long_or_short
from patience import HANG
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from ros_graph import Graph, Program, graph, image_message
from sensor_msgs.msg import CompressedImage, Image
from tiny_model import tiny_answer, write_tiny_model

from bisenetv2_ros.image_conversion import (
    SUPPORTED_ENCODINGS,
    ImageError,
    decode_compressed,
    decode_image,
)

MALFORMED = long_or_short(50_000, 200)  # frames of each transport in the fuzz test
TOPIC = {"raw": "/image_raw", "compressed": "/image_raw/compressed"}
NO_LOSS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)  # the network's size
PNG = cv2.imencode(".png", PIXELS[:, :, ::-1])[1].tobytes()
JPEG = cv2.imencode(".jpg", PIXELS)[1].tobytes()


def raw(**changes: Any) -> Image:
    message = image_message(PIXELS)
    for field, value in changes.items():
        setattr(message, field, value)
    return message


def compressed(data: bytes) -> CompressedImage:
    message = CompressedImage(format="jpeg")
    message.data.frombytes(data)
    return message


def bytes_of(count: int) -> array.array[int]:
    return array.array("B", bytes(count))


#: (cause, message)
BAD = {
    "raw": [
        ("encoding", raw(encoding="")),
        ("encoding", raw(encoding="32FC3")),
        ("encoding", raw(encoding="32FC1")),
        ("encoding", raw(encoding="rgb8 " * 1000)),
        ("size", raw(width=0)),
        ("size", raw(height=0)),
        ("size", raw(width=0, height=0, step=0, data=bytes_of(0))),
        ("size", raw(width=2**32 - 1, height=2**32 - 1, step=2**32 - 1)),
        ("size", raw(width=16384, height=16384)),
        ("size", raw(encoding="nv12", height=23)),
        ("step", raw(step=0)),
        ("step", raw(step=95)),
        ("step", raw(encoding="rgba8")),
        ("data_length", raw(step=2**32 - 1)),
        ("data_length", raw(step=100)),
        ("data_length", raw(height=23)),
        ("data_length", raw(data=bytes_of(0))),
        ("data_length", raw(data=bytes_of(2303))),
        ("data_length", raw(data=bytes_of(2305))),
        ("data_length", raw(encoding="mono16", is_bigendian=1, height=25)),
    ],
    "compressed": [
        ("format", compressed(b"")),
        ("format", compressed(b"GIF89a" + bytes(100))),
        ("decode", compressed(JPEG[:-2])),
        ("decode", compressed(JPEG[: len(JPEG) // 2])),
        ("decode", compressed(JPEG[:2] + JPEG[-2:])),
        ("decode", compressed(PNG[:-1])),
        ("decode", compressed(PNG[:-20] + b"\0" + PNG[-19:])),
        ("decode", compressed(PNG[:16] + struct.pack(">II", 8000, 8000) + PNG[24:])),
        ("size", compressed(JPEG.replace(struct.pack(">HH", 24, 32), b"\xff\xff\xff\xff"))),
    ],
}
GOOD = {"raw": raw(), "compressed": compressed(PNG)}


class Camera:
    """Sends frames to the node and keeps the masks that come back.

    Each frame has a number of its own, in the seconds of its stamp.
    """

    def __init__(self, ros: Graph, transport: str) -> None:
        self._ros = ros
        self._transport = transport
        self._mask = Image()  # the newest
        ros.node.create_subscription(Image, "/segmentation/mask", self._take_mask, NO_LOSS)
        kind = type(GOOD[transport])
        self._publisher = ros.node.create_publisher(kind, TOPIC[transport], NO_LOSS)
        self._number = 0
        self.sent = 0  # frames that arrive at the node
        self.good: set[int] = set()  # numbers of those that may give a mask
        self.answered: set[int] = set()  # numbers of those that gave one
        assert ros.spin_until(self._publisher.get_subscription_count), "no node"
        assert ros.spin_until(self._is_answered), "no mask"

    def send(
        self, message: Any, *, good: bool = False, spoil: Callable[[bytes], bytes] | None = None
    ) -> None:
        """Publish a frame. `spoil` changes the bytes of the message as the middleware has them."""
        self._number += 1
        self.sent += 1
        if good:
            self.good.add(self._number)
        message.header.stamp = Time(sec=self._number)
        self._publisher.publish(spoil(serialize_message(message)) if spoil else message)

    def send_bytes(self, data: bytes) -> None:
        """Publish bytes as they are."""
        self._publisher.publish(data)

    def pause(self, seconds: float) -> None:
        self._ros.spin(seconds)

    def check_answer(self, patience: float = HANG) -> None:
        """Send a good frame and expect the right mask of it, soon."""
        self.send(GOOD[self._transport], good=True)
        number = self._number
        answered = self._ros.spin_until(lambda: number in self.answered, patience)
        assert answered, f"no answer within {patience} s"
        mask = np.reshape(self._mask.data, (24, 32))
        np.testing.assert_array_equal(mask, tiny_answer(PIXELS)[0])

    def counts(self) -> Counter[str]:
        """Frames by what became of them, as soon as the node has accounted for all."""
        counts: Counter[str] = Counter()

        def complete() -> bool:
            values = self._ros.status(TOPIC[self._transport])[2]
            counts.clear()
            counts["published"] = int(values.get("frames published", 0))
            for key, value in values.items():
                if key.startswith("dropped: "):
                    counts[key.removeprefix("dropped: ")] = int(value)
            return counts.total() == self.sent

        assert self._ros.spin_until(complete), f"sent {self.sent} frames, reported {counts}"
        return counts

    def _take_mask(self, mask: Image) -> None:
        self._mask = mask
        self.answered.add(mask.header.stamp.sec)

    def _is_answered(self) -> bool:
        self.send(GOOD[self._transport], good=True)
        self.pause(0.1)
        return bool(self.answered)


@contextmanager
def camera(transport: str, directory: Path) -> Iterator[Camera]:
    """A `Camera` whose node is up, and has to end well."""
    model = write_tiny_model(directory / "tiny.onnx")
    words = ["segment", "--ros-args", "-p", f"model:={model}", "-p", "backend:=onnxruntime"]
    words += ["-p", f"image_transport:={transport}"]
    # so that what is counted can be compared with what was sent
    for policy, value in (("reliability", "reliable"), ("depth", 1000), ("history", "keep_last")):
        words += ["-p", f"qos_overrides.{TOPIC[transport]}.subscription.{policy}:={value}"]
    with graph() as ros:
        node = Program(words, directory / "segment.log")
        try:
            yield Camera(ros, transport)
            assert node.process.poll() is None, node.output
        finally:
            code, _ = node.end()
        assert code == 0, node.output
        assert "Traceback" not in node.output, node.output


def check_accounts(counts: Counter[str], before: Counter[str], expected: Counter[str]) -> None:
    """Compare the counts since `before`. A frame may be replaced before the node looks at it."""
    new = counts - before
    replaced = new.pop("replaced", 0)
    assert not new - expected
    assert (expected - new).total() == replaced


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_bad_frames_are_counted_by_cause_and_give_no_mask(transport, tmp_path):
    with camera(transport, tmp_path) as sender:
        before = sender.counts()
        for _, message in BAD[transport]:
            sender.send(message)
            sender.pause(0.05)  # for the node to look at it before the next comes
            sender.check_answer()
        causes = Counter(cause for cause, _ in BAD[transport])
        check_accounts(sender.counts(), before, causes + Counter(published=len(BAD[transport])))
        assert sender.answered <= sender.good


def test_text_that_is_not_utf8(tmp_path):
    with camera("raw", tmp_path) as sender:
        before = sender.counts()
        sender.send(GOOD["raw"], spoil=lambda data: data.replace(b"rgb8", b"\xff\xfe\x80\n"))
        sender.pause(0.05)
        sender.check_answer()
        check_accounts(sender.counts(), before, Counter(encoding=1, published=1))


def test_bytes_that_are_no_message(tmp_path):
    """The middleware drops most; some it takes for a message, whose fields are nonsense then."""
    message = raw()
    message.header.stamp = Time()  # the number of no good frame
    whole = serialize_message(message)
    with camera("raw", tmp_path) as sender:
        # (Fast DDS delivers nothing more of a reliable publisher that has sent no bytes at all.)
        for length in [*range(1, 80, 3), *range(80, len(whole), 200), len(whole) - 8]:
            sender.send_bytes(whole[:length])
        for seed in range(30):
            sender.send_bytes(whole[:4] + np.random.default_rng(seed).bytes(200))
        sender.check_answer()
        assert sender.answered <= sender.good


NUMBERS = [0, 1, 2, 23, 24, 25, 31, 32, 33, 64, 95, 96, 97, 2**15, 2**31, 2**32 - 1]


def random_frame(transport: str, rng: np.random.Generator) -> Any:
    """A sound frame after one to three random changes; it may still be sound."""
    if transport == "compressed":
        data = bytearray(PNG if rng.random() < 0.5 else JPEG)
        for _ in range(rng.integers(1, 4)):
            start = rng.integers(len(data) + 1)
            end = start + rng.integers(8) if rng.random() < 0.8 else len(data)
            data[start:end] = rng.bytes(rng.integers(8))
        return compressed(bytes(data))
    message = raw()
    for field in rng.choice(["encoding", "height", "width", "step", "data"], rng.integers(1, 4)):
        if field == "encoding":
            encodings = [*SUPPORTED_ENCODINGS, "", "rgb", "32FC1", "8UC3", "\n", "\u2028", "b" * 99]
            message.encoding = str(rng.choice(encodings))
        elif field == "data":
            message.data = bytes_of(int(rng.choice([0, 1, 767, 768, 2303, 2304, 2305, 3072])))
        else:
            setattr(message, field, int(rng.choice(NUMBERS)))
    return message


def cause_of(transport: str, message: Any) -> str:
    """'published' for a sound frame. That the decoder judges well is test_image_conversion's."""
    try:
        {"raw": decode_image, "compressed": decode_compressed}[transport](message)
    except ImageError as error:
        return error.cause
    return "published"


@pytest.mark.long_run
@pytest.mark.timeout(1200 + MALFORMED // 20)
@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_fuzz(transport, tmp_path):
    rng = np.random.default_rng(1)
    slowest = 0.0
    with camera(transport, tmp_path) as sender:
        before = sender.counts()
        expected: Counter[str] = Counter()
        for case in itertools.count():
            message = random_frame(transport, rng)
            cause = cause_of(transport, message)
            expected[cause] += 1
            sender.send(message, good=cause == "published")
            time.sleep(0.002)  # for the node to look at it before the next comes
            if case % 20 == 19:  # often enough that the middleware's queue never overflows
                began = time.monotonic()
                sender.check_answer()
                slowest = max(slowest, time.monotonic() - began)
                expected["published"] += 1
                if expected.total() - expected["published"] >= MALFORMED:
                    break
        check_accounts(sender.counts(), before, expected)
        assert sender.answered <= sender.good
    masks = len(sender.answered)
    print(f"{transport}: {dict(expected)}, {masks} masks, slowest good answer {slowest:.3f} s")
