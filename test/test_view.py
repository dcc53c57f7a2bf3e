"""Crop and rotation: the network sees the part upright, the outputs lie as the camera does."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_model import tiny_answer, write_tiny_model

from bisenetv2_ros.camera_view import View, parse_views
from bisenetv2_ros.segmenter import Segmentation

CAMERAS = ("front/image_raw", "rear/image_raw")


def test_texts():
    views = parse_views(
        ["", "front/image_raw: 0 0.25 1 .75"],
        ["rear/image_raw:90", "front/image_raw: 180"],
        CAMERAS,
    )
    assert views == {
        "front/image_raw": View((0, 0.25, 1, 0.75), 180),
        "rear/image_raw": View(turn=90),
    }
    assert parse_views([""], [""], CAMERAS) == dict.fromkeys(CAMERAS, View())


@pytest.mark.parametrize(
    ("crop", "rotation", "message"),
    [
        ("front/image_raw: 0 0 1", "", "expected 'CAMERA: LEFT TOP RIGHT BOTTOM'"),
        ("front/image_raw 0 0 1 1", "", "expected 'CAMERA: ...', with a colon"),
        ("front/image_raw: 0 0 1 nan", "", "within 0..1 and in order"),
        ("front/image_raw: 0.5 0 0.5 1", "", "within 0..1 and in order"),
        ("front/image_raw: 0 0 1 1.5", "", "within 0..1 and in order"),
        ("left/image_raw: 0 0 1 1", "", "no camera 'left/image_raw', known: front/image_raw, rear"),
        ("", "front/image_raw: 45", "expected 'CAMERA: ' and 0, 90, 180 or 270"),
        ("", "90", "expected 'CAMERA: ...', with a colon"),
    ],
)
def test_what_is_no_view_is_named(crop, rotation, message):
    with pytest.raises(ValueError, match=r"crop|rotation") as caught:
        parse_views([crop], [rotation], CAMERAS)
    assert f"'{crop or rotation}'" in str(caught.value) and message in str(caught.value)
    with pytest.raises(ValueError, match="has another one"):
        parse_views(["front/image_raw: 0 0 1 1"] * 2, [], CAMERAS)


def test_the_default_touches_nothing():
    image = np.zeros((6, 8, 3), np.uint8)
    result = Segmentation(image[..., 0], None, np.zeros(3, np.int64), 0.1)
    assert View().upright(image) is image and View().cut(image) is image
    assert View().back(result) is result


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_upright_and_back_are_the_same_pixels(turn):
    image = np.random.default_rng(turn).integers(0, 256, (6, 8, 3), np.uint8)
    view = View((0.25, 0.5, 1, 1), turn)
    part = image[3:6, 2:8]
    np.testing.assert_array_equal(view.cut(image), part)
    upright = view.upright(image)
    np.testing.assert_array_equal(upright, np.rot90(part, -turn // 90))
    assert view.mask_size((upright.shape[1], upright.shape[0])) == (6, 3)
    assert view.upright_size((8, 6)) == (upright.shape[1], upright.shape[0])
    result = Segmentation(upright[..., 0], upright[..., 1], np.zeros(3, np.int64), 0.1)
    np.testing.assert_array_equal(view.back(result).mask, part[..., 0])
    np.testing.assert_array_equal(view.back(result).confidence, part[..., 1])


def test_a_crop_has_at_least_one_pixel_inside_the_picture():
    for crop in ((0.999, 0.999, 1, 1), (0, 0, 0.001, 0.001), (0.5, 0.5, 0.501, 0.501)):
        for size in ((3, 2), (1, 1)):
            left, top, width, height = View(crop).box(size)
            assert width >= 1 and height >= 1
            assert left + width <= size[0] and top + height <= size[1]


def test_calibration_of_the_part():
    """A point in space falls on the same spot of the picture, by the old and by the new matrix."""
    pytest.importorskip("sensor_msgs", reason="needs ROS messages")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    from sensor_msgs.msg import CameraInfo
    from std_msgs.msg import Header

    from bisenetv2_ros.node.messages import scaled_camera_info

    info = CameraInfo(width=640, height=480)
    info.k = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]
    info.p = [500.0, 0.0, 320.0, 0.0, 0.0, 510.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    box, size = (160, 120, 320, 240), (80, 120)
    scaled = scaled_camera_info(info, size, Header(), box)
    assert (scaled.width, scaled.height) == size
    point = np.array([0.1, -0.05, 1.0])
    u, v, _ = np.reshape(info.k, (3, 3)) @ point
    expected = ((u + 0.5 - 160) * 80 / 320 - 0.5, (v + 0.5 - 120) * 120 / 240 - 0.5)
    np.testing.assert_allclose((np.reshape(scaled.k, (3, 3)) @ point)[:2], expected)
    np.testing.assert_allclose((np.reshape(scaled.p, (3, 4)) @ [*point, 1])[:2], expected)
    info.binning_x = info.binning_y = 2  # the image is 320x240, and so are the box's pixels
    binned = scaled_camera_info(info, size, Header(), (80, 60, 160, 120))
    np.testing.assert_allclose(binned.k, scaled.k)


@pytest.mark.parametrize("mask_size", ["network", "camera"])
def test_the_node_crops_and_turns(tmp_path, mask_size):
    """At the network's own size, so that no resize stands between the picture and the answer."""
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    from bisenetv2_ros.msg import ClassFractions
    from ros_graph import Program, graph, image_message
    from sensor_msgs.msg import CameraInfo, Image

    model = write_tiny_model(tmp_path / "tiny.onnx")  # 32x24
    parameters = {
        "model": model,
        "backend": "onnxruntime",
        "mask_size": mask_size,
        "crops": "['image_raw: 0.5 0 1 1']",
        "rotations": "['image_raw: 90']",
        "regions": "['low: 0 0.75, 1 0.75, 1 1, 0 1']",
    }
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    program = Program(["segment", "--ros-args", *words], tmp_path / "segment.log")
    frame = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    expected, confidence = (answer[0] for answer in tiny_answer(frame[None, :, 24:]))
    names = {"mask": Image, "confidence": Image, "overlay": Image, "camera_info": CameraInfo}
    names["class_fractions"] = ClassFractions
    calibration = CameraInfo(width=48, height=32)
    calibration.k = [40.0, 0.0, 24.0, 0.0, 40.0, 16.0, 0.0, 0.0, 1.0]
    try:
        with graph() as ros:
            got = {n: ros.collect(kind, f"/segmentation/{n}") for n, kind in names.items()}
            camera = ros.node.create_publisher(Image, "image_raw", 10)
            infos = ros.node.create_publisher(CameraInfo, "camera_info", 10)

            def step() -> bool:
                infos.publish(calibration)
                camera.publish(image_message(frame))
                return ros.spin_until(lambda: all(got.values()), 0.1)

            assert ros.spin_until(step), program.output
    finally:
        program.end()
    assert "Traceback" not in program.output
    for name, pixels in (("mask", expected), ("confidence", confidence)):
        message = got[name][-1]
        assert (message.width, message.height) == (24, 32)
        np.testing.assert_array_equal(np.reshape(message.data, (32, 24)), pixels)
    assert (got["overlay"][-1].width, got["overlay"][-1].height) == (24, 32)
    info = got["camera_info"][-1]
    assert (info.width, info.height) == (24, 32)
    np.testing.assert_allclose(info.k, [40, 0, 0, 0, 40, 16, 0, 0, 1])
    (low,) = got["class_fractions"][-1].regions
    counts = np.bincount(expected[24:].ravel(), minlength=11)
    assert [c.pixel_count for c in low.classes] == counts.tolist()
