"""The node `camera`: publishes the frames of a source as a camera driver would.

    image_raw               sensor_msgs/Image, rgb8 or bgr8
    image_raw/compressed    sensor_msgs/CompressedImage, JPEG; computed only if subscribed to
    camera_info             sensor_msgs/CameraInfo of an ideal camera
    label                   sensor_msgs/Image, mono8: the class of each pixel, if it is known

All messages of a frame have the same stamp, the time of publishing. If a recording has several
cameras, each has these topics beside its recorded topic, which replaces image_raw. Knows nothing of
segmentation or of where frames come from.
"""

from __future__ import annotations

import contextlib
import math
import posixpath
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from bisenetv2_ros.node.messages import ImageBuffer, compressed_image
from bisenetv2_ros.node.process import run_ros
from bisenetv2_ros.opencv import convert_color
from bisenetv2_ros.sources.frame import Frame, FrameSource
from bisenetv2_ros.system import threads

FIELD_OF_VIEW = math.radians(60)  # horizontal, of camera_info
JPEG_QUALITY = 90
FRAMES_AHEAD = 4  # read before they are due
SETTLE = 0.5  # seconds for a new subscriber to discover this node in turn
DELIVERY_TIMEOUT = 5.0  # seconds for the last frames to arrive at reliable subscribers


@dataclass(frozen=True)
class CameraOptions:
    """How to publish."""

    rate: float | None = None  #: Hz, of each camera; None takes the source's
    frames: int | None = None  #: how many to send; None sends all
    encoding: str = "rgb8"  #: of image_raw: rgb8 or bgr8
    frame_id: str = ""  #: of every header; '' takes that of a bag's messages, or else `camera`
    reliable: bool = True  #: QoS offered; drivers are reliable, see REP-2003
    wait_for_subscribers: int = 0  #: of image_raw and image_raw/compressed, before the first frame


class _Topics:
    """The publishers of one camera."""

    def __init__(self, node: Node, names: TopicNames, qos: QoSProfile, labelled: bool) -> None:
        self.image = node.create_publisher(Image, names.image, qos)
        self.compressed = node.create_publisher(CompressedImage, f"{names.image}/compressed", qos)
        self.info = node.create_publisher(CameraInfo, names.info, qos)
        self.label = node.create_publisher(Image, names.label, qos) if labelled else None
        self.image_buffer, self.label_buffer = ImageBuffer(), ImageBuffer()


class TopicNames(NamedTuple):
    """The topics of a camera, relative, so that the node's namespace applies."""

    image: str
    info: str
    label: str


def topic_names(cameras: Sequence[str]) -> dict[str, TopicNames]:
    """The topics of each camera: its recorded one and those beside it; image_raw for a single
    camera.

    If cameras share a namespace (/stereo/left, /stereo/right), the others are below each camera.
    """
    folders = [posixpath.dirname(camera) for camera in cameras]
    names = {}
    for camera, folder in zip(cameras, folders, strict=True):
        if len(cameras) == 1 or not camera:  # '' for files
            names[camera] = TopicNames("image_raw", "camera_info", "label")
            continue
        place = camera if folders.count(folder) > 1 else folder
        parts = (camera, posixpath.join(place, "camera_info"), posixpath.join(place, "label"))
        names[camera] = TopicNames(*(part.lstrip("/") for part in parts))
    return names


class CameraNode(Node):
    """The publishers of all cameras, and waiting for subscribers."""

    def __init__(
        self, options: CameraOptions, *, labelled: bool, cameras: Sequence[str] = ("",)
    ) -> None:
        """Create the publishers, including `label` if `labelled`.

        cameras: as in `FrameSource`. Raises RuntimeError if one is not a valid topic name.
        """
        super().__init__("camera")
        reliability = (
            ReliabilityPolicy.RELIABLE if options.reliable else ReliabilityPolicy.BEST_EFFORT
        )
        qos = QoSProfile(depth=10, reliability=reliability)
        self._options = options
        self._cameras = {}
        name = ""
        try:
            for name, names in topic_names(cameras).items():
                self._cameras[name] = _Topics(self, names, qos, labelled)
        except InvalidTopicNameException as error:
            self.destroy_node()
            reason = str(error).splitlines()[0]
            raise RuntimeError(f"'{name}' is no topic name: {reason}") from error
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.shutdown(timeout_sec=0)
        self.destroy_node()

    @property
    def subscribers(self) -> int:
        """Number of subscribers to the images, raw or compressed."""
        return sum(
            topics.image.get_subscription_count() + topics.compressed.get_subscription_count()
            for topics in self._cameras.values()
        )

    def send(self, frame: Frame, stamp: Time) -> None:
        """Publish everything about a frame."""
        recorded = frame.origin.frame_id if frame.origin else ""
        frame_id = self._options.frame_id or recorded or "camera"
        header = Header(stamp=stamp.to_msg(), frame_id=frame_id)
        height, width = frame.image.shape[:2]
        topics = self._cameras[frame.camera]
        topics.info.publish(ideal_camera_info(header, (width, height)))
        if topics.label is not None and frame.label is not None:
            topics.label.publish(topics.label_buffer.fill(header, frame.label, "mono8"))
        pixels = frame.image
        if self._options.encoding == "bgr8":
            pixels = convert_color(pixels, cv2.COLOR_RGB2BGR)
        topics.image.publish(topics.image_buffer.fill(header, pixels, self._options.encoding))
        if topics.compressed.get_subscription_count():
            topics.compressed.publish(jpeg_message(header, frame.image))

    def spin_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Spin until `done()`; False if `timeout` seconds pass first."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            # In steps, because `done` may depend on the graph, whose changes do not wake the
            # executor.
            self._spinner.spin_once(timeout_sec=max(0.0, min(left, 0.05)))
            if done():
                return True
            if left <= 0:
                return False

    def wait_for_subscribers(self) -> None:
        """Wait for the number of subscribers in the options."""
        wanted = self._options.wait_for_subscribers
        if not wanted:
            return
        while not self.spin_until(lambda: self.subscribers >= wanted, timeout=5):
            self.get_logger().info(
                f"waiting for {wanted} subscribers of "
                f"{', '.join(topics.image.topic_name for topics in self._cameras.values())}, "
                f"{self.subscribers} so far"
            )
        self.spin_until(lambda: False, SETTLE)

    def flush(self) -> None:
        """Wait, up to a timeout, until reliable subscribers have all of the last frame."""
        end = time.monotonic() + DELIVERY_TIMEOUT
        for topics in self._cameras.values():
            publishers = (topics.image, topics.label, topics.compressed, topics.info)
            for publisher in filter(None, publishers):
                publisher.wait_for_all_acked(Duration(seconds=max(0.0, end - time.monotonic())))


def publish_source(
    source: FrameSource, options: CameraOptions, ros_args: Sequence[str] = ()
) -> int:
    """Run the node until the source ends or a signal comes; return the number of frames sent.

    Raises what the source raises, and RuntimeError if ROS refuses `ros_args` or a topic name.
    """
    sent = 0

    def publish(closing: contextlib.ExitStack) -> None:
        nonlocal sent
        node = CameraNode(options, labelled=source.labelled, cameras=source.cameras)
        closing.callback(node.close)
        with _ReadAhead(source) as frames:
            node.wait_for_subscribers()
            period = 1 / sum(options.rate or source.rate(camera) for camera in source.cameras)
            due = time.monotonic()
            while sent != options.frames and (frame := frames.take(node.context.ok)) is not None:
                node.spin_until(lambda: False, due - time.monotonic())
                stamp = node.get_clock().now()
                # Catch up after a late frame, but never stamp two within half a period.
                due = max(due, time.monotonic() - period / 2) + period
                node.send(frame, stamp)
                sent += 1
        node.spin_until(lambda: False, due - time.monotonic())  # the last frame's period
        node.flush()

    run_ros(ros_args, "camera", publish)
    return sent


class _ReadAhead:
    """Reads a source on a thread of its own, so that decoding does not disturb the rate.

    Of a live source, newer frames replace those not taken in time.
    """

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._frames: queue.Queue[Frame | Exception | None] = queue.Queue(
            1 if source.live else FRAMES_AHEAD
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read ahead", daemon=True)

    def __enter__(self) -> _ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        threads.join(self._thread, 2.0)  # a webcam may block for longer

    def take(self, is_running: Callable[[], bool]) -> Frame | None:
        """The next frame; None after the last, or once `is_running()` is false."""
        while is_running():
            with contextlib.suppress(queue.Empty):
                frame = self._frames.get(timeout=0.1)
                if isinstance(frame, Exception):
                    raise frame
                return frame
        return None

    def _read(self) -> None:
        try:
            for frame in self._source:
                self._put(frame)
                if self._ended.is_set():
                    return
            self._put(None)
        except Exception as error:  # raised again by `take`
            self._put(error)

    def _put(self, frame: Frame | Exception | None) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=0 if self._source.live else 0.1)
                return
            if self._source.live:
                with contextlib.suppress(queue.Empty):
                    self._frames.get_nowait()


def ideal_camera_info(header: Header, size: tuple[int, int]) -> CameraInfo:
    """A pinhole camera without distortion for images of `size` (width, height).

    The source is not calibrated, so its field of view is a guess (`FIELD_OF_VIEW`). The center of
    the first pixel has the coordinates 0, 0.
    """
    width, height = size
    focal = width / (2 * math.tan(FIELD_OF_VIEW / 2))
    cx, cy = (width - 1) / 2, (height - 1) / 2
    return CameraInfo(
        header=header,
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def jpeg_message(header: Header, rgb: np.ndarray) -> CompressedImage:
    """The image (H, W, 3) uint8 as JPEG, in the form that image_transport sends."""
    bgr = convert_color(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return compressed_image(header, "rgb8; jpeg compressed bgr8", np.asarray(data))
