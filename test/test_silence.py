"""What the node says over a real graph when nothing arrives, or nothing useful."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

from rclpy import get_rmw_implementation_identifier
from ros_graph import ENVIRONMENT, Program, image_message
from running_node import STALE, WARN, camera, publish_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String

pytest_plugins = ["running_node"]  # fixtures


def says(ros, text: str, topic: str = "/image_raw") -> bool:
    return ros.spin_until(lambda: text in ros.status(topic)[1])


def test_a_publisher_whose_frames_do_not_arrive_points_to_the_causes(ros, start):
    start()
    ros.collect(Image, "segmentation/mask")
    camera(ros)
    assert says(ros, "/tester publishes /image_raw, but no frame arrives"), ros.statuses
    level, text, _ = ros.status("/image_raw")
    assert level == STALE
    if "fastrtps" in get_rmw_implementation_identifier():
        assert "fastdds_shm" in text and "--ipc=host" in text and "--shm-size" in text
    else:
        assert "fastdds" not in text.lower()


DRIVER = """
import time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node("driver", namespace="/cam")
qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
publisher = node.create_publisher(Image, "/image_raw", qos)
message = Image(encoding="rgb8", height=2160, width=3840, step=11520)
message.data.frombytes(bytes(2160 * 11520))
while True:
    publisher.publish(message)
    time.sleep(0.1)
"""


@pytest.mark.skipif(
    "fastrtps" not in get_rmw_implementation_identifier(), reason="a default of Fast DDS"
)
def test_a_driver_without_the_profile_is_told_of_it(ros, start, tmp_path, monkeypatch):
    """Its images do not fit the shared memory that Fast DDS gives it, and go by UDP fragments: of
    one of 25 MB some are lost for certain, of a 1920x1080 image not always."""
    start()
    ros.collect(Image, "segmentation/mask")
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delitem(ENVIRONMENT, name, raising=False)
    driver = Program([], tmp_path / "driver.log", command=[sys.executable, "-c", DRIVER])
    try:
        assert says(ros, "/cam/driver publishes /image_raw, but no frame arrives"), ros.statuses
        assert "fastdds_shm" in ros.status("/image_raw")[1]
    finally:
        driver.end()


def test_a_camera_that_stops_sending_points_to_the_causes_too(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    assert publish_until(ros, camera(ros), image_message(scene), lambda: masks)
    assert says(ros, "/tester publishes /image_raw, but no frame arrives"), ros.statuses


def test_each_camera_says_what_is_wrong_with_its_frames(ros, start, scene):
    """A throttle for all cameras together would let only the first of them speak."""
    expected = {
        "a": "size is 0x0, expected 1 to 16384 pixels a side",
        "b": "encoding is 'RGB8', expected one of rgb8",
        "c": "step is 5 bytes, expected at least 96 for 32 pixels of rgb8",
    }
    topics = [f"{name}/image_raw" for name in expected]
    program = start(cameras=f"[{', '.join(topics)}]")
    for name in expected:
        ros.collect(Image, f"{name}/segmentation/mask")
    publishers = [camera(ros, topic) for topic in topics]
    messages = [Image(encoding="rgb8"), image_message(scene), image_message(scene)]
    messages[1].encoding, messages[2].step = "RGB8", 5

    def are_told() -> bool:
        for publisher, message in zip(publishers, messages, strict=True):
            publisher.publish(message)
        ros.spin(0.05)
        return all(
            text in ros.status(f"/{name}/image_raw")[1]
            and f"/{name}/image_raw: frame dropped: {text}" in program.output
            for name, text in expected.items()
        )

    assert ros.spin_until(are_told), (ros.statuses, program.output)


def test_a_transport_that_is_not_known_is_named(ros, start):
    start()
    ros.collect(Image, "segmentation/mask")
    ros.node.create_publisher(CompressedImage, "image_raw/compressedDepth", 10)
    text = (
        "nobody publishes /image_raw, but /image_raw/compressedDepth is published, which this node "
        "cannot decode: expected raw, compressed, zstd, ffmpeg"
    )
    assert says(ros, text), ros.statuses


def test_a_bag_without_simulated_time_is_called_that(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher, text = camera(ros), "stamps are of another clock"
    message = image_message(scene, stamp=(1_600_000_000, 0))
    assert publish_until(
        ros, publisher, message, lambda: masks and text in ros.status("/image_raw")[1]
    )
    level, text, _ = ros.status("/image_raw")
    assert level == WARN
    assert "set use_sim_time and publish /clock" in text and "budget" not in text


def test_seconds_since_boot_are_called_that(ros, start, scene):
    start()
    ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    message = image_message(scene, stamp=(4321, 500_000_000))
    text = "the newest is 4321.5 s, as if counted from the start of the camera or its computer"
    assert publish_until(ros, publisher, message, lambda: text in ros.status("/image_raw")[1])


def test_simulated_time_with_a_camera_that_has_none_is_called_that(ros, start, scene):
    start(use_sim_time=True)
    ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    message = image_message(scene, stamp=(1_600_000_000, 0))
    text = "the node has use_sim_time, the camera has not, or nobody publishes /clock"
    assert publish_until(ros, publisher, message, lambda: text in ros.status("/image_raw")[1])


@pytest.mark.parametrize("is_there", [False, True], ids=["no topic", "silent topic"])
def test_a_calibration_that_never_comes_is_named_while_somebody_listens(
    ros, start, scene, is_there
):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher, message = camera(ros), image_message(scene)
    if is_there:
        camera(ros, "camera_info", CameraInfo)
    text = (
        "somebody subscribes to /segmentation/camera_info, but /camera_info brings no calibration"
    )
    assert publish_until(ros, publisher, message, lambda: masks)
    publish_until(ros, publisher, message, lambda: False, timeout=4.0)
    assert text not in ros.status("/image_raw")[1], "nobody listens for it yet"
    listener = ros.node.create_subscription(
        CameraInfo, "segmentation/camera_info", lambda message: None, 1
    )
    assert publish_until(ros, publisher, message, lambda: text in ros.status("/image_raw")[1])
    ros.node.destroy_subscription(listener)
    assert publish_until(ros, publisher, message, lambda: text not in ros.status("/image_raw")[1])


@pytest.mark.parametrize("topic", ["camera_info", "depth/image"])
def test_a_calibration_or_depth_of_another_type_is_named(ros, start, scene, topic):
    program = start(depth_topics=["image_raw: depth/image"])
    expected = "CameraInfo" if topic == "camera_info" else "Image"
    ros.collect(PointCloud2, "segmentation/ground_points")
    publisher, message = camera(ros), image_message(scene)
    infos = camera(ros, "camera_info", CameraInfo) if topic != "camera_info" else None
    ros.node.create_publisher(String, topic, 1)
    height, width = scene.shape[:2]
    info = CameraInfo(width=width, height=height, k=[50.0, 0, 32, 0, 50, 24, 0, 0, 1])

    def said() -> bool:
        if infos:
            infos.publish(info)
        text = f"/{topic} is published as std_msgs/msg/String, expected sensor_msgs/msg/{expected}"
        return text in ros.status("/image_raw")[1] and text in program.output

    assert publish_until(ros, publisher, message, said), (ros.statuses, program.output)


def test_two_nodes_of_one_name_are_named(ros, start):
    programs = start(), start()
    text = "another node named /segment publishes /segmentation/mask and "
    assert says(ros, text), ros.statuses
    assert "more outputs too: stop one" in ros.status("/image_raw")[1]
    assert "-r __node:=NAME" in ros.status("/image_raw")[1]
    programs[1].end()
    assert ros.spin_until(lambda: text not in ros.status("/image_raw")[1])


def test_another_node_that_publishes_an_output_is_named(ros, start):
    start()
    ros.node.create_publisher(Image, "segmentation/mask", 1)
    assert says(ros, "node /tester publishes /segmentation/mask too: stop one"), ros.statuses


def test_twelve_bits_in_sixteen_are_said_once(ros, start):
    program = start()
    masks = ros.collect(Image, "segmentation/mask")
    values = np.random.default_rng(0).integers(0, 4096, (24, 32)).astype("<u2")
    message = Image(encoding="mono16", height=24, width=32, step=64)
    message.data.frombytes(values.tobytes())
    publisher = camera(ros)
    text = "/image_raw: mono16 images are nearly black"
    assert publish_until(ros, publisher, message, lambda: text in program.output)
    masks.clear()
    assert publish_until(ros, publisher, message, lambda: len(masks) > 20)
    assert program.output.count(text) == 1
    assert "as 12 bits in 16 give" in program.output
