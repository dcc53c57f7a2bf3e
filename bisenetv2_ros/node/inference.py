"""message -> job -> outputs: how the inference thread processes the newest frames.

    put       queue a message, replacing an older one   (the executor's thread)
    run       take the queue: the newest frame of several cameras if the backend gains from that
    _open     message -> job: decode, unless the frame is not needed
    _segment  jobs -> segmentations: one call for all; one by one if that fails
    _publish  segmentation -> outputs, by the camera's topics

A frame without a mask is counted by its cause. After MAX_FAILURES failures in a row, or if the
device is lost, `NodeState.fatal` is set and the node ends the process.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Header

from bisenetv2_ros.backends import DeviceLost
from bisenetv2_ros.image_conversion import ChannelOrder, ImageError
from bisenetv2_ros.node import diagnostics, parameters
from bisenetv2_ros.node.camera_topics import CameraTopics
from bisenetv2_ros.node.intake import LatestFrame
from bisenetv2_ros.node.state import NodeState
from bisenetv2_ros.outputs import FrameOutputs, needs_confidence
from bisenetv2_ros.segmenter import Segmentation

MAX_FAILURES = 5  # consecutive failures after which the device is considered lost


@dataclass(frozen=True)
class Job:
    """A frame to segment."""

    camera: CameraTopics
    settings: parameters.Parameters
    wanted: set[str]  #: outputs
    header: Header
    image: np.ndarray  #: (H, W, 3) uint8, its channels in `order`
    order: ChannelOrder


class Inference:
    """Segments the frames of the cameras in `state`, from `run` to `close`."""

    def __init__(self, node: Node, state: NodeState) -> None:
        self._node = node
        self._state = state
        self._cameras = state.cameras
        self._frames: LatestFrame[Any] = LatestFrame(len(state.cameras))
        self._failures_in_row = 0
        self._without_confidence = False  # it could not be computed

    def put(self, index: int, message: Any) -> None:
        """Take an image message of camera `index`; the newest of each camera is kept."""
        camera = self._cameras[index]
        stamp = message.header.stamp
        now = self._node.get_clock().now().nanoseconds / 1e9
        camera.statistics.received(stamp.sec + stamp.nanosec / 1e9, now)
        settings = parameters.read(self._node)
        if not settings.enabled:
            camera.statistics.dropped(diagnostics.DISABLED)
        elif not camera.rate_limit.passes(settings.max_rate):
            camera.statistics.dropped(diagnostics.MAX_RATE)
        elif self._frames.put(index, message):
            camera.statistics.dropped(diagnostics.REPLACED)

    def close(self) -> None:
        """Let `run` return after the current batch; count the frames that are still queued."""
        for index in self._frames.close():
            self._cameras[index].statistics.dropped(diagnostics.DEACTIVATED)

    def run(self) -> None:
        """Process frames until `close`."""
        batch_size = self._state.loaded.at_once
        while batch := self._frames.take(batch_size):
            with self._state.watchdog:
                self.process([(self._cameras[index], message) for index, message in batch])

    def process(self, batch: Sequence[tuple[CameraTopics, Any]]) -> None:
        """Segment image messages, at most one per camera, and publish the outputs."""
        jobs = []
        for camera, message in batch:
            with self._faults(camera):
                jobs += self._open(camera, message)
        for job, segmentation in self._segment(jobs):
            with self._faults(job.camera):
                self._publish(job, segmentation)

    @contextlib.contextmanager
    def _faults(self, camera: CameraTopics) -> Iterator[None]:
        """Log unexpected errors and drop the frame; the thread continues."""
        try:
            yield
        except Exception:
            camera.statistics.dropped("fault")
            if self._node.context.ok():  # else the process is ending and nothing can be published
                self._node.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)

    def _open(self, camera: CameraTopics, message: Any) -> list[Job]:
        """One job, or none if the frame is not needed or malformed."""
        settings = parameters.read(self._node)
        wanted = camera.wanted(settings)
        if not wanted and not camera.watched:
            camera.statistics.dropped(diagnostics.NO_SUBSCRIBER)
            return []
        try:
            image, order = camera.decode(message)
        except ImageError as error:
            self._drop(camera, error.cause, error)
            return []
        if line := camera.bit_depth.look(message, image):
            self._node.get_logger().warning(f"{camera.topic}: {line}")
        return [Job(camera, settings, wanted, message.header, image, order)]

    def _segment(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Segmentation]]:
        """Segment all jobs in one call, or one by one if that fails; drop those that fail alone.

        Each result is valid until the next one is taken.
        """
        if not jobs:
            return
        try:
            results = self._answer(jobs)
        except Exception as error:
            if len(jobs) > 1 and not isinstance(error, DeviceLost):
                for job in jobs:
                    yield from self._segment([job])
                return
            for job in jobs:
                self._drop(job.camera, "inference", error)
            self._failures_in_row += 1
            if isinstance(error, DeviceLost):
                self._state.lose_device(error)
            elif self._failures_in_row >= MAX_FAILURES:
                # Whatever the cause, a new process may not have it.
                self._state.fatal = f"inference failed {MAX_FAILURES} times in a row: {error}"
            return
        self._failures_in_row = 0
        yield from zip(jobs, results, strict=True)

    def _answer(self, jobs: Sequence[Job]) -> list[Segmentation]:
        """Segment frames. Leave out the confidence once only its computation has failed, for
        example for lack of memory."""
        frames = [(job.camera.view.upright(job.image), job.order) for job in jobs]
        sizes = [
            job.camera.view.upright_size((job.image.shape[1], job.image.shape[0]))
            if job.settings.mask_size == "camera"
            else None
            for job in jobs
        ]
        run = functools.partial(self._state.loaded.segment_batch, frames, sizes=sizes)
        if self._without_confidence or not any(needs_confidence(job.wanted) for job in jobs):
            return run()
        try:
            return run(confidence=True)
        except DeviceLost:
            raise
        except Exception as error:
            results = run()  # raises if the confidence is not the cause
            self._without_confidence = True
            self._node.get_logger().error(f"no confidence until activated again: {error}")
            return results

    def _publish(self, job: Job, segmentation: Segmentation) -> None:
        view = job.camera.view
        outputs = FrameOutputs(
            job.image,
            job.order,
            view.back(segmentation),
            self._state.loaded.model,
            view=view,
            watch=job.camera.watch,
            mask_size=job.settings.mask_size,
            jpeg_quality=job.settings.jpeg_quality,
            opacity=min(job.settings.overlay_opacity, 1.0),  # rclpy lets 1.000001 pass
        )
        latency = job.camera.publish(job.wanted, job.header, outputs)
        job.camera.statistics.published(latency, segmentation.inference_seconds)

    def _drop(self, camera: CameraTopics, cause: str, error: Exception) -> None:
        camera.statistics.dropped(cause, " ".join(str(error).split()))
        camera.warn(f"{camera.topic}: frame dropped: {error}")
