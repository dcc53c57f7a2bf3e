"""Results to ROS messages: contents, one buffer for all frames, calibration in mask pixels."""

from __future__ import annotations

import array
import math
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

from bisenetv2_ros.msg import ClassFractions
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from bisenetv2_ros.backends.base import output_memory
from bisenetv2_ros.image_conversion import decode_image
from bisenetv2_ros.labels import CAMVID, CITYSCAPES
from bisenetv2_ros.node.messages import (
    TYPES,
    FrameLatency,
    ImageBuffer,
    label_info,
    latency_seconds,
    scaled_camera_info,
)
from bisenetv2_ros.outputs import fill_class_fractions

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="camera_front")


def received(message):
    """Send a message through the middleware's format, as a subscriber gets it."""
    return deserialize_message(serialize_message(message), type(message))


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# Image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "encoding", "step"),
    [((7, 5), "mono8", 5), ((7, 5, 3), "rgb8", 15), ((7, 5, 3), "bgr8", 15)],
)
def test_image(shape, encoding, step):
    pixels = random_pixels(*shape)
    message = received(ImageBuffer().fill(HEADER, pixels, encoding))
    assert message.header == HEADER
    assert (message.height, message.width) == (7, 5)
    assert (message.encoding, message.step, message.is_bigendian) == (encoding, step, 0)
    assert bytes(message.data) == pixels.tobytes()


def test_image_of_strided_pixels_is_not_padded():
    pixels = random_pixels(8, 12, 3)
    message = received(ImageBuffer().fill(HEADER, pixels[::2, 3:9, ::-1], "rgb8"))
    assert message.step == 18
    np.testing.assert_array_equal(decode_image(message)[0], pixels[::2, 3:9, ::-1])


def test_frames_of_one_size_reuse_one_array():
    buffer = ImageBuffer()
    first = buffer.fill(HEADER, random_pixels(6, 8), "mono8")
    data = first.data
    assert isinstance(data, array.array)  # the only type rclpy takes without a look at each byte
    second = buffer.fill(Header(frame_id="other"), np.zeros((6, 8), np.uint8), "mono8")
    assert second is first
    assert second.data is data
    assert not any(data)
    assert second.header.frame_id == "other"


def test_pixels_that_lie_in_an_array_are_not_copied():
    buffer = ImageBuffer()
    before = buffer.fill(HEADER, random_pixels(6, 8), "mono8").data
    mask = output_memory((6, 8))
    for value in (3, 5):
        mask[:] = value
        message = buffer.fill(HEADER, mask, "mono8")
        assert np.shares_memory(np.frombuffer(message.data, np.uint8), mask)
        assert set(received(message).data) == {value}
    strangers = [mask[:, ::-1], mask[:3], random_pixels(6, 8)]
    for pixels in strangers:  # of an array too, but not the whole of it, or of none
        message = buffer.fill(HEADER, pixels, "mono8")
        assert not np.shares_memory(np.frombuffer(message.data, np.uint8), mask)
        assert message.data is not before
        assert bytes(message.data) == pixels.tobytes()
    assert (mask == 5).all(), "another's memory is not written to"


def test_sizes_and_encodings_may_change_with_every_frame():
    buffer = ImageBuffer()
    for shape in [(4, 6), (6, 4), (4, 6, 3), (2, 2), (4, 6, 3), (9, 9)]:
        pixels = random_pixels(*shape)
        message = received(buffer.fill(HEADER, pixels, "rgb8" if len(shape) == 3 else "mono8"))
        assert (message.height, message.width) == shape[:2]
        assert bytes(message.data) == pixels.tobytes()


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [
        (np.zeros((4, 4), np.uint8), "rgb8"),
        (np.zeros((4, 4, 3), np.uint8), "mono8"),
        (np.zeros((4, 4, 4), np.uint8), "rgb8"),
        (np.zeros((4, 4), np.int64), "mono8"),
        (np.zeros(4, np.uint8), "mono8"),
        (np.zeros((4, 4, 3), np.uint8), "rgba8"),
    ],
)
def test_pixels_that_do_not_fit_the_encoding(pixels, encoding):
    buffer = ImageBuffer()
    before = bytes(buffer.fill(HEADER, random_pixels(3, 3), "mono8").data)
    with pytest.raises(ValueError, match=encoding):
        buffer.fill(HEADER, pixels, encoding)
    assert bytes(buffer.fill(HEADER, random_pixels(3, 3), "mono8").data) == before


# ClassFractions ----------------------------------------------------------------------------------


def class_fractions(counts: np.ndarray, **changes) -> ClassFractions:
    arguments = {
        "header": HEADER,
        "model": "street",
        "labels": CITYSCAPES,
        "counts": counts,
        "size": (480, 352),
        "latency": 0.25,
        "inference_time": 0.125,
    }
    return received(fill_class_fractions(TYPES, **{**arguments, "regions": {}, **changes}))


def test_class_fractions():
    counts = np.zeros(19, np.int64)
    counts[[0, 10]] = 3, 1
    message = class_fractions(counts)
    assert message.header == HEADER
    assert (message.model, message.width, message.height) == ("street", 480, 352)
    assert (message.latency, message.inference_time) == (0.25, 0.125)
    assert [entry.class_id for entry in message.classes] == list(range(19))
    assert tuple(entry.class_name for entry in message.classes) == CITYSCAPES.names
    assert [entry.pixel_count for entry in message.classes] == counts.tolist()
    assert [entry.fraction for entry in message.classes] == [0.75, *[0] * 9, 0.25, *[0] * 8]


@pytest.mark.parametrize("seed", range(20))
def test_fractions_sum_to_one(seed):
    counts = np.random.default_rng(seed).integers(0, 10 ** (seed % 7 + 1), 19)
    fractions = [entry.fraction for entry in class_fractions(counts).classes]
    assert sum(fractions) == pytest.approx(1, abs=19 * 2**-24)


def test_a_mask_without_valid_pixels_has_no_fractions():
    message = class_fractions(np.zeros(19, np.int64))
    assert not any(entry.fraction for entry in message.classes)


def test_unknown_latency_arrives_as_nan():
    assert math.isnan(class_fractions(np.ones(19, np.int64), latency=math.nan).latency)


def test_counts_of_another_number_of_classes():
    with pytest.raises(ValueError, match="zip"):
        class_fractions(np.ones(11, np.int64))


@pytest.mark.parametrize(
    ("stamp", "now", "expected"),
    [
        (Time(sec=5, nanosec=250_000_000), 5_500_000_000, 0.25),
        (Time(sec=1_700_000_000, nanosec=1), 1_700_000_000_000_000_002, 1e-9),
        (Time(sec=5), 5_000_000_000, 0.0),
        (Time(), 5_000_000_000, math.nan),
        (Time(sec=6), 5_999_999_999, math.nan),
    ],
)
def test_latency(stamp, now, expected):
    assert latency_seconds(stamp, now) == pytest.approx(expected, nan_ok=True)


def test_latency_of_a_bag_that_starts_over():
    """Its frames may come before its clock, or the last ones after it has jumped back."""
    latency = FrameLatency()
    for stamp, now, expected in [
        (100, 101, 1.0),
        (160, 161, 1.0),
        (100, 161, math.nan),  # the length of the bag is no latency
        (101, 161, math.nan),
        (160, 100, math.nan),
        (102, 103, 1.0),
        (102, 104, 2.0),
        (101, 104, math.nan),
        (103, 105, 2.0),
    ]:
        found = latency.seconds(Time(sec=stamp), now * 10**9)
        assert found == pytest.approx(expected, nan_ok=True), (stamp, now)


# LabelInfo ---------------------------------------------------------------------------------------


@pytest.fixture
def vision_msgs(monkeypatch):
    """The messages, or where the package is not installed, objects with the same fields."""
    try:
        import vision_msgs.msg  # noqa: F401
    except ImportError:
        module = ModuleType("vision_msgs.msg")
        module.LabelInfo = module.VisionClass = SimpleNamespace
        monkeypatch.setitem(sys.modules, "vision_msgs", ModuleType("vision_msgs"))
        monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)


@pytest.mark.usefixtures("vision_msgs")
def test_label_info():
    entries = [(entry.class_id, entry.class_name) for entry in label_info(CAMVID).class_map]
    assert entries == list(enumerate(CAMVID.names))


def test_no_label_info_without_vision_msgs(monkeypatch):
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", None)  # makes its import fail
    assert label_info(CAMVID) is None


# CameraInfo --------------------------------------------------------------------------------------


def camera_info(**changes) -> CameraInfo:
    fields = {
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [0.1, -0.2, 0.001, 0.002, 0.0],
        "k": [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0],
        "r": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "p": [480.0, 0.0, 310.0, -60.0, 0.0, 490.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    }
    return CameraInfo(**{**fields, **changes})


def test_calibration_of_half_the_size():
    info = received(scaled_camera_info(camera_info(), (320, 240), HEADER))
    assert info.header == HEADER
    assert (info.width, info.height) == (320, 240)
    # the image's centre stays its centre: (640 - 1) / 2 becomes (320 - 1) / 2
    assert info.k.tolist() == [250, 0, 159.5, 0, 255, 119.5, 0, 0, 1]
    assert info.p.tolist() == [240, 0, 154.75, -30, 0, 245, 114.75, 0, 0, 0, 1, 0]
    assert info.distortion_model == "plumb_bob"
    assert list(info.d) == [0.1, -0.2, 0.001, 0.002, 0.0]
    assert info.r.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_calibration_of_the_same_size_stays():
    info = scaled_camera_info(camera_info(), (640, 480), HEADER)
    np.testing.assert_allclose(info.k, camera_info().k)
    np.testing.assert_allclose(info.p, camera_info().p)


def test_a_point_is_seen_where_resizing_puts_it():
    """A bright spot on the sensor, and where it is in the mask of a binned region of interest."""
    window = RegionOfInterest(x_offset=80, y_offset=40, width=400, height=320)
    info = camera_info(roi=window, binning_x=2, binning_y=2)
    spot, size = (300, 210), (100, 64)
    point = 3 * np.linalg.inv(np.reshape(info.k, (3, 3))) @ [*spot, 1]

    sensor = np.zeros((480, 640), np.float32)
    cv2.circle(sensor, spot, 9, 1.0, -1)
    image = cv2.resize(sensor[40:360, 80:480], (200, 160), interpolation=cv2.INTER_AREA)
    moments = cv2.moments(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    there = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]

    scaled = scaled_camera_info(info, size, HEADER)
    column, row, depth = np.reshape(scaled.k, (3, 3)) @ point
    assert (column / depth, row / depth) == pytest.approx(there, abs=0.02)
    assert (scaled.width, scaled.height) == size
    assert (scaled.binning_x, scaled.binning_y) == (0, 0)
    assert scaled.roi == RegionOfInterest()


def test_an_uncalibrated_camera_stays_so():
    info = scaled_camera_info(CameraInfo(width=640, height=480), (320, 240), HEADER)
    assert (info.width, info.height) == (320, 240)
    assert not info.k.any()
    assert not info.p.any()


def test_calibration_without_a_size():
    with pytest.raises(ValueError, match="0x480"):
        scaled_camera_info(camera_info(width=0), (320, 240), HEADER)
