"""The node over a real ROS graph: its process as users start it, and a node that talks to it."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

import cv2
import rclpy
from bisenetv2_ros.msg import ClassFractions
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from long_run import long_or_short
from patience import HANG
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.lifecycle import TransitionCallbackReturn as Outcome
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from ros_graph import BEST_EFFORT, DOMAIN, Program, dds_memory, image_message
from rosgraph_msgs.msg import Clock
from running_node import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    ERROR,
    OK,
    SHUTDOWN,
    STALE,
    WARN,
    camera,
    change_state,
    end_well,
    of,
    pixels_of,
    publish_until,
    set_parameter,
    state,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool
from tiny_model import tiny_answer, write_tiny_model
from trouble_model import FAILURE, HANGING, seconds_to_blue

from bisenetv2_ros.benchmark.ros_graph import resident_memory
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.node.camera_input import CameraInput
from bisenetv2_ros.node.inference import Inference
from bisenetv2_ros.node.intake import RateLimit
from bisenetv2_ros.node.lifecycle import transition
from bisenetv2_ros.node.segment_node import SegmentNode
from bisenetv2_ros.node.state import NodeState

pytest_plugins = ["running_node"]  # fixtures


# What comes out


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_output_of_a_frame(ros, start, scene, backend):
    pytest.importorskip(backend)
    start(overlay_opacity=0.25, backend=backend)
    kinds = {
        "mask": Image,
        "color_mask": Image,
        "overlay": Image,
        "confidence": Image,
        "class_fractions": ClassFractions,
        "camera_info": CameraInfo,
    }
    got = {name: ros.collect(kind, f"segmentation/{name}") for name, kind in kinds.items()}
    publisher = camera(ros)
    info = CameraInfo(width=32, height=24, k=[30.0, 0, 16, 0, 30, 12, 0, 0, 1])
    calibrator = camera(ros, "camera_info", CameraInfo)
    message = image_message(scene, stamp=(1234, 5678), frame_id="front_camera")
    assert publish_until(
        ros, publisher, message, lambda: all(got.values()), also=(calibrator, info)
    ), f"missing: {[name for name in got if not got[name]]}"
    for name, messages in got.items():
        assert messages[0].header == message.header, f"{name} changed the camera's header"
    answer, certainty = (image[0] for image in tiny_answer(scene[None]))
    for name in ("mask", "confidence"):
        first = got[name][0]
        assert (first.encoding, first.step, len(first.data)) == ("mono8", 32, 32 * 24)
    np.testing.assert_array_equal(pixels_of(got["mask"][0]), answer)
    np.testing.assert_array_equal(pixels_of(got["confidence"][0]), certainty)
    colours = np.array(CAMVID.palette, np.uint8)[answer]
    np.testing.assert_array_equal(pixels_of(got["color_mask"][0]), colours)
    blend = 0.75 * scene + 0.25 * colours
    assert np.abs(pixels_of(got["overlay"][0]) - blend).max() <= 1
    fractions = got["class_fractions"][0]
    assert [entry.class_name for entry in fractions.classes] == list(CAMVID.names)
    assert [entry.pixel_count for entry in fractions.classes] == np.bincount(
        answer.ravel(), minlength=len(CAMVID)
    ).tolist()
    assert (fractions.model, fractions.width, fractions.height) == ("tiny", 32, 24)
    assert fractions.latency > 1e6  # the stamp is of 1970
    assert 0 < fractions.inference_time < HANG
    calibration = got["camera_info"][0]
    assert (calibration.width, calibration.height, calibration.k[0]) == (32, 24, 30.0)


@pytest.mark.parametrize(
    ("stamp", "check"),
    [
        ((0, 0), math.isnan),
        ((2**31 - 1, 0), math.isnan),
        (None, lambda latency: 0 < latency < HANG),
    ],
    ids=["no stamp", "a stamp in the future", "now"],
)
def test_latency_is_never_negative(ros, start, scene, stamp, check):
    start()
    fractions = ros.collect(ClassFractions, "segmentation/class_fractions")
    publisher = camera(ros)
    message = image_message(scene, stamp=stamp or (0, 0))
    while not fractions:
        if stamp is None:
            message.header.stamp = ros.node.get_clock().now().to_msg()
        publisher.publish(message)
        ros.spin_until(lambda: fractions, 0.1)
    assert check(fractions[0].latency), fractions[0].latency


def test_masks_of_the_cameras_size(ros, start, scene):
    start(mask_size="camera")
    large = cv2.resize(scene, (64, 48), interpolation=cv2.INTER_NEAREST)
    masks = ros.collect(Image, "segmentation/mask")
    calibrations = ros.collect(CameraInfo, "segmentation/camera_info")
    info = (camera(ros, "camera_info", CameraInfo), CameraInfo(width=64, height=48))
    assert publish_until(
        ros, camera(ros), image_message(large), lambda: masks and calibrations, also=info
    )
    assert (masks[0].width, masks[0].height) == (64, 48)
    assert (calibrations[0].width, calibrations[0].height) == (64, 48)


def test_a_calibration_of_another_size_is_not_passed_on(ros, start, scene):
    program = start()
    masks = ros.collect(Image, "segmentation/mask")
    calibrations = ros.collect(CameraInfo, "segmentation/camera_info")
    info = (camera(ros, "camera_info", CameraInfo), CameraInfo(width=640, height=480))
    reason = "camera_info is for 640x480 pixels, expected 32x24"
    assert publish_until(
        ros,
        camera(ros),
        image_message(scene),
        lambda: masks and reason in program.output,
        also=info,
    )
    assert not calibrations


def test_compressed_images(ros, start, scene):
    start(image_transport="compressed")
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros, "image_raw/compressed", CompressedImage)
    png = cv2.imencode(".png", scene[..., ::-1])[1].tobytes()
    message = CompressedImage(format="rgb8; png compressed bgr8")
    message.data.frombytes(png)
    assert publish_until(ros, publisher, message, lambda: masks)
    np.testing.assert_array_equal(pixels_of(masks[0]), tiny_answer(scene[None])[0][0])


def test_bgr_and_padded_rows(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    padded = np.zeros((24, 100), np.uint8)
    padded[:, :96] = scene[..., ::-1].reshape(24, 96)
    message = Image(encoding="bgr8", height=24, width=32, step=100)
    message.data.frombytes(padded.tobytes())
    assert publish_until(ros, publisher, message, lambda: masks)
    np.testing.assert_array_equal(pixels_of(masks[0]), tiny_answer(scene[None])[0][0])


def test_label_info_is_there_for_late_subscribers(ros, start, scene):
    messages = pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs, from ROS's apt")
    start()
    masks = ros.collect(Image, "segmentation/mask")
    assert publish_until(ros, camera(ros), image_message(scene), lambda: masks)
    latched = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = ros.collect(messages.LabelInfo, "segmentation/label_info", latched)
    assert ros.spin_until(lambda: infos)
    entries = [(entry.class_id, entry.class_name) for entry in infos[0].class_map]
    assert entries == list(enumerate(CAMVID.names))


def test_two_cameras_are_both_served_beside_their_images(ros, start, scene):
    start(cameras="[front/image_raw, rear/image_raw]")
    front = ros.collect(Image, "front/segmentation/mask")
    rear = ros.collect(Image, "rear/segmentation/mask")
    publishers = [camera(ros, "front/image_raw"), camera(ros, "rear/image_raw")]
    for publisher, name, masks in zip(publishers, ("front", "rear"), (front, rear), strict=True):
        message = image_message(scene, frame_id=name)
        assert publish_until(ros, publisher, message, lambda masks=masks: masks)
    assert {mask.header.frame_id for mask in front} == {"front"}
    assert {mask.header.frame_id for mask in rear} == {"rear"}


def test_remapping_the_image_topic_leaves_the_outputs_where_they_are(ros, start, scene):
    start("-r", "image_raw:=/driver/colour", "-r", "segmentation/mask:=/labels")
    masks = ros.collect(Image, "/labels")
    publisher = camera(ros, "/driver/colour")
    assert publish_until(ros, publisher, image_message(scene), lambda: masks)


@pytest.mark.parametrize("with_compressed", [False, True])
@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_cameras_that_are_swapped_by_remapping_stay_swapped(ros, transport, with_compressed):
    """Whether or not there are rules for the compressed topics as well."""
    ends = ["", "/compressed"] if with_compressed else [""]
    words = ["--ros-args"]
    for one, other in (("front", "rear"), ("rear", "front")):
        for end in ends:
            words += ["-r", f"{one}/image_raw{end}:={other}/image_raw{end}"]
    node = rclpy.create_node("swapped", context=ros.node.context, cli_args=words)
    try:
        camera = CameraInput(node, "front/image_raw", transport, lambda message: None)
        camera.open()
        expected = "/rear/image_raw" + ("/compressed" if transport == "compressed" else "")
        assert camera.topic == expected
        topics = {made.topic_name for _, made in camera._subscriptions.values()}
        assert topics == {expected, "/rear/camera_info"}
        kind = CompressedImage if transport == "compressed" else Image
        ros.node.create_publisher(kind, expected, 10)
        assert ros.spin_until(lambda: not camera.problems()), camera.problems()
    finally:
        node.destroy_node()


# What is not asked for is not done


def test_without_subscribers_nothing_is_segmented(ros, start, scene):
    """Nor received: the node subscribes to a camera while somebody listens."""
    start()
    publisher = ros.node.create_publisher(Image, "image_raw", 10)
    message = image_message(scene)
    idle = (OK, "idle: nobody subscribes to the outputs")
    assert ros.spin_until(lambda: ros.status("/image_raw")[:2] == idle), ros.status("/image_raw")
    publish_until(ros, publisher, message, lambda: False, timeout=1.5)
    level, text, values = ros.status("/image_raw")
    assert (level, text, values["frames received"], values["frames published"]) == (*idle, "0", "0")
    assert not publisher.get_subscription_count()
    masks: list[Image] = []
    listener = ros.node.create_subscription(Image, "segmentation/mask", masks.append, 1)
    assert publish_until(ros, publisher, message, lambda: masks)
    ros.node.destroy_subscription(listener)
    assert ros.spin_until(lambda: not publisher.get_subscription_count())
    assert ros.spin_until(lambda: ros.status("/image_raw")[:2] == idle), ros.status("/image_raw")


def test_the_first_mask_of_a_new_listener_is_of_the_first_or_second_frame(ros, start, scene):
    """From when it is discovered: the frames before that reach nobody, with or without a rest."""
    start()
    publisher = ros.node.create_publisher(Image, "image_raw", 10)
    assert ros.spin_until(lambda: ros.status("/image_raw")[1].startswith("idle"))
    for _ in range(3):
        masks: list[Image] = []
        listener = ros.node.create_subscription(Image, "segmentation/mask", masks.append, 1)
        matched = listener.handle.get_publisher_count
        assert ros.spin_until(matched)
        for frame in range(1, 20):
            ros.spin(0.5)  # a camera of 2 Hz
            if masks:
                break
            publisher.publish(image_message(scene, stamp=(frame, 0)))
        assert masks and masks[0].header.stamp.sec <= 2, masks
        ros.node.destroy_subscription(listener)
        assert ros.spin_until(lambda: not publisher.get_subscription_count())


def test_a_camera_with_region_limits_is_always_watched(ros, start, scene):
    start(regions="['all: 0 0, 1 0, 1 1, 0 1']", region_limits="['all: road < 0.5 WARN']")
    publisher = camera(ros)
    calibrator = camera(ros, "camera_info", CameraInfo)
    ros.spin(2.5)
    assert publisher.get_subscription_count() and calibrator.get_subscription_count()
    assert ros.call(SetBool, "segment/enable", data=False).success
    assert ros.spin_until(lambda: not publisher.get_subscription_count())


def test_a_disabled_node_lets_the_camera_rest(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    calibrator = camera(ros, "camera_info", CameraInfo)
    assert publish_until(ros, publisher, image_message(scene), lambda: masks)
    assert ros.call(SetBool, "segment/enable", data=False).success
    assert ros.spin_until(lambda: not publisher.get_subscription_count())
    assert ros.spin_until(lambda: not calibrator.get_subscription_count())
    assert ros.call(SetBool, "segment/enable", data=True).success
    masks.clear()
    assert publish_until(ros, publisher, image_message(scene), lambda: masks)


def test_outputs_can_be_switched_while_running(ros, start, scene):
    start(publish_overlay=False)
    masks = ros.collect(Image, "segmentation/mask")
    overlays = ros.collect(Image, "segmentation/overlay")
    publisher = camera(ros)
    message = image_message(scene)
    assert publish_until(ros, publisher, message, lambda: len(masks) > 5)
    assert not overlays
    assert set_parameter(ros, "publish_overlay", True).successful
    assert publish_until(ros, publisher, message, lambda: overlays)
    assert set_parameter(ros, "publish_mask", False).successful
    later = image_message(scene, stamp=(9, 0))
    overlays.clear()
    assert publish_until(ros, publisher, later, lambda: len(of(later, overlays)) > 10)
    assert not of(later, masks)


def test_enable_service_and_parameter_are_one(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    message = image_message(scene)
    assert publish_until(ros, publisher, message, lambda: masks)
    response = ros.call(SetBool, "segment/enable", data=False)
    assert (response.success, response.message) == (True, "disabled")
    later = image_message(scene, stamp=(9, 0))
    assert publish_until(
        ros,
        publisher,
        later,
        lambda: ros.status("/image_raw")[:2] == (OK, "disabled by parameter enabled"),
    )
    publish_until(ros, publisher, later, lambda: False, timeout=1.0)
    assert not of(later, masks)
    assert set_parameter(ros, "enabled", True).successful
    assert publish_until(ros, publisher, later, lambda: masks[-1].header == later.header)


@pytest.mark.parametrize("camera_rate", [21, 28, 39, 200])
def test_rate_limit_keeps_the_mean_rate_whatever_the_cameras_is(camera_rate):
    now = 1000.0
    limit = RateLimit(lambda: now)
    passed = 0
    for _ in range(10 * camera_rate):
        now += 1 / camera_rate
        passed += limit.passes(20.0)
    assert passed == pytest.approx(200, abs=3), "10 seconds at 20 Hz"
    now += 60
    assert sum(limit.passes(20.0) for _ in range(100)) <= 2, "a pause must not be caught up with"
    assert limit.passes(0.0)


@pytest.mark.parametrize("rates", [(0.01, 30.0), (0.01, 0.0, 30.0)])
def test_a_rate_that_is_raised_holds_at_once(rates):
    now = 1000.0
    limit = RateLimit(lambda: now)
    for rate in rates:
        limit.passes(rate), limit.passes(rate)  # the first two after a long time both pass
    now += 0.04
    assert limit.passes(rates[-1])


def test_max_rate_is_kept(ros, start, scene):
    start(max_rate=10.0)
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    message = image_message(scene, stamp=(0, 0))

    def count(name: str) -> int:
        return int(ros.status("/image_raw")[2].get(name, 0))

    began = time.monotonic()
    assert publish_until(
        ros,
        publisher,
        message,
        lambda: (
            len(masks) >= 30
            and count("dropped: max_rate") >= 30
            and ros.status("/image_raw")[0] in (OK, WARN)
        ),
        period=0.02,
    )
    # The mean rate over any machine's pauses; the first two frames both pass.
    assert len(masks) <= 2 + 10 * (time.monotonic() - began)
    assert "max_rate" not in ros.status("/image_raw")[1], "drops that were asked for are no fault"


# Parameters


def test_changes_out_of_range_are_refused_with_a_reason_and_harm_nothing(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    for name, value in [
        ("overlay_opacity", 1.5),
        ("overlay_opacity", math.nan),
        ("max_rate", -1.0),
        ("enabled", "yes"),
        ("model", "another.onnx"),
        ("no_such_parameter", 1),
    ]:
        result = set_parameter(ros, name, value)
        assert not result.successful, f"{name} = {value}"
        assert result.reason
    assert publish_until(ros, camera(ros), image_message(scene), lambda: masks)


def test_an_opacity_that_is_rounded_up_costs_no_frame(ros, start, scene):
    """rclpy takes what is within a millionth of the range."""
    start()
    overlays = ros.collect(Image, "segmentation/overlay")
    publisher = camera(ros)
    assert set_parameter(ros, "overlay_opacity", 1.0000005).successful
    assert publish_until(ros, publisher, image_message(scene), lambda: overlays)


def test_describe_is_the_manual(ros, start):
    start()
    names = ["overlay_opacity", "mask_size"]
    opacity, mask_size = ros.call(
        DescribeParameters, "segment/describe_parameters", names=names
    ).descriptors
    assert "Opacity" in opacity.description
    assert opacity.floating_point_range[0].to_value == 1.0
    assert mask_size.read_only
    assert mask_size.additional_constraints == "network or camera"


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"model": "none"}, r"model file .*/none\.onnx: No such file"),
        ({"backend": "abacus"}, r"abacus.*openvino.*onnxruntime"),
        ({"overlay_opacity": 2.0}, r"overlay_opacity: got 2\.0, expected a float from 0\.0 to 1"),
        ({"threads": "many"}, r"threads: got 'many', expected an integer"),
        ({"mask_size": "big"}, r"mask_size: got 'big', expected network or camera"),
        ({"overlay_opaque": 0.5}, r"overlay_opaque: unknown, did you mean overlay_opacity\?"),
        ({"cameras": "[a/one, a/two]"}, r"'a/one' and 'a/two' would share .*/a/segmentation/mask"),
        ({"cameras": "[a/one, /a/one]"}, r"'a/one' and '/a/one' would share .*/a/one"),
        ({"cameras": "['no topic']"}, r"cameras: .*no topic"),
        ({"cameras": "[a, b//c]"}, r"cameras: 'b//c' is no topic name: .*repeated '/'"),
        (
            {"qos_overrides./segmentation/mask.publisher.depth": "deep"},
            r"topic /segmentation/mask: .*'deep'.* expecting type 'INTEGER'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_configuration_ends_the_process_with_one_line(start, parameters, cause):
    program = start(**parameters)
    assert program.wait() == 1, program.output
    lines = program.output.splitlines()
    assert len(lines) == 1, program.output
    assert re.search(cause, lines[0]), lines[0]


def test_foreign_files_are_no_models(start, models, tmp_path):
    (models / "text.onnx").write_text("not a model")
    program = start(model="text")
    assert program.wait() == 1
    assert re.search(r"text\.onnx: .*no \(whole\) ONNX model", program.output), program.output


def test_unknown_key_in_a_parameter_file_is_named(start, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("segment:\n  ros__parameters:\n    max_rat: 5.0\n")
    program = start("--params-file", str(path))
    assert program.wait() == 1
    assert "parameter max_rat: unknown, did you mean max_rate?" in program.output


def test_shipped_parameter_file_is_taken(ros, start, scene):
    path = Path(__file__).resolve().parent.parent / "config" / "segment.yaml"
    start("--params-file", str(path), "-r", "__ns:=/robot")
    masks = ros.collect(Image, "/robot/segmentation/mask")
    publisher = camera(ros, "/robot/image_raw")
    assert publish_until(ros, publisher, image_message(scene), lambda: masks)


# Lifecycle


def test_lifecycle_works_in_every_order_and_again(ros, start, scene):
    program = start(autostart=False)
    masks = ros.collect(Image, "segmentation/mask")
    message = image_message(scene)
    publisher = ros.node.create_publisher(Image, "image_raw", 10)
    assert state(ros) == "unconfigured"
    for life in range(5):
        assert change_state(ros, CONFIGURE)
        assert change_state(ros, ACTIVATE)
        masks.clear()
        assert publish_until(ros, publisher, message, lambda: masks)
        assert change_state(ros, DEACTIVATE)
        assert ros.spin_until(lambda: not publisher.get_subscription_count())
        later = image_message(scene, stamp=(100 + life, 0))
        publish_until(ros, publisher, later, lambda: False, timeout=0.3)
        assert not of(later, masks), "an inactive node published"
        assert change_state(ros, ACTIVATE)
        assert publish_until(ros, publisher, message, lambda: masks)
        assert change_state(ros, DEACTIVATE)
        assert change_state(ros, CLEANUP)
        assert state(ros) == "unconfigured"
        assert ros.spin_until(lambda: ros.status("/segment")[2].get("state") == "unconfigured")
    assert not change_state(ros, ACTIVATE, timeout=3), "an unconfigured node cannot be activated"
    assert state(ros) == "unconfigured"
    assert change_state(ros, SHUTDOWN["unconfigured"])
    assert state(ros) == "finalized"
    assert ros.spin_until(lambda: ros.status("/segment")[1] == "finalized")
    assert program.process.poll() is None


@contextmanager
def node_here(models, *arguments: str) -> Iterator[SegmentNode]:
    """The node in this process; its callbacks are called by the test alone."""
    words = ["--ros-args", "-p", f"model:={models}/tiny.onnx", "-p", "backend:=onnxruntime"]
    words += arguments
    rclpy.init(args=words, domain_id=DOMAIN, signal_handler_options=SignalHandlerOptions.NO)
    try:
        made = SegmentNode()
        try:
            yield made
        finally:
            made.close()
            made.destroy_node()
    finally:
        rclpy.shutdown()


@pytest.fixture
def node(models):
    with node_here(models) as made:
        yield made


def test_a_model_that_cannot_be_freed_leaves_a_node_that_can_be_configured(node, monkeypatch):
    def stuck() -> None:
        raise RuntimeError("the library is stuck")

    assert node.trigger_configure() == Outcome.SUCCESS
    monkeypatch.setattr(node.state.segmenter, "close", stuck)
    assert node.trigger_cleanup() == Outcome.FAILURE
    assert [status.message for status in node._reporter.statuses()] == [
        "cannot cleanup: the library is stuck"
    ]
    assert node.trigger_activate() == Outcome.FAILURE
    assert node.state.refusal == "cannot activate: no model is loaded"
    assert node.trigger_cleanup() == Outcome.SUCCESS
    assert node.trigger_configure() == Outcome.SUCCESS
    assert node.trigger_activate() == Outcome.SUCCESS


def test_frames_that_wait_at_deactivation_are_counted(node, scene, monkeypatch):
    began, is_closed = threading.Event(), threading.Event()
    segment, close = Inference._segment, Inference.close

    def slow(*arguments):
        began.set()
        assert is_closed.wait(HANG)
        return segment(*arguments)

    def closing(*arguments):
        close(*arguments)
        is_closed.set()

    monkeypatch.setattr(Inference, "_segment", slow)
    monkeypatch.setattr(Inference, "close", closing)
    node.start()
    node._inference.put(0, image_message(scene))
    assert began.wait(HANG)
    node._inference.put(0, image_message(scene))
    assert node.trigger_deactivate() == Outcome.SUCCESS
    report = node.state.cameras[0].statistics.report()
    assert report.received == 2
    assert report.dropped == {"no_subscriber": 1, "deactivated": 1}


def test_without_memory_for_the_confidence_there_are_masks(node, scene, monkeypatch):
    assert node.trigger_configure() == Outcome.SUCCESS
    (camera,) = node.state.cameras
    infer, asked = node.state.segmenter.backend.infer, []

    def short_of_memory(images, confidence):
        asked.append(confidence)
        if confidence:
            raise RuntimeError("out of memory")
        return infer(images, confidence)

    monkeypatch.setattr(camera, "wanted", lambda settings: {"mask", "confidence"})
    monkeypatch.setattr(node.state.segmenter.backend, "infer", short_of_memory)
    inference = Inference(node, node.state)
    for _ in range(6):
        inference.process([(camera, image_message(scene))])
    assert camera.statistics.report().published == 6
    assert asked == [True] + 6 * [False]


def test_failed_configure_is_reported_and_can_be_tried_again(ros, start, models, scene):
    late = models / "late.onnx"
    program = start(autostart=False, model="late")
    assert not change_state(ros, CONFIGURE)
    assert state(ros) == "unconfigured"
    assert ros.spin_until(lambda: ros.status("/segment")[0] == ERROR)
    assert "late.onnx: No such file" in ros.status("/segment")[1]
    assert "late.onnx: No such file" in program.output
    write_tiny_model(late)
    assert change_state(ros, CONFIGURE)
    assert change_state(ros, ACTIVATE)
    masks = ros.collect(Image, "segmentation/mask")
    assert publish_until(ros, camera(ros), image_message(scene), lambda: masks)
    assert ros.spin_until(lambda: ros.status("/segment")[0] == OK)


def test_failed_configure_leaves_no_publishers_behind(ros, start):
    override = {"qos_overrides./segmentation/confidence.publisher.reliability": "maybe"}
    start(autostart=False, **override)
    assert not change_state(ros, CONFIGURE)
    assert ros.spin_until(lambda: ros.status("/segment")[0] == ERROR)
    assert ros.status("/segment")[1].startswith("cannot configure: topic /segmentation/confidence:")
    assert ros.spin_until(lambda: not ros.node.get_publishers_info_by_topic("segmentation/mask"))


# Faults


def test_bad_frames_are_dropped_and_counted_by_cause_and_the_next_good_one_is_answered(
    ros, start, scene
):
    program = start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    good = image_message(scene)
    assert publish_until(ros, publisher, good, lambda: masks)
    bad = {
        "encoding": Image(encoding="32FC1", width=2, height=2, step=8, data=bytes(16)),
        "size": Image(encoding="rgb8", width=0, height=0),
        "step": Image(encoding="rgb8", width=32, height=24, step=0, data=bytes(10)),
        "data_length": Image(encoding="rgb8", width=32, height=24, step=96, data=bytes(95)),
    }
    for cause, message in bad.items():
        message.header.stamp.sec = 9
        assert publish_until(
            ros,
            publisher,
            message,
            lambda cause=cause: int(ros.status("/image_raw")[2].get(f"dropped: {cause}", 0)) >= 3,
        ), f"{cause} was not counted: {ros.status('/image_raw')}"
        assert not of(message, masks), f"a mask came from a frame of bad {cause}"
    failed = publish_until(ros, publisher, message, lambda: ros.status("/image_raw")[0] == ERROR)
    assert failed, "no mask from the last frames"
    good = image_message(scene, stamp=(10, 0))
    assert publish_until(ros, publisher, good, lambda: of(good, masks))
    assert publish_until(ros, publisher, good, lambda: ros.status("/image_raw")[0] == WARN)
    assert "/image_raw: frame dropped: encoding is '32FC1', expected one of rgb8" in program.output


def test_at_twice_the_load_old_frames_are_replaced_and_counted(ros, start, models, scene):
    start(model="trouble")
    scene[0, 0, 2] = seconds_to_blue(models / "trouble.onnx", 0.2)
    fractions = ros.collect(ClassFractions, "segmentation/class_fractions")
    publisher = camera(ros)
    message = image_message(scene)
    assert publish_until(ros, publisher, message, lambda: len(fractions) > 4, period=0.3)
    period = np.median([entry.inference_time for entry in fractions]) / 2

    def publish(frames: int) -> None:
        for _ in range(frames):
            message.header.stamp = ros.node.get_clock().now().to_msg()
            publisher.publish(message)
            ros.spin(period)

    publish(10)
    fractions.clear()
    publish(60)
    ages = np.array([entry.latency for entry in fractions][1:])
    inferences = np.array([entry.inference_time for entry in fractions])
    # A frame waits for the end of the one before and then has its own inference: these take what
    # they take on this machine. A queue would add another one for each of its places.
    waited_for = inferences[1:] + inferences[:-1]
    assert np.median(ages / waited_for) < 1, f"{ages} s, {inferences} s each"

    def accounts() -> tuple[int, int, int]:
        names = ("frames received", "frames published", "dropped: replaced")
        values = ros.status("/image_raw")[2]
        return tuple(int(values.get(name, 0)) for name in names)

    def complete() -> bool:
        received, published, replaced = accounts()
        return received >= 60 and published + replaced == received

    while accounts()[0] < 60:  # some may be lost where nobody counts
        publish(10)
    assert ros.spin_until(complete), f"a frame was not accounted for: {accounts()}"
    assert accounts()[2] > 10, "the test made no overload"


def test_four_cameras_share_a_node_that_is_too_slow_for_them_fairly(ros, start, models, scene):
    topics = [f"camera{i}/image_raw" for i in range(4)]
    start(model="trouble", cameras=f"[{', '.join(topics)}]")
    scene[0, 0, 2] = seconds_to_blue(models / "trouble.onnx", 0.05)
    masks = [
        ros.collect(Image, topic.replace("image_raw", "segmentation/mask")) for topic in topics
    ]
    publishers = [camera(ros, topic) for topic in topics]
    message = image_message(scene)

    def publish() -> None:
        """A round for each mask: all cameras have a fresh frame whenever the node takes one."""
        for i, publisher in enumerate(publishers):
            for _ in range(3 if i == 0 else 1):  # the first is three times as fast
                publisher.publish(message)
        before = sum(map(len, masks))
        ros.spin_until(lambda: sum(map(len, masks)) > before, 0.5)

    deadline = time.monotonic() + HANG
    while not all(masks) and time.monotonic() < deadline:
        publish()
    for received in masks:
        received.clear()
    while sum(map(len, masks)) < 60 and time.monotonic() < deadline + HANG:
        publish()
    counts = [len(received) for received in masks]
    assert sum(counts) >= 60, counts
    assert min(counts) >= 0.8 * sum(counts) / 4, counts


def test_inference_that_keeps_failing_ends_the_process(ros, start, scene):
    program = start(model="trouble")
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    assert publish_until(ros, publisher, image_message(scene), lambda: masks)
    scene[0, 0, 2] = FAILURE
    assert publish_until(
        ros, publisher, image_message(scene), lambda: program.process.poll() is not None
    ), program.output
    assert program.wait() == 1
    assert "inference failed 5 times in a row" in program.output
    assert ros.spin_until(lambda: ros.status("/segment")[0] == ERROR), ros.statuses
    assert ros.status("/segment")[1].startswith("inference failed")


def test_single_failures_of_inference_are_survived(ros, start, scene):
    program = start(model="trouble")
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    good = image_message(scene)
    scene[0, 0, 2] = FAILURE
    bad = image_message(scene)

    def failures() -> int:
        return int(ros.status("/image_raw")[2].get("dropped: inference", 0))

    while failures() < 7:  # a frame may be replaced before it is looked at
        masks.clear()
        assert publish_until(ros, publisher, good, lambda: masks), program.output
        publisher.publish(bad)
        ros.spin(0.1)


def test_inference_that_hangs_is_noticed_said_and_does_not_keep_the_process(ros, start, scene):
    program = start(model="trouble", watchdog_timeout=0.3)
    ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    scene[0, 0, 2] = HANGING
    assert publish_until(
        ros, publisher, image_message(scene), lambda: ros.status("/segment")[0] == ERROR
    )
    assert "inference hangs" in ros.status("/segment")[1]
    assert ros.spin_until(lambda: "inference hangs" in program.output)
    assert set_parameter(ros, "overlay_opacity", 0.75).successful, "services wait for inference"
    end_well(program, signal.SIGINT)


def test_camera_that_stops_is_stale_in_time_and_recovers(ros, start, scene):
    program = start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    message = image_message(scene, stamp=(0, 0))
    period = 0.2

    def is_level(level: int):
        return lambda: ros.status("/image_raw")[0] == level

    assert publish_until(ros, publisher, message, is_level(OK), period=period)
    publish_until(ros, publisher, message, lambda: False, period=period, timeout=3.0)
    assert ros.spin_until(is_level(STALE))
    assert ros.spin_until(lambda: "-> STALE: no frame for" in program.output), program.output
    assert publish_until(ros, publisher, message, is_level(OK), period=period)
    assert masks


def test_diagnostics_come_once_a_second_whatever_happens(ros, start, scene):
    start("-p", "use_sim_time:=true", model="trouble")  # and nobody publishes /clock
    ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    publish_until(ros, publisher, image_message(scene), lambda: False, timeout=1.0)
    ros.status_times.clear()
    assert publish_until(ros, publisher, image_message(scene), lambda: len(ros.status_times) > 5)
    _, _, values = ros.status("/segment")
    assert values["state"] == "active"
    assert (values["backend"], values["model"]) == ("onnxruntime", "trouble")
    assert len(values["model sha256"]) == 64


def test_nodes_of_two_namespaces_on_one_camera_have_statuses_of_their_own(models):
    names = []
    for namespace in ("left", "right"):
        words = ("-r", f"__ns:=/{namespace}", "-r", "image_raw:=/camera/image_raw")
        with node_here(models, *words) as node:
            assert node.trigger_configure() == Outcome.SUCCESS
            names += [status.name for status in node._reporter.statuses()]
    assert names == [
        "left/segment: /left/segment",
        "left/segment: /camera/image_raw",
        "right/segment: /right/segment",
        "right/segment: /camera/image_raw",
    ]


def test_incompatible_qos_is_named_with_both_policies(ros, start, scene):
    program = start("-p", "qos_overrides./image_raw.subscription.reliability:=reliable")
    ros.collect(Image, "segmentation/mask")
    ros.node.create_publisher(Image, "image_raw", BEST_EFFORT)
    assert ros.spin_until(lambda: "incompatible QoS" in ros.status("/image_raw")[1])
    level, message, _ = ros.status("/image_raw")
    assert level == STALE
    assert "Best effort publisher and reliable subscription" in message
    assert ros.spin_until(lambda: "RELIABILITY" in program.output), program.output


def test_a_listener_that_asks_for_what_is_not_offered_is_named(ros, start, scene):
    start()
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    ros.collect(Image, "segmentation/mask", latched)
    assert ros.spin_until(
        lambda: "incompatible QoS on /segmentation/mask" in ros.status("/image_raw")[1]
    ), ros.status("/image_raw")


def test_a_qos_override_that_fits_no_topic_is_named(ros, start, scene):
    program = start("-p", "qos_overrides./image_row.subscription.reliability:=reliable")
    masks = ros.collect(Image, "segmentation/mask")
    assert publish_until(ros, camera(ros), image_message(scene), lambda: masks)
    assert (
        "parameter qos_overrides./image_row.subscription.reliability: unknown, did you mean "
        "qos_overrides./image_raw.subscription.reliability?"
    ) in program.output


def test_a_topic_of_another_type_is_named(ros, start):
    start(image_transport="raw")
    ros.node.create_publisher(CompressedImage, "image_raw", 10)
    assert ros.spin_until(
        lambda: (
            "/image_raw is published as sensor_msgs/msg/CompressedImage, expected "
            "sensor_msgs/msg/Image" in ros.status("/image_raw")[1]
        )
    ), ros.status("/image_raw")


# What else comes in over the graph


def test_stamps_that_jump_change_nothing_but_the_latency(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    fractions = ros.collect(ClassFractions, "segmentation/class_fractions")
    publisher = camera(ros)
    assert publish_until(ros, publisher, image_message(scene), lambda: masks and fractions)
    now = ros.node.get_clock().now().to_msg().sec
    for sec, nanosec in [
        (now, 0),
        (now - 10**6, 5),
        (now + 10**6, 0),
        (1, 0),
        (-(2**31), 0),
        (2**31 - 1, 2**32 - 1),
    ]:
        message = image_message(scene, stamp=(sec, nanosec))
        assert publish_until(
            ros,
            publisher,
            message,
            lambda header=message.header: (
                masks[-1].header == header and fractions[-1].header == header
            ),
        ), f"no answer to {sec} s"
        assert not fractions[-1].latency < 0, "NaN or the truth"
    assert publish_until(ros, publisher, message, lambda: ros.status("/image_raw")[0] in (OK, WARN))


def test_every_resolution_gets_its_own_mask_and_memory_stays(ros, start, scene):
    program = start(mask_size="camera")
    rng = np.random.default_rng(5)
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    assert publish_until(ros, publisher, image_message(scene), lambda: masks)

    def flip(numbers: range) -> None:
        for number in numbers:
            height, width = (int(side) for side in rng.integers(1, 400, 2))
            pixels = np.full((height, width, 3), [number % 11 * 16, 255, 0], np.uint8)
            message = image_message(pixels, stamp=(100 + number, 0))
            assert publish_until(
                ros,
                publisher,
                message,
                lambda header=message.header: masks[-1].header == header,
            )
            mask = masks[-1]
            assert (mask.width, mask.height, mask.step) == (width, height, width)
            assert set(mask.data) == {number % 11}, "pixels of another frame"

    flip(range(50))
    before = resident_memory(program.process.pid)
    flip(range(50, 150))
    assert resident_memory(program.process.pid) - before < 5e6


@pytest.mark.long_run
def test_memory_stays_flat_over_an_hour_of_frames(ros, start, scene):
    """50,000 frames with every output: an hour of 14 a second."""
    frames = long_or_short(50_000, 1000)
    program = start()
    seen: Counter[str] = Counter()
    for name in ("mask", "confidence", "color_mask", "overlay"):
        ros.node.create_subscription(
            Image, f"segmentation/{name}", lambda _, name=name: seen.update([name]), 10
        )
    publisher = camera(ros)
    message = image_message(scene)
    pid, begin = program.process.pid, 0
    for number in range(frames):
        assert publish_until(
            ros,
            publisher,
            message,
            lambda: seen["overlay"] > number,  # noqa: B023
            period=1,  # until when one counts as lost
        )
        if number == frames // 10:
            begin = resident_memory(pid)
    growth = (resident_memory(pid) - begin) / 1e6
    print(f"{frames} frames, {dict(seen)}: {begin / 1e6:.1f} MB and {growth:+.2f} MB")
    assert min(seen.values()) > 0.99 * frames, seen
    assert growth < 10


def test_simulated_time_that_stands_still_or_jumps_back(ros, start, scene):
    start("-p", "use_sim_time:=true")
    masks = ros.collect(Image, "segmentation/mask")
    fractions = ros.collect(ClassFractions, "segmentation/class_fractions")
    publisher = camera(ros)
    message = image_message(scene, stamp=(500, 0))
    assert publish_until(ros, publisher, message, lambda: masks and fractions), "no /clock yet"
    assert math.isnan(fractions[0].latency), "the frame comes from after now"
    clock = camera(ros, "/clock", Clock)
    for seconds, expected in [(510, 10.0), (20, math.nan), (502, 2.0)]:
        now = Clock(clock=Time(sec=seconds))
        assert publish_until(
            ros,
            publisher,
            message,
            lambda expected=expected: np.array_equal(
                fractions[-1].latency, np.float32(expected), equal_nan=True
            ),
            also=(clock, now),
        ), f"at {seconds} s latency is {fractions[-1].latency}, expected {expected}"
    assert publish_until(ros, publisher, message, lambda: ros.status("/image_raw")[0] == WARN)


def test_hostile_requests_do_not_end_the_node(ros, start, scene):
    """rclpy answers neither, and some versions of it let the exception out of `spin`."""
    program = start()
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    nothing = ParameterValue(type=200)
    for service, request in [
        (SetParameters, {"parameters": [Parameter(name="max_rate", value=nothing)]}),
        (SetParametersAtomically, {"parameters": [Parameter(name="", value=nothing)]}),
        (SetParameters, {"parameters": [Parameter(name="use_sim_time", value=nothing)]}),
        (DescribeParameters, {"names": ["", "\n", "x" * 10_000]}),
        (ListParameters, {"prefixes": ["x" * 10_000, ""], "depth": 2**64 - 1}),
        (ChangeState, {"transition": Transition(id=255, label="no such transition")}),
    ]:
        name = re.sub("(?<!^)([A-Z])", r"_\1", service.__name__).lower()
        ros.call(service, f"segment/{name}", timeout=1.0, **request)
        masks.clear()
        assert publish_until(ros, publisher, image_message(scene), lambda: masks), program.output
    assert set_parameter(ros, "use_sim_time", "perhaps").successful is False
    assert state(ros) == "active"


def test_hostile_calibrations_harm_no_mask(ros, start, scene):
    start()
    masks = ros.collect(Image, "segmentation/mask")
    ros.collect(CameraInfo, "segmentation/camera_info")
    publisher = camera(ros)
    calibrator = camera(ros, "camera_info", CameraInfo)
    largest = 2**32 - 1
    for info in [
        CameraInfo(),
        CameraInfo(width=largest, height=largest, binning_x=largest, binning_y=largest),
        CameraInfo(width=32, height=24, k=[math.nan] * 9, d=[math.inf] * 1000),
        CameraInfo(width=32, height=24, distortion_model="\0" * 1000),
    ]:
        masks.clear()
        assert publish_until(
            ros, publisher, image_message(scene), lambda: len(masks) > 3, also=(calibrator, info)
        )


FAULTY = """
import sys
from bisenetv2_ros.node import camera_input, camera_topics, inference
from bisenetv2_ros.node import segment_node as node

def fail_at_first(owner, name, after=0):
    real = getattr(owner, name)
    calls = 0
    def faulty(*args, **options):
        nonlocal calls
        calls += 1
        if after < calls <= after + 2:
            print("fault in", name, file=sys.stderr)
            raise KeyError(name)
        return real(*args, **options)
    setattr(owner, name, faulty)

fail_at_first(inference.LatestFrame, "put")
fail_at_first(inference.Inference, "_open")
fail_at_first(camera_topics.CameraTopics, "publish")
fail_at_first(camera_topics.CameraTopics, "follow", after=1)  # the first is of on_activate
fail_at_first(camera_topics, "output_problems")
fail_at_first(camera_input.CameraInput, "_keep_calibration")
fail_at_first(node.SegmentNode, "set_parameters")
sys.exit(node.main())
"""


def test_callbacks_that_raise_do_not_leave_spin(ros, models, scene, tmp_path):
    """The whole node with a fault nobody thought of in each of its callbacks, the first two times:
    frames, inference, the graph, diagnostics, calibration, service."""
    words = ["--ros-args", "-p", f"model:={models}/tiny.onnx", "-p", "backend:=onnxruntime"]
    program = Program(words, tmp_path / "node.log", command=[sys.executable, "-c", FAULTY])
    try:
        masks = ros.collect(Image, "segmentation/mask")
        publisher = camera(ros)
        info = (camera(ros, "camera_info", CameraInfo), CameraInfo(width=32, height=24))
        for number in (1, 2):
            while program.output.count("fault in set_parameters") < number:  # one may be lost
                assert ros.call(SetBool, "segment/enable", timeout=0.5, data=True) is None
        message = image_message(scene)
        assert publish_until(ros, publisher, message, lambda: masks, also=info), program.output
        assert ros.call(SetBool, "segment/enable", data=True).success
        assert ros.spin_until(lambda: program.output.count("fault in") == 14), program.output
        assert ros.spin_until(lambda: ros.status("/image_raw")[2].get("dropped: fault") == "4")
    finally:
        code, _ = program.end()
    assert code == 0, program.output
    faults = Counter(re.findall("fault in (\\w+)", program.output))
    assert set(faults.values()) == {2} and len(faults) == 7, faults
    assert "KeyError: '_open'" in program.output, "a fault is not hidden"


# Restarts


def test_cameras_and_listeners_come_and_go(ros, start, scene):
    program = start()
    message = image_message(scene)
    for _ in range(5):
        masks: list[Image] = []
        listener = ros.node.create_subscription(Image, "segmentation/mask", masks.append, 1)
        publisher = camera(ros)
        assert publish_until(ros, publisher, message, lambda masks=masks: masks)
        ros.node.destroy_publisher(publisher)
        ros.node.destroy_subscription(listener)
        assert ros.spin_until(lambda: ros.status("/image_raw")[0] == STALE)
    assert program.process.poll() is None


@pytest.mark.timeout(1800)
def test_a_hundred_lives_leave_nothing_behind(ros, start, scene):
    """configure, activate, a mask, deactivate, cleanup: no memory, thread, file or topic stays."""
    program = start(autostart=False)
    masks = ros.collect(Image, "segmentation/mask")
    publisher = ros.node.create_publisher(Image, "image_raw", 10)
    message = image_message(scene)

    process = Path(f"/proc/{program.process.pid}")

    def live(times: int) -> int:
        """The bytes resident after it."""
        for _ in range(times):
            assert change_state(ros, CONFIGURE)
            assert change_state(ros, ACTIVATE)
            masks.clear()
            assert publish_until(ros, publisher, message, lambda: masks, period=0.02)
            assert change_state(ros, DEACTIVATE)
            assert change_state(ros, CLEANUP)
        return resident_memory(program.process.pid)

    def entities() -> set[str]:
        topics = ros.node.get_publisher_names_and_types_by_node("segment", "/")
        return {topic for topic, _ in topics}

    def things() -> tuple[int, ...]:
        parts = ((process / "task").iterdir(), (process / "fd").iterdir())
        return (*(len(list(part)) for part in parts), len(dds_memory(program.process.pid)))

    at_first = live(20)
    assert ros.spin_until(lambda: "/segmentation/mask" not in entities())
    before, topics = things(), entities()
    growth = live(100) - at_first
    print(f"resident memory grew by {growth / 1e6:.2f} MB in 100 cycles")
    ros.spin_until(lambda: (things(), entities()) == (before, topics))
    assert (things(), entities()) == (before, topics), "threads, files, shared memory; topics"
    assert growth < 5e6


# Signals


@pytest.mark.parametrize(
    "by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda by: by.name
)
@pytest.mark.parametrize("moment", ["unconfigured", "inactive", "idle", "busy", "finalized"])
def test_signals_end_the_process_quickly_and_cleanly(ros, start, scene, models, by, moment):
    program = start(autostart=moment in ("idle", "busy"), model="trouble")
    if moment == "inactive":
        assert change_state(ros, CONFIGURE)
    if moment == "finalized":
        assert change_state(ros, SHUTDOWN["unconfigured"])
    if moment == "busy":
        masks = ros.collect(Image, "segmentation/mask")
        scene[0, 0, 2] = seconds_to_blue(models / "trouble.onnx", 0.1)
        assert publish_until(ros, camera(ros), image_message(scene), lambda: len(masks) > 2)
    expected = {"idle": "active", "busy": "active"}.get(moment, moment)
    assert ros.spin_until(lambda: ros.status("/segment")[0] != -1)
    assert state(ros) == expected
    end_well(program, by)


@pytest.mark.parametrize(
    "by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda by: by.name
)
@pytest.mark.parametrize("autostart", [True, False])
def test_signals_are_obeyed_while_the_model_is_loading(ros, start, models, by, autostart):
    pipe = models / "pipe.onnx"
    if not pipe.exists():
        os.mkfifo(pipe)  # reading blocks until somebody writes: a load that never ends
    program = start(autostart=autostart, model="pipe")
    if not autostart:
        client = ros.node.create_client(ChangeState, "segment/change_state")
        assert ros.spin_until(client.service_is_ready)
        client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
    writers: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # a pipe without a reader cannot be opened
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    try:
        assert ros.spin_until(is_read), program.output
        assert program.process.poll() is None, program.output
        end_well(program, by)
    finally:
        for writer in writers:
            os.close(writer)


@pytest.mark.parametrize("is_up", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("context is not valid"), KeyError("topic")])
def test_what_a_signal_interrupts_is_no_error(error, is_up):
    """After a signal rclpy's entities are invalid, so that the work of a transition fails."""
    lines: list[str] = []
    node = SimpleNamespace(
        context=SimpleNamespace(ok=lambda: is_up),
        get_logger=lambda: SimpleNamespace(error=lines.append),
        state=NodeState(),
    )

    def on_configure(node: object) -> None:
        raise error

    assert transition(on_configure)(node, None) == Outcome.FAILURE
    assert bool(lines) == is_up


@pytest.mark.long_run
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda by: by.name
)
@pytest.mark.parametrize("verb", ["segment", "camera", "demo"])
def test_two_signals_end_it_as_one_does(ros, models, tmp_path, verb, by):
    """`ros2 launch` passes on what the terminal has sent to its processes already."""
    words = {
        "segment": ["segment", "--ros-args", "-p", f"model:={models}/tiny.onnx"],
        "camera": ["camera", "--size", "64x48"],
        "demo": ["demo", "--model", models / "tiny.onnx", "--output", tmp_path / "demo"],
    }[verb]
    topic = {"segment": "segmentation/mask", "camera": "image_raw", "demo": "demo/image_raw"}[verb]
    for number in range(long_or_short(25, 2)):
        program = Program([*map(str, words)], tmp_path / f"{number}.log")
        assert ros.spin_until(lambda: ros.node.count_publishers(topic)), program.output
        memory = program.shared_memory()
        program.process.send_signal(by)
        time.sleep(random.uniform(0, 0.1))
        code, _ = program.end(by)
        assert code == (130 if verb == "demo" else 0), program.output
        assert "Traceback" not in program.output
        assert not [file for file in memory if file.exists()]
        assert ros.spin_until(lambda: not ros.node.count_publishers(topic))


SWALLOWING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "bisenetv2_ros.node.segment_node":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Finder())
from bisenetv2_ros.cli.main import main
sys.exit(main(["segment"]))
"""


def test_a_library_that_swallows_the_signal_amid_its_import_does_not_keep_the_process(tmp_path):
    program = Program([], tmp_path / "log", command=[sys.executable, "-c", SWALLOWING])
    try:
        assert program.wait() == 0
    finally:
        program.end(signal.SIGTERM)


TEARDOWN = """
import os, signal
from rclpy.executors import SingleThreadedExecutor
from bisenetv2_ros.node import process, segment_node

def threads():
    return len(os.listdir("/proc/self/task"))

class Executor(SingleThreadedExecutor):
    def shutdown(self, timeout_sec=None):
        print("threads ended before:", before - threads(), flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return super().shutdown(timeout_sec)

    def spin(self):
        global before
        before = threads()
        raise KeyboardInterrupt

process.SingleThreadedExecutor = Executor
print("exit code:", segment_node.main(["--ros-args", "-p", "autostart:=false"]))
"""


def test_nothing_is_destroyed_while_rclpy_may_be_at_it(tmp_path):
    """Its thread for signals triggers guard conditions that the executor's end destroys, and would
    crash amid that; the tests' MALLOC_PERTURB_ makes it do so."""
    program = Program([], tmp_path / "log", command=[sys.executable, "-c", TEARDOWN])
    assert program.wait() == 0, program.output
    assert "threads ended before: 1" in program.output
    assert "exit code: 0" in program.output


@pytest.mark.long_run
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda by: by.name
)
def test_signals_at_random_moments_of_the_start(models, tmp_path, by):
    """Before ROS is up, a signal ends Python as it ends any program; from then on, with code 0."""
    words = ["segment", "--ros-args", "-p", f"model:={models}/tiny.onnx"]
    slowest, codes = 0.0, Counter()
    for number in range(long_or_short(50, 4)):
        program = Program(words, tmp_path / f"{number}.log")
        memory = set()
        moment = time.monotonic() + random.uniform(0, 4)
        while time.monotonic() < moment:
            memory |= program.shared_memory()
            time.sleep(0.002)
        code, seconds = program.end(by)
        slowest = max(slowest, seconds)
        codes[code] += 1
        assert not [file for file in memory if file.exists()], f"left by {code}: {program.output}"
        as_any = code in (130, -by) or "init_import_site" in program.output  # Python's own start
        assert code == 0 or (not memory and as_any), f"{code}: {program.output}"
        if code == 0:
            assert "Traceback" not in program.output, program.output
    print(f"{by.name}: exit codes {dict(codes)}, slowest end {slowest:.2f} s")
