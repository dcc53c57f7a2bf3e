"""The outputs of a frame: computed once and if asked for; compressed as image_transport does."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tiny_model import tiny_answer, tiny_info, write_tiny_model

from bisenetv2_ros import outputs as outputs_module
from bisenetv2_ros.camera_view import View
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.outputs import COMPRESSED, IMAGES, FrameOutputs, compressed, needs_confidence
from bisenetv2_ros.segmenter import Segmentation

MODEL = SimpleNamespace(name="tiny", info=tiny_info())
IMAGE = cv2.resize(
    np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8), (64, 48)
)  # smooth, so that JPEG keeps it


def frame_outputs(**changes) -> FrameOutputs:
    rng = np.random.default_rng(2)
    mask = rng.integers(0, 11, (24, 32), np.uint8)
    confidence = rng.integers(0, 256, (24, 32), np.uint8)
    counts = np.bincount(mask.ravel(), minlength=11)
    segmentation = Segmentation(mask, confidence, counts, 0.01)
    arguments = {"image": IMAGE, "order": "rgb", "segmentation": segmentation, "model": MODEL}
    return FrameOutputs(**arguments | changes)


def as_compressed_subscriber(data: np.ndarray, format_: str) -> np.ndarray:
    """What compressed_image_transport's subscriber makes of a message, by its rules."""
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    encoding, _, compression = format_.partition(";")
    if encoding == "rgb8":
        assert "compressed bgr" in compression
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    assert encoding == "mono8" and pixels.ndim == 2
    return pixels


@pytest.mark.parametrize("size", ["camera", "network"])
def test_compressed_outputs_hold_the_same_pixels(size):
    outputs = frame_outputs(mask_size=size)
    assert COMPRESSED.keys() == IMAGES.keys()
    for name, (suffix, format_) in COMPRESSED.items():
        data = outputs.compressed(name)
        expected = outputs.pixels(name)
        pixels = as_compressed_subscriber(data, format_)
        assert f"; {'png' if suffix == '.png' else 'jpeg'} compressed " in format_
        assert pixels.shape == expected.shape
        if suffix == ".png":
            np.testing.assert_array_equal(pixels, expected)
        elif name == "overlay":  # colors of noise are no business of JPEG's
            assert np.abs(pixels.astype(int) - expected).mean() < 12


def test_the_quality_of_jpeg_is_the_one_asked_for():
    sizes = [len(frame_outputs(jpeg_quality=q).compressed("overlay")) for q in (10, 60, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2
    best = frame_outputs(jpeg_quality=100)
    pixels = as_compressed_subscriber(best.compressed("color_mask"), "rgb8; jpeg compressed bgr8")
    worst = frame_outputs(jpeg_quality=5)
    bad = as_compressed_subscriber(worst.compressed("color_mask"), "rgb8; jpeg compressed bgr8")
    assert error(pixels, best.color_mask) < error(bad, best.color_mask)


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def test_confidence_that_was_not_computed():
    segmentation = Segmentation(np.zeros((24, 32), np.uint8), None, np.zeros(11, np.int64), 0.0)
    outputs = frame_outputs(segmentation=segmentation)
    assert outputs.confidence is None and outputs.compressed("confidence") is None
    assert needs_confidence({"mask", compressed("confidence")})
    assert needs_confidence({"ground_points"})
    assert not needs_confidence({"mask", "overlay"})


def test_each_is_computed_once_and_only_if_asked_for(monkeypatch):
    made = []
    for name in ("colorize", "overlay", "resize_mask"):
        original = getattr(outputs_module, name)

        def spy(*arguments, name=name, original=original):
            made.append(name)
            return original(*arguments)

        monkeypatch.setattr(outputs_module, name, spy)
    outputs = frame_outputs()
    assert not made
    for _ in range(3):
        outputs.mask, outputs.color_mask, outputs.compressed("color_mask")
    assert made == ["resize_mask", "colorize"]
    for _ in range(2):
        outputs.overlay, outputs.compressed("overlay"), outputs.side_by_side
    assert made == ["resize_mask", "colorize", "overlay"]


def test_outputs_are_of_the_view():
    outputs = frame_outputs(view=View((0.5, 0, 1, 0.5)), order="bgr")
    assert outputs.camera_size == (64, 48) and outputs.mask_size == (32, 24)
    np.testing.assert_array_equal(outputs.image, IMAGE[:24, 32:, ::-1])
    assert outputs.overlay.shape == outputs.color_mask.shape == (24, 32, 3)
    np.testing.assert_array_equal(outputs.color_mask, CAMVID.colour_table()[outputs.mask])


def test_an_encoding_named_by_the_user(tmp_path):
    """A driver that calls its mosaic mono8, in JPEG: the node is told, and sees colors."""
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    from ros_graph import Program, graph
    from sensor_msgs.msg import CompressedImage, Image

    from bisenetv2_ros.image_conversion import decode_compressed
    from bisenetv2_ros.node.transports import parse_encodings

    assert parse_encodings(["b: rgb8"], ["a", "b"]) == {"a": "", "b": "rgb8"}
    with pytest.raises(ValueError, match="encoding 'a: RGB': expected 'CAMERA: ' and one of rgb8"):
        parse_encodings(["a: RGB"], ["a"])
    model = write_tiny_model(tmp_path / "tiny.onnx")
    given = {
        "model": model,
        "backend": "onnxruntime",
        "image_transport": "compressed",
        "encodings": "['image_raw: bayer_grbg8']",
    }
    words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    program = Program(["segment", "--ros-args", *words], tmp_path / "segment.log")
    samples = np.random.default_rng(3).integers(0, 256, (24, 32), np.uint8)
    data = cv2.imencode(".png", samples)[1].tobytes()
    image, _ = decode_compressed(SimpleNamespace(format="bayer_grbg8", data=data))
    (expected,) = tiny_answer(image[None])[0]
    assert (image[..., 0] != image[..., 1]).any()
    try:
        with graph() as ros:
            masks = ros.collect(Image, "/segmentation/mask")
            camera = ros.node.create_publisher(CompressedImage, "image_raw/compressed", 10)

            def step() -> bool:
                camera.publish(CompressedImage(format="mono8; png compressed ", data=data))
                return ros.spin_until(lambda: masks, 0.1)

            assert ros.spin_until(step), program.output
    finally:
        program.end()
    np.testing.assert_array_equal(np.reshape(masks[-1].data, (24, 32)), expected)


def test_the_node_publishes_them_while_somebody_listens(tmp_path):
    """Over a graph: PNG to the last bit, JPEG near enough; formats as image_transport has them."""
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    from ros_graph import Program, graph, image_message
    from sensor_msgs.msg import CompressedImage, Image

    model = write_tiny_model(tmp_path / "tiny.onnx")  # 32x24
    words = [
        word
        for parameter in (f"model:={model}", "backend:=onnxruntime", "jpeg_quality:=100")
        for word in ("-p", parameter)
    ]
    program = Program(["segment", "--ros-args", *words], tmp_path / "segment.log")
    frame = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    mask, confidence = (answer[0] for answer in tiny_answer(frame[None]))
    try:
        with graph() as ros:
            got = {
                name: ros.collect(CompressedImage, f"/segmentation/{name}/compressed")
                for name in COMPRESSED
            }
            raw = ros.collect(Image, "/segmentation/color_mask")
            camera = ros.node.create_publisher(Image, "image_raw", 10)

            def step() -> bool:
                camera.publish(image_message(frame, stamp=(7, 8)))
                return ros.spin_until(lambda: all(got.values()) and raw, 0.1)

            assert ros.spin_until(step), program.output
    finally:
        program.end()
    assert "Traceback" not in program.output
    for name, messages in got.items():
        message = messages[-1]
        assert message.format == COMPRESSED[name][1]
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (7, 8)
        data = np.frombuffer(message.data, np.uint8)
        pixels = as_compressed_subscriber(data, message.format)
        if name in ("mask", "confidence"):
            expected = mask if name == "mask" else confidence
            np.testing.assert_array_equal(pixels, expected)
        else:
            assert pixels.shape == (24, 32, 3)
