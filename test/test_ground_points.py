"""The node's ground_points over a graph: of the mask's size, the ground under its pixels."""

from __future__ import annotations

import array
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

from builtin_interfaces.msg import Time
from ros_graph import Program, graph, image_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tiny_model import tiny_answer, tiny_info, write_tiny_model

from bisenetv2_ros.ground_plane import POINT, Calibration, GroundProjection, plane_of_pose
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.node.depth_input import DepthError, DepthInput, meters, parse_depth_topics
from bisenetv2_ros.node.ground_points import (
    CameraPoses,
    GroundError,
    ground_classes,
    parse_poses,
)
from bisenetv2_ros.node.messages import CloudBuffer
from bisenetv2_ros.node.parameters import Parameters

FRAME = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
K = [40.0, 0.0, 24.0, 0.0, 40.0, 16.0, 0.0, 0.0, 1.0]
D = [-0.1, 0.02, 0.001, -0.002, 0.0]


def calibration() -> CameraInfo:
    info = CameraInfo(width=48, height=32, distortion_model="plumb_bob", d=D)
    info.k = K
    return info


def pixels_of(message: PointCloud2) -> np.ndarray:
    assert message.point_step == POINT.itemsize and not message.is_bigendian
    fields = [(field.name, field.offset, field.datatype) for field in message.fields]
    assert fields == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("class", 12, 2),
        ("confidence", 13, 2),
    ]
    assert message.row_step == message.width * message.point_step
    return np.frombuffer(message.data, POINT).reshape(message.height, message.width)


@pytest.fixture
def run(tmp_path):
    """Starts the node, feeds it until the clouds and masks are there, ends it."""

    def run(parameters: dict[str, object], until=lambda got, program: all(got.values())):
        model = write_tiny_model(tmp_path / "tiny.onnx")  # 32x24
        given = {"model": model, "backend": "onnxruntime"} | parameters
        words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
        program = Program(["segment", "--ros-args", *words], tmp_path / "segment.log")
        names = {"ground_points": PointCloud2, "mask": Image, "confidence": Image}
        try:
            with graph() as ros:
                got = {n: ros.collect(kind, f"/segmentation/{n}") for n, kind in names.items()}
                camera = ros.node.create_publisher(Image, "image_raw", 10)
                infos = ros.node.create_publisher(CameraInfo, "camera_info", 10)

                def step() -> bool:
                    infos.publish(calibration())
                    camera.publish(image_message(FRAME, stamp=(7, 8)))
                    return ros.spin_until(lambda: until(got, program), 0.1)

                assert ros.spin_until(step), program.output
        finally:
            program.end()
        assert "Traceback" not in program.output
        return got, program.output

    return run


def test_a_cropped_camera(run):
    """By numbers made here: the calibration of the part, the pose, the mask of the same message."""
    got, _ = run(
        {
            "camera_poses": "['image_raw: 1.2 20 -3']",
            "crops": "['image_raw: 0 0.25 0.5 1']",
            "ground_classes": "[road, sky]",
            "ground_range": 5.0,
        }
    )
    message, mask = got["ground_points"][-1], got["mask"][-1]
    assert (message.width, message.height) == (mask.width, mask.height) == (24, 24)
    assert message.header == mask.header and message.header.stamp.sec == 7
    cloud = pixels_of(message)
    pixels = np.reshape(mask.data, (24, 24))
    np.testing.assert_array_equal(cloud["class"], pixels)
    confidence = np.reshape(got["confidence"][-1].data, (24, 24))
    np.testing.assert_array_equal(cloud["confidence"], confidence)
    matrix = (40.0, 0.0, 24.0, 0.0, 40.0, 16.0 - 8, 0.0, 0.0, 1.0)
    ground = np.isin(np.arange(256), [CAMVID.names.index(name) for name in ("road", "sky")])
    expected = GroundProjection(
        Calibration(matrix, tuple(D), "plumb_bob", (24, 24)),
        plane_of_pose(1.2, 20, -3),
        ground,
        5.0,
        sky=np.arange(256) == CAMVID.names.index("sky"),
    )(pixels, confidence)
    for axis in "xyz":
        np.testing.assert_allclose(cloud[axis], expected[axis], atol=1e-5)
    assert 5 < np.count_nonzero(~np.isnan(cloud["x"])) < 500


def test_a_turned_camera_and_masks_of_the_network(run):
    """A camera on its side sees the same ground: points are where its own pixels see them."""
    got, _ = run(
        {
            "camera_poses": "['image_raw: 1.0 30 0']",
            "rotations": "['image_raw: 90']",
            "mask_size": "network",
            "ground_classes": str(list(CAMVID.names)).replace("'", ""),
        }
    )
    cloud = pixels_of(got["ground_points"][-1])
    assert cloud.shape == (32, 24), "the network's 32x24, on its side"
    known = ~np.isnan(cloud["x"])
    level = np.stack([cloud[axis][known] for axis in "xyz"], 1).astype(float)
    down = np.array(plane_of_pose(1.0, 30, 90).normal)
    np.testing.assert_allclose(level @ down, 1.0, atol=1e-4)
    # The picture turned upright has the near ground below: here, that is to the right.
    distance = np.linalg.norm(level - down, axis=1)
    columns = np.nonzero(known)[1]
    assert distance[columns == 23].mean() < distance[columns == columns.min()].mean()


def test_without_a_pose_it_is_said(run):
    got, output = run(
        {}, until=lambda got, program: got["mask"] and "no ground_points" in program.output
    )
    assert not got["ground_points"]
    assert "the pose of 'image_raw' is not known: set camera_poses, or ground_frame" in output


def test_depth_images_instead_of_a_pose(tmp_path):
    """Registered depth, of which half is missing; the points are where the depth says."""
    model = write_tiny_model(tmp_path / "tiny.onnx")
    words = ["-p", f"model:={model}", "-p", "backend:=onnxruntime"]
    words += ["-p", "depth_topics:=['image_raw: depth/image']", "-p", "ground_range:=8.0"]
    program = Program(["segment", "--ros-args", *words], tmp_path / "segment.log")
    depth = np.random.default_rng(2).integers(0, 10_000, (32, 48), np.uint16)
    depth[::2] = 0
    message = Image(width=48, height=32, encoding="16UC1", step=96)
    message.data = array.array("B", depth.tobytes())
    message.header.stamp.sec, message.header.stamp.nanosec = 7, 20_000_000
    try:
        with graph() as ros:
            clouds = ros.collect(PointCloud2, "/segmentation/ground_points")
            camera = ros.node.create_publisher(Image, "image_raw", 10)
            infos = ros.node.create_publisher(CameraInfo, "camera_info", 10)
            depths = ros.node.create_publisher(Image, "depth/image", 10)

            def step() -> bool:
                infos.publish(calibration())
                depths.publish(message)
                camera.publish(image_message(FRAME, stamp=(7, 8)))
                return ros.spin_until(lambda: clouds, 0.1)

            assert ros.spin_until(step), program.output
    finally:
        program.end()
    assert "Traceback" not in program.output
    cloud = pixels_of(clouds[-1])
    meters = np.where((depth > 0) & (depth <= 8000), depth / 1000, np.nan)
    np.testing.assert_allclose(cloud["z"], meters, rtol=1e-6)
    rays = Calibration(tuple(K), tuple(D), "plumb_bob", (48, 32)).rays
    np.testing.assert_allclose(cloud["x"], meters * rays[..., 0], rtol=1e-5)


# Without a graph ---------------------------------------------------------------------------------


def test_poses():
    assert parse_poses(["a/image_raw: 1.5 10 -2", ""], ["a/image_raw"]) == {
        "a/image_raw": (1.5, 10.0, -2.0)
    }
    for text in ("a: 0 1 2", "a: 1 2", "a: nan 0 0", "a: 1 100 0", "b: 1 2 3", "1 2 3"):
        with pytest.raises(ValueError, match="camera pose"):
            parse_poses([text], ["a"])


def test_ground_classes_of_the_model():
    labels = tiny_info().labels
    usual = ground_classes(Parameters(), labels)
    assert [labels.names[i] for i in np.flatnonzero(usual)] == ["road", "pavement"]
    chosen = ground_classes(Parameters(ground_classes=("tree",)), labels)
    assert np.flatnonzero(chosen).tolist() == [labels.names.index("tree")]
    with pytest.raises(ValueError, match="ground_classes: no class 'lawn' in the model: sky"):
        ground_classes(Parameters(ground_classes=("lawn",)), labels)


def test_tf2_where_it_is_installed(monkeypatch):
    """By a stand-in for tf2_ros, which is not on PyPI: what it is asked, what becomes of it."""
    asked = []

    class Buffer:
        def lookup_transform(self, target, source, time):
            asked.append((target, source, time.nanoseconds))
            if source == "lost":
                raise LookupError("no such frame\nat all")
            half = np.sqrt(0.5)
            # The optical axes of a level camera that looks along x, 1.3 m up: (x, y, z, w).
            return SimpleNamespace(
                transform=SimpleNamespace(
                    translation=SimpleNamespace(x=0.5, y=0.0, z=1.3),
                    rotation=SimpleNamespace(x=-0.5, y=0.5, z=-0.5, w=0.5),
                ),
                half=half,
            )

    listening = []

    class TransformListener:
        def __init__(self, buffer, node):
            listening.append(node)

        def unregister(self):
            listening.clear()

    module = ModuleType("tf2_ros")
    module.Buffer, module.TransformListener = Buffer, TransformListener
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    settings = Parameters(ground_frame="base_footprint", camera_poses=("b: 2 0 0",))
    poses = CameraPoses("node", Parameters(**vars(settings) | {"cameras": ("a", "b")}))
    assert listening == ["node"]
    plane = poses.plane("a", "front_optical", 0)
    assert asked == [("base_footprint", "front_optical", 0)]
    np.testing.assert_allclose(plane.normal, (0, 1, 0), atol=1e-12)
    assert plane.height == 1.3
    assert poses.plane("b", "anything", 0) == plane_of_pose(2, 0, 0)
    with pytest.raises(GroundError, match="tf2 has no base_footprint -> lost: no such frame at"):
        poses.plane("a", "lost", 0)
    poses.close()
    assert not listening


def test_a_depth_topic_of_another_type_is_named():
    """Without a graph: a node that knows of one publisher."""
    types = ["sensor_msgs/msg/CompressedImage"]
    node = SimpleNamespace(
        resolve_topic_name=lambda name: f"/{name}",
        get_publishers_info_by_topic=lambda _: [SimpleNamespace(topic_type=t) for t in types],
    )
    depth = DepthInput(node, "depth/image")
    said = "/depth/image is published as sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/"
    with pytest.raises(DepthError, match=f"^{said}Image$"):
        depth.at(Time(), (3, 2))
    types.append("sensor_msgs/msg/Image")
    with pytest.raises(DepthError, match="no depth image, expected one of the same stamp"):
        depth.at(Time(), (3, 2))


def test_depth_in_meters_and_what_is_none():
    values = np.array([[0.5, np.nan, 0], [np.inf, -1, 3]], ">f4")
    fields = {"encoding": "32FC1", "width": 3, "height": 2, "step": 12, "is_bigendian": 1}
    message = SimpleNamespace(**fields, data=values.tobytes())
    expected = [[0.5, np.nan, np.nan], [np.nan, np.nan, 3]]
    np.testing.assert_array_equal(meters(message, (3, 2)), np.array(expected, np.float32))
    for changes, text in (
        ({"encoding": "mono8"}, "encoding is 'mono8', expected one of 16UC1"),
        ({"width": 4}, "depth is 4x2, expected 3x2: registered"),
        ({"data": b"123"}, "data is 3 bytes in rows of 12, expected 2 rows of 12 or more"),
        ({"step": 3}, "in rows of 3"),
    ):
        with pytest.raises(DepthError, match=text):
            meters(SimpleNamespace(**vars(message) | changes), (3, 2))
    assert parse_depth_topics(["a: /d/image"], ["a"]) == {"a": "/d/image"}
    with pytest.raises(ValueError, match="depth topic 'a:': expected"):
        parse_depth_topics(["a:"], ["a"])


def test_tf2_where_it_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with pytest.raises(ValueError, match="ground_frame: 'base_link' needs tf2_ros, which is not"):
        CameraPoses(None, Parameters(ground_frame="base_link"))


def test_the_buffer_keeps_its_memory_and_follows_the_size():
    buffer = CloudBuffer()
    first = buffer.memory((4, 3))
    first["x"] = 5
    message = buffer.fill(Header(frame_id="a"))
    assert buffer.memory((4, 3)) is first
    np.testing.assert_array_equal(pixels_of(message)["x"], np.full((3, 4), 5))
    buffer.memory((2, 2))["z"] = 1
    message = buffer.fill(Header(frame_id="b"))
    assert (message.width, message.height, len(message.data)) == (2, 2, 4 * 16)
    assert message.header.frame_id == "b" and not message.is_dense
    mask, _ = tiny_answer(np.zeros((1, 2, 2, 3), np.uint8))
    assert mask.shape == (1, 2, 2)
