"""What the node subscribes to over a real graph: transports, types and QoS as they are offered."""

from __future__ import annotations

import struct
import zlib
from itertools import cycle

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

import cv2
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import image_message
from running_node import OK, STALE, camera, pixels_of, publish_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tiny_model import tiny_answer

pytest_plugins = ["running_node"]  # fixtures

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def compressed_message(pixels: np.ndarray) -> CompressedImage:
    message = CompressedImage(format="rgb8; png compressed bgr8")
    message.header.frame_id = "compressed"
    message.data.frombytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    return message


def zstd_message(pixels: np.ndarray, compress=zlib.compress) -> CompressedImage:
    """As zstd_image_transport packs an rgb8 Image."""
    height, width, _ = pixels.shape
    head = struct.pack("<IIBII", height, width, 0, 3 * width, 4) + b"rgb8"
    message = CompressedImage(format="zstd")
    message.data.frombytes(head + compress(pixels.tobytes()))
    return message


def check_masks(masks: list[Image], scene: np.ndarray) -> None:
    np.testing.assert_array_equal(pixels_of(masks[-1]), tiny_answer(scene[None])[0][0])


# Transports


@pytest.mark.parametrize(
    ("cameras", "topic", "make"),
    [
        ("image_raw", "image_raw", image_message),
        ("image_raw", "image_raw", compressed_message),
        ("image_raw", "image_raw/compressed", compressed_message),
        ("image_raw", "image_raw/zstd", zstd_message),
        ("image_raw/compressed", "image_raw/compressed", compressed_message),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_images_are_taken_as_they_are_published(ros, start, scene, cameras, topic, make):
    """By default, and with the outputs beside the camera, whatever the transport."""
    start(cameras=f"[{cameras}]")
    masks = ros.collect(Image, "segmentation/mask")
    message = make(scene)
    publisher = camera(ros, topic, type(message))
    assert publish_until(ros, publisher, message, lambda: masks)
    check_masks(masks, scene)


def test_raw_images_are_preferred_whatever_is_seen_first(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    compressed = camera(ros, "image_raw/compressed", CompressedImage)
    raw = camera(ros)
    message = image_message(scene, frame_id="raw")
    assert publish_until(ros, raw, message, lambda: not compressed.get_subscription_count())
    assert publish_until(
        ros,
        raw,
        message,  # several in a row: after a pause of 2 s, the node looks for another transport
        lambda: [mask.header.frame_id for mask in masks[-5:]] == ["raw"] * 5,
        also=(compressed, compressed_message(scene)),
    )


def test_a_driver_that_restarts_with_another_transport_is_followed(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    for topic, message in [
        ("image_raw", image_message(scene)),
        ("image_raw/compressed", compressed_message(scene)),
        ("image_raw", compressed_message(scene)),
        ("image_raw", image_message(scene)),
    ]:
        publisher = camera(ros, topic, type(message))
        masks.clear()
        assert publish_until(ros, publisher, message, lambda: masks), topic
        check_masks(masks, scene)
        ros.node.destroy_publisher(publisher)


def test_a_stream_that_brings_no_frames_gives_way_to_one_that_does(ros, start, scene):
    """As that of a driver that was killed, which stays in the graph for a while."""
    start()
    masks = ros.collect(Image, "segmentation/mask")
    camera(ros)
    compressed = ros.node.create_publisher(CompressedImage, "image_raw/compressed", 10)
    assert publish_until(ros, compressed, compressed_message(scene), lambda: masks)


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_transport_that_is_published_instead_is_named(ros, start, transport):
    start(image_transport=transport)
    ros.collect(Image, "segmentation/mask")
    other = "compressed" if transport == "raw" else "raw"
    kinds = {"raw": (Image, "/image_raw"), "compressed": (CompressedImage, "/image_raw/compressed")}
    ros.node.create_publisher(*kinds[other], 10)
    asked, published = kinds[transport][1], kinds[other][1]
    expected = (
        f"nobody publishes {asked}, but {published} is published: set image_transport to {other} "
        "or auto"
    )
    assert ros.spin_until(lambda: expected in ros.status(asked)[1]), ros.statuses
    assert ros.status(asked)[0] == STALE


def test_a_transport_of_a_topic_that_ends_in_it_already_is_that_one(ros, start, scene):
    start(cameras="[image_raw/compressed]", image_transport="compressed")
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros, "image_raw/compressed", CompressedImage)
    assert publish_until(ros, publisher, compressed_message(scene), lambda: masks)


def test_raw_from_a_topic_that_ends_in_another_transport_is_named(ros, start):
    start(cameras="[image_raw/compressed]", image_transport="raw")
    ros.node.create_publisher(CompressedImage, "image_raw/compressed", 10)
    expected = (
        "/image_raw/compressed is published as sensor_msgs/msg/CompressedImage, expected "
        "sensor_msgs/msg/Image; image_transport: auto takes every image type"
    )
    topic = "/image_raw/compressed"
    assert ros.spin_until(lambda: expected in ros.status(topic)[1]), ros.statuses


# Quality of service


def test_a_calibration_that_is_latched_before_the_node_starts_is_used(ros, start, scene):
    latched = ros.node.create_publisher(CameraInfo, "camera_info", LATCHED)
    latched.publish(CameraInfo(width=32, height=24, k=[30.0, 0, 16, 0, 30, 12, 0, 0, 1]))
    start()
    calibrations = ros.collect(CameraInfo, "segmentation/camera_info")
    assert publish_until(ros, camera(ros), image_message(scene), lambda: calibrations)
    assert calibrations[0].k[0] == 30.0


def test_a_calibration_that_is_latched_while_the_node_runs_is_used(ros, start, scene):
    """Its publisher comes later than the subscription, or in place of one that does not latch."""
    start()
    calibrations = ros.collect(CameraInfo, "segmentation/camera_info")
    publisher = camera(ros)
    before = camera(ros, "camera_info", CameraInfo)
    ros.node.destroy_publisher(before)
    latched = ros.node.create_publisher(CameraInfo, "camera_info", LATCHED)
    latched.publish(CameraInfo(width=32, height=24, k=[30.0, 0, 16, 0, 30, 12, 0, 0, 1]))
    assert publish_until(ros, publisher, image_message(scene), lambda: calibrations)


def test_a_picture_that_is_latched_before_the_node_starts_is_segmented(ros, start, scene):
    latched = ros.node.create_publisher(Image, "image_raw", LATCHED)
    latched.publish(image_message(scene))
    start()
    masks = ros.collect(Image, "segmentation/mask")
    assert ros.spin_until(lambda: masks)
    check_masks(masks, scene)


def test_a_publisher_that_does_not_latch_is_heard_beside_one_that_does(ros, start, scene):
    start()
    calibrations = ros.collect(CameraInfo, "segmentation/camera_info")
    publisher = camera(ros)
    ros.node.create_publisher(CameraInfo, "camera_info", LATCHED)
    volatile = ros.node.create_publisher(CameraInfo, "camera_info", 10)
    info = (volatile, CameraInfo(width=32, height=24, k=[30.0, 0, 16, 0, 30, 12, 0, 0, 1]))
    assert publish_until(ros, publisher, image_message(scene), lambda: calibrations, also=info)


def test_the_qos_of_the_calibration_can_be_overridden(ros, start, scene):
    name = "qos_overrides./camera_info.subscription."
    program = start(
        "-p", f"{name}durability:=transient_local", "-p", f"{name}reliability:=reliable"
    )
    ros.collect(CameraInfo, "segmentation/camera_info")
    camera(ros, "camera_info", CameraInfo, LATCHED)

    def profiles() -> list[QoSProfile]:
        return [
            info.qos_profile
            for info in ros.node.get_subscriptions_info_by_topic("/camera_info")
            if info.node_name == "segment"
        ]

    assert ros.spin_until(profiles)  # a subscription is discovered before the name of its node
    (found,) = profiles()
    assert found.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert found.reliability == ReliabilityPolicy.RELIABLE
    assert "unknown" not in program.output


# Several cameras


def test_outputs_below_each_camera_of_one_namespace(ros, start, scene):
    start(cameras="[stereo/left_image, stereo/right_image]", outputs="below")
    publishers = {name: f"stereo/{name}_image" for name in ("left", "right")}
    masks = {
        name: ros.collect(Image, f"{topic}/segmentation/mask") for name, topic in publishers.items()
    }
    calibrations = {
        name: ros.collect(CameraInfo, f"{topic}/segmentation/camera_info")
        for name, topic in publishers.items()
    }
    # Both publish their calibration on the topic beside them, which is one.
    shared = camera(ros, "stereo/camera_info", CameraInfo)
    infos = []
    for focal, name in enumerate(publishers, start=1):
        infos.append(CameraInfo(width=32, height=24, k=[float(focal), 0, 16, 0, 30, 12, 0, 0, 1]))
        infos[-1].header.frame_id = name
    turns = cycle(infos)
    for focal, (name, topic) in enumerate(publishers.items(), start=1):
        message = image_message(scene, frame_id=name)
        publisher = camera(ros, topic)

        def both(name=name, publisher=publisher, message=message) -> bool:
            shared.publish(next(turns))
            publisher.publish(message)
            return ros.spin_until(lambda: calibrations[name] and masks[name], 0.05)

        assert ros.spin_until(both)
        assert {mask.header.frame_id for mask in masks[name]} == {name}
        assert {info.k[0] for info in calibrations[name]} == {focal}


@pytest.mark.parametrize("cameras", ["[stereo/left, stereo/right]", "[/cam_front, /cam_rear]"])
def test_cameras_of_one_namespace_are_told_how_to_share_it(start, cameras):
    program = start(cameras=cameras)
    assert program.wait() == 1
    (line,) = program.output.splitlines()
    assert "expected outputs:=below, which puts them below each camera's own topic" in line


def test_all_is_well_with_a_camera_that_is_found(ros, start, scene):
    start()
    fractions = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    message = image_message(scene)
    message.header.stamp = ros.node.get_clock().now().to_msg()

    def fine() -> bool:
        message.header.stamp = ros.node.get_clock().now().to_msg()
        return bool(fractions) and ros.status("/image_raw")[0] == OK

    assert publish_until(ros, publisher, message, fine), ros.status("/image_raw")
    assert ros.status("/image_raw")[2]["images"] == "raw /image_raw"
