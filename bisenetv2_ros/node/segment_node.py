"""The lifecycle node `segment`: camera topics in, masks and class fractions out. Wiring only.

    configure    load the model, create the publishers
    activate     subscribe, start the inference thread
    deactivate   unsubscribe, stop the thread; the model stays loaded
    cleanup      free the model, remove the publishers

One thread runs the executor: it receives frames, answers services and publishes diagnostics.
Another runs inference on the newest frames and publishes the outputs (inference.py). So services
and signals are served however long inference takes. (A MultiThreadedExecutor is no alternative: it
loses images under load, ros2/rclpy#1452.)

Frames are processed in inference, reported on in status; topic names are in camera_topics, and
parameters in parameters.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Sequence

from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from bisenetv2_ros.backends import MOST_AT_ONCE, Cancelled
from bisenetv2_ros.camera_view import View, parse_views
from bisenetv2_ros.node import parameters, ros_arguments
from bisenetv2_ros.node.background import Background
from bisenetv2_ros.node.bond import ManagerBond
from bisenetv2_ros.node.camera_topics import CameraTopics, check_camera_topics
from bisenetv2_ros.node.ground_points import CameraPoses, ground_classes
from bisenetv2_ros.node.inference import Inference
from bisenetv2_ros.node.lifecycle import NodeFailure, ReportingNode, guarded, transition
from bisenetv2_ros.node.process import run
from bisenetv2_ros.node.region_limits import Limit, LimitWatch, parse_limits
from bisenetv2_ros.node.status import StatusReporter
from bisenetv2_ros.regions import Region, of_camera, parse_regions
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.system.malloc import keep_freed_images

WATCH_PERIOD = 0.1  # seconds between checks of the levels; a change is reported immediately
LOADING_PERIOD = 5.0  # seconds between log lines while a model loads
LAST_REPORT = 3.0  # seconds, at most, for a fatal error to reach subscribers of /diagnostics


class SegmentNode(ReportingNode):
    """See the module docstring; parameters are in parameters.py, topics in camera_topics.py."""

    def __init__(self) -> None:
        super().__init__("segment")
        self._closing = False
        self._problems = parameters.declare(self, sys.argv)
        self._inference: Inference | None = None  # from activate to deactivate
        self._bond = ManagerBond(self)
        self._poses: CameraPoses | None = None
        self._reporter = StatusReporter(self, self.state)
        self._report = guarded(self, self._reporter.report)
        self._follow = guarded(self, self._follow_cameras)
        self._background = Background(self.context, self._report, WATCH_PERIOD)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # Steady, because the node's clock stands still with simulated time and no /clock.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_PERIOD, guarded(self, self._watch), clock=steady)

    @transition
    def on_configure(self) -> None:
        if self._problems:
            raise ValueError("; ".join(self._problems))
        settings = parameters.read(self)
        check_camera_topics(self, settings.cameras, settings.outputs)
        with contextlib.ExitStack() as undo:
            undo.callback(self._free)
            undo.callback(setattr, self.state, "loading", "")
            self.state.segmenter = self._background.result_of(
                lambda: Segmenter(
                    settings.model,
                    backend=settings.backend,
                    device=settings.device,
                    threads=settings.threads,
                    batch=min(len(settings.cameras), MOST_AT_ONCE),
                    report=self._on_loading,
                )
            )
            self.state.loading = ""
            views = parse_views(settings.crops, settings.rotations, settings.cameras)
            regions = parse_regions(settings.regions, settings.cameras)
            names = self.state.segmenter.model.info.labels.names
            limits = parse_limits(settings.region_limits, regions, names)
            ground_classes(settings, self.state.segmenter.model.info.labels)
            self._poses = CameraPoses(self, settings)
            for topic, view in views.items():
                watch = self._watch_of(topic, view, regions, limits)
                camera = CameraTopics(self, topic, settings, view, watch, self._poses)
                self.state.cameras.append(camera)
            inputs = [camera.input for camera in self.state.cameras]
            topics = Counter(each.info_topic for each in inputs)
            for each in inputs:
                each.shares_calibration = topics[each.info_topic] > 1
            undo.pop_all()
        model, backend = self.state.segmenter.model, self.state.segmenter.backend
        self.get_logger().info(
            f"model {model.name} ({model.info.labels.name}, "
            f"{model.info.input_size[0]}x{model.info.input_size[1]}) "
            f"on {backend.name}, {backend.device}"
        )

    def _watch_of(
        self, topic: str, view: View, regions: Sequence[Region], limits: Sequence[Limit]
    ) -> LimitWatch | None:
        """Watch the regions of a camera; None if it has none."""
        own = of_camera(regions, topic)
        if not own:
            return None
        info = self.state.loaded.model.info
        names = {region.name for region in own}
        own_limits = [limit for limit in limits if limit.region in names]
        return LimitWatch(own, own_limits, view.mask_size(info.input_size), info.labels.names)

    def _on_loading(self, line: str) -> None:
        """Store the progress of loading; cancel it when the process ends."""
        if self._closing or not self.context.ok():
            raise Cancelled("the node is ending")
        self.state.loading = line
        self.get_logger().info(line, throttle_duration_sec=LOADING_PERIOD)

    @transition
    def on_activate(self) -> None:
        labels = self.state.loaded.model.info.labels
        settings = parameters.read(self)
        self._inference = Inference(self, self.state)
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop)
            self._background.start(self._inference.run)
            for index, camera in enumerate(self.state.cameras):
                on_image = functools.partial(self._inference.put, index)
                camera.start(guarded(self, on_image), settings)
                camera.publish_label_info(labels)
            if not settings.autostart:  # a lifecycle manager has activated it
                self._bond.form()
            undo.pop_all()
        self.state.active = True
        self._reporter.postpone()
        for line in parameters.unused_qos_overrides(self):
            # Only a warning: a shared file may mean another node's topic.
            self.get_logger().warning(line)
        topics = ", ".join(camera.topic for camera in self.state.cameras)
        self.get_logger().info(f"segmenting {topics}")

    @transition
    def on_deactivate(self) -> None:
        self._stop()

    @transition
    def on_cleanup(self) -> None:
        self._free()

    @transition
    def on_shutdown(self) -> None:
        self.state.finalized = True  # even if the rest fails
        self._stop()
        self._free()

    def _stop(self) -> None:
        """Stop taking frames and publishing masks."""
        self._bond.end()
        self.state.active = False
        for camera in self.state.cameras:
            camera.stop()
        if self._inference is not None:
            self._inference.close()
        patience = parameters.read(self).watchdog_timeout
        if not self._background.end_within(patience):
            self.state.fatal = f"inference did not end within {patience} s"
            raise RuntimeError(self.state.fatal)

    def _free(self) -> None:
        """Free the model and everything that belongs to a camera."""
        for camera in self.state.cameras:
            camera.destroy()
        self.state.cameras = []
        if self._poses is not None:
            self._poses.close()
        segmenter, self.state.segmenter = self.state.segmenter, None  # even if closing fails
        if segmenter is not None:
            segmenter.close()

    # Services and diagnostics

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        (result,) = self.set_parameters([Parameter("enabled", value=request.data)])
        self._follow()
        response.success = result.successful
        response.message = result.reason or ("enabled" if request.data else "disabled")
        return response

    def _follow_cameras(self) -> None:
        """Update the cameras' subscriptions to current needs and publishers."""
        settings = parameters.read(self)
        for camera in self.state.cameras:
            camera.follow(settings)

    def _watch(self) -> None:
        """Follow the graph and report. Raises NodeFailure if the process has to end."""
        self._follow()
        self._report()
        if self.state.fatal:
            self.get_logger().fatal(self.state.fatal)
            self._reporter.flush(LAST_REPORT)
            raise NodeFailure(self.state.fatal)

    def close(self) -> bool:
        """Stop the threads. False if one is still inside a backend after a grace period.

        Also False if the device is lost: unloading its libraries may hang or crash.
        """
        self._closing = True
        self._bond.end()
        if self._inference is not None:
            self._inference.close()
        return self._background.close() and not self.state.device_lost


def main(ros_args: Sequence[str] | None = None) -> int:
    """Run the node until a signal ends it (exit code 0) or it cannot go on (1)."""
    keep_freed_images()
    try:
        return run(sys.argv[1:] if ros_args is None else ros_args, "segment", SegmentNode)
    except ros_arguments.RosRefusal as error:
        print(f"segment: error: {error}", file=sys.stderr)
        return 1
