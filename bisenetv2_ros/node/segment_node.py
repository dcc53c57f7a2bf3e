"""The lifecycle node `segment`: camera topics in, masks and class fractions out. Wiring only.

    configure    load the model, create the publishers
    activate     subscribe, start the inference thread
    deactivate   unsubscribe, stop the thread; the model stays loaded
    cleanup      free the model, remove the publishers

One thread runs the executor: it receives frames, answers services and reports on /diagnostics. One
thread runs inference on the newest frame of each camera in turn, of several cameras at once where
the backend gains from that, and publishes. So services answer and signals are obeyed however long
inference takes. (A MultiThreadedExecutor would not do: it loses
images under load, ros2/rclpy#1452.)

Nothing here knows how an image is decoded (image_conversion), segmented (segmenter) or packed into
messages (camera_topics, messages), what a parameter means (parameters) or when a camera is healthy
(diagnostics).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from bisenetv2_ros.backends import MOST_AT_ONCE, Cancelled, DeviceLost
from bisenetv2_ros.camera_view import View, parse_views
from bisenetv2_ros.image_conversion import ChannelOrder, ImageError
from bisenetv2_ros.node import diagnostics, parameters
from bisenetv2_ros.node.camera_topics import CameraTopics, check_camera_topics
from bisenetv2_ros.node.diagnostics import Level, Status, Watchdog
from bisenetv2_ros.node.intake import LatestFrame
from bisenetv2_ros.node.lifecycle import NodeFailure, guarded, transition
from bisenetv2_ros.node.process import run
from bisenetv2_ros.outputs import FrameOutputs
from bisenetv2_ros.regions import (
    Limit,
    Region,
    RegionWatch,
    of_camera,
    parse_limits,
    parse_regions,
)
from bisenetv2_ros.segmenter import Segmentation, Segmenter
from bisenetv2_ros.system.malloc import keep_freed_images

MAX_FAILURES = 5  # inferences that fail in a row before the device is given up for lost
REPORT_PERIOD = 1.0  # seconds between messages on /diagnostics
WATCH_PERIOD = 0.1  # seconds between looks at the levels; one that changes is reported at once
LOADING_PERIOD = 5.0  # seconds between log lines about a model that takes long to load
EXIT_GRACE = 1.0  # seconds that a thread may take to stop when the process ends

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Job:
    """A frame that is to be segmented."""

    camera: CameraTopics
    settings: parameters.Parameters
    wanted: set[str]  # outputs
    header: Header
    image: np.ndarray
    order: ChannelOrder


class SegmentNode(LifecycleNode):
    """See the head of this file; parameters and topics are in parameters.py, camera_topics.py."""

    def __init__(self) -> None:
        super().__init__("segment")
        self.refusal = ""  # why the last transition failed
        self._fatal = ""  # why the process must end; the inference thread may set it
        self._device_lost = False  # then not even freeing its memory is safe
        self._loading = ""  # how far the model is; '' while none is being loaded
        self._closing = False
        self._problems = parameters.declare(self)
        self._segmenter: Segmenter | None = None
        self._cameras: list[CameraTopics] = []
        self._active = False
        self._finalized = False
        self._frames: LatestFrame[Any] = LatestFrame(0)
        self._threads: list[threading.Thread] = []
        self._watchdog = Watchdog()
        self._failures_in_row = 0
        self._without_confidence = False  # it could not be computed
        self._levels: dict[str, Level] = {}  # as last reported
        self._logged_levels: dict[str, Level] = {}
        self._graph_problems: dict[str, list[str]] = {}
        self._report_due = 0.0
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # Steady: with simulated time and no /clock, the node's own clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_PERIOD, self._watch, clock=steady)

    # Lifecycle

    def start(self) -> None:
        """Configure and activate. NodeFailure, with the cause logged, if either is refused."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise NodeFailure(self.refusal)

    @transition
    def on_configure(self) -> None:
        if self._problems:
            raise ValueError("; ".join(self._problems))
        settings = parameters.read(self)
        check_camera_topics(self, settings.cameras)
        with contextlib.ExitStack() as undo:
            undo.callback(self._free)
            undo.callback(setattr, self, "_loading", "")
            self._segmenter = self._in_background(
                lambda: Segmenter(
                    settings.model,
                    backend=settings.backend,
                    device=settings.device,
                    threads=settings.threads,
                    batch=min(len(settings.cameras), MOST_AT_ONCE),
                    report=self._on_loading,
                )
            )
            self._loading = ""
            views = parse_views(settings.crops, settings.rotations, settings.cameras)
            regions = parse_regions(settings.regions, settings.cameras)
            names = self._segmenter.model.info.labels.names
            limits = parse_limits(settings.region_limits, regions, names)
            for topic, view in views.items():
                watch = self._watch_of(topic, view, regions, limits)
                camera = CameraTopics(self, topic, settings.image_transport, view, watch)
                self._cameras.append(camera)
            undo.pop_all()
        model, backend = self._segmenter.model, self._segmenter.backend
        self.get_logger().info(
            f"model {model.name} ({model.info.labels.name}, "
            f"{model.info.input_size[0]}x{model.info.input_size[1]}) "
            f"on {backend.name}, {backend.device}"
        )

    def _watch_of(
        self, topic: str, view: View, regions: Sequence[Region], limits: Sequence[Limit]
    ) -> RegionWatch | None:
        """Who watches the regions of a camera; None where it has none."""
        own = of_camera(regions, topic)
        if not own:
            return None
        info = self._loaded.model.info
        names = {region.name for region in own}
        own_limits = [limit for limit in limits if limit.region in names]
        return RegionWatch(own, own_limits, view.mask_size(info.input_size), info.labels.names)

    def _on_loading(self, line: str) -> None:
        """Keep what the loading thread says; end it when the process ends."""
        if self._closing or not self.context.ok():
            raise Cancelled("the node is ending")
        self._loading = line
        self.get_logger().info(line, throttle_duration_sec=LOADING_PERIOD)

    @transition
    def on_activate(self) -> None:
        labels = self._loaded.model.info.labels
        self._failures_in_row = 0
        self._without_confidence = False
        self._frames = LatestFrame(len(self._cameras))
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop)
            self._start_thread(functools.partial(self._work, self._frames, self._loaded.at_once))
            for index, camera in enumerate(self._cameras):
                camera.subscribe(functools.partial(self._on_image, index))
                camera.publish_label_info(labels)
            undo.pop_all()
        self._active = True
        self._report_due = time.monotonic() + REPORT_PERIOD  # a camera may need time to be found
        for line in parameters.unused_qos_overrides(self):
            # No more than a warning: a file for many nodes may mean another one's topic.
            self.get_logger().warning(line)
        topics = ", ".join(camera.topic for camera in self._cameras)
        self.get_logger().info(f"segmenting {topics}")

    @transition
    def on_deactivate(self) -> None:
        self._stop()

    @transition
    def on_cleanup(self) -> None:
        self._free()

    @transition
    def on_shutdown(self) -> None:
        self._finalized = True  # also where the rest fails
        self._stop()
        self._free()

    @property
    def _loaded(self) -> Segmenter:
        if self._segmenter is None:
            raise RuntimeError("no model is loaded")
        return self._segmenter

    @property
    def _state(self) -> str:
        if self._finalized:
            return "finalized"
        if self._segmenter is None:
            return "unconfigured"
        return "active" if self._active else "inactive"

    def _stop(self) -> None:
        """No more frames in, no more masks out."""
        self._active = False
        for camera in self._cameras:
            camera.unsubscribe()
        for index in self._frames.close():
            self._cameras[index].statistics.dropped(diagnostics.DEACTIVATED)
        patience = parameters.read(self).watchdog_timeout
        if not self._wait(lambda: not self._running(), patience):
            self._fatal = f"inference did not end within {patience} s"
            raise RuntimeError(self._fatal)

    def _free(self) -> None:
        """Give back the model and everything that belongs to a camera."""
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        segmenter, self._segmenter = self._segmenter, None  # also where closing fails
        if segmenter is not None:
            segmenter.close()

    # Frames: from here on the executor's thread ...

    @guarded
    def _on_image(self, index: int, message: Any) -> None:
        statistics = self._cameras[index].statistics
        statistics.received()
        settings = parameters.read(self)
        if not settings.enabled:
            statistics.dropped(diagnostics.DISABLED)
        elif not self._cameras[index].rate_limit.passes(settings.max_rate):
            statistics.dropped(diagnostics.MAX_RATE)
        elif self._frames.put(index, message):
            statistics.dropped(diagnostics.REPLACED)

    # ... and from here on the inference thread

    def _work(self, frames: LatestFrame[Any], at_once: int) -> None:
        while batch := frames.take(at_once):
            with self._watchdog:
                self._process([(self._cameras[index], message) for index, message in batch])

    def _process(self, batch: Sequence[tuple[CameraTopics, Any]]) -> None:
        """From messages, one of a camera, to what is published of them."""
        jobs = []
        for camera, message in batch:
            with self._faults(camera):
                jobs += self._open(camera, message)
        for job, segmentation in self._segment(jobs):
            with self._faults(job.camera):
                self._publish(job, segmentation)

    @contextlib.contextmanager
    def _faults(self, camera: CameraTopics) -> Iterator[None]:
        """Count and log what nobody has foreseen: it costs the frame, and not the thread."""
        try:
            yield
        except Exception:
            camera.statistics.dropped("fault")
            if self.context.ok():  # else the process is ending and nothing can be published
                self.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)

    def _open(self, camera: CameraTopics, message: Any) -> list[_Job]:
        """What to do about a message: one job, or none where nobody wants it or it is malformed."""
        settings = parameters.read(self)
        wanted = camera.wanted(settings)
        if not wanted and not camera.watched:
            camera.statistics.dropped(diagnostics.NO_SUBSCRIBER)
            return []
        try:
            image, order = camera.decode(message)
        except ImageError as error:
            self._drop(camera, error.cause, error)
            return []
        return [_Job(camera, settings, wanted, message.header, image, order)]

    def _segment(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, Segmentation]]:
        """All at once, or one by one where that fails: what fails alone is dropped.

        Each result is good until the next is asked for.
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
                self.lose_device(error)
            elif self._failures_in_row >= MAX_FAILURES:
                # Whatever it is, a new process may be without it.
                self._fatal = f"inference failed {MAX_FAILURES} times in a row: {error}"
            return
        self._failures_in_row = 0
        yield from zip(jobs, results, strict=True)

    def lose_device(self, error: DeviceLost) -> None:
        """Let the process end: only a new one gets the device back."""
        self._device_lost = True
        self._fatal = str(error)

    def _answer(self, jobs: Sequence[_Job]) -> list[Segmentation]:
        """Segment frames, without confidence from when only that fails: memory may be short."""
        frames = [(job.camera.view.upright(job.image), job.order) for job in jobs]
        run = functools.partial(self._loaded.segment_batch, frames)
        if self._without_confidence or not any("confidence" in job.wanted for job in jobs):
            return run()
        try:
            return run(confidence=True)
        except DeviceLost:
            raise
        except Exception as error:
            results = run()  # raises where it is not for the confidence
            self._without_confidence = True
            self.get_logger().error(f"no confidence until activated again: {error}")
            return results

    def _publish(self, job: _Job, segmentation: Segmentation) -> None:
        view = job.camera.view
        outputs = FrameOutputs(
            job.image,
            job.order,
            view.back(segmentation),
            self._loaded.model,
            view=view,
            watch=job.camera.watch,
            mask_size=job.settings.mask_size,
            opacity=min(job.settings.overlay_opacity, 1.0),  # rclpy lets 1.000001 pass
        )
        latency = job.camera.publish(job.wanted, job.header, outputs)
        job.camera.statistics.published(latency, segmentation.inference_seconds)

    def _drop(self, camera: CameraTopics, cause: str, error: Exception) -> None:
        camera.statistics.dropped(cause)
        self.get_logger().warning(
            f"{camera.topic}: frame dropped: {error}", throttle_duration_sec=5.0
        )

    # Services and diagnostics

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        (result,) = self.set_parameters([Parameter("enabled", value=request.data)])
        response.success = result.successful
        response.message = result.reason or ("enabled" if request.data else "disabled")
        return response

    @guarded
    def _watch(self) -> None:
        """Report; NodeFailure where the process has to end."""
        self._report()
        if self._fatal:
            self.get_logger().fatal(self._fatal)
            self._diagnostics.wait_for_all_acked(Duration(seconds=0.5))
            raise NodeFailure(self._fatal)

    @guarded
    def _report(self) -> None:
        """Report once a second, and at once when a level changes."""
        now = time.monotonic()
        due = now >= self._report_due
        if due:
            self._report_due = max(self._report_due + REPORT_PERIOD, now)
            self._graph_problems = {c.topic: c.graph_problems() for c in self._cameras}
        statuses = list(self._statuses())
        levels = {status.name: status.level for status in statuses}
        if due or levels != self._levels:
            stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(diagnostics.diagnostic_array(stamp, statuses))
            self._levels = levels
        if due:
            for status in statuses:
                self._log_change(status)

    def _log_change(self, status: Status) -> None:
        before = self._logged_levels.get(status.name, Level.OK)
        self._logged_levels[status.name] = status.level
        if status.level == before:
            return
        name = status.name.partition(": ")[2]
        text = f"{name}: {before.name} -> {status.level.name}: {status.message}"
        if status.level is Level.OK:
            self.get_logger().info(text)
        else:
            self.get_logger().warning(text)

    def _statuses(self) -> Iterator[Status]:
        settings = parameters.read(self)
        # Unique in the graph: nodes of several namespaces may have the same camera.
        prefix = self.get_fully_qualified_name().removeprefix("/")
        hardware = "none"
        values = {"state": self._state}
        if self._segmenter is not None:
            model, backend = self._segmenter.model, self._segmenter.backend
            hardware = f"{backend.name} {backend.device}"
            values |= {
                "model": model.name,
                "model sha256": model.sha256,
                "precision": model.info.precision,
                "backend": backend.name,
                "device": backend.device,
            }
        level, message = Level.OK, self._state
        if self._fatal or self.refusal:
            level, message = Level.ERROR, self._fatal or self.refusal
        elif self._loading:
            level, message = Level.WARN, self._loading
        elif (busy := self._watchdog.busy()) > settings.watchdog_timeout:
            level, message = Level.ERROR, f"inference hangs: no result for {busy:.0f} s"
        yield Status(
            f"{prefix}: {self.get_fully_qualified_name()}", level, message, hardware, values
        )

        for camera in self._cameras:
            report = camera.statistics.report()
            level, message = Level.OK, self._state
            if self._state == "active":
                level, message = diagnostics.assess_camera(
                    report,
                    enabled=settings.enabled,
                    latency_budget=settings.latency_budget,
                    stale_periods=settings.stale_periods,
                )
                if problems := self._graph_problems.get(camera.topic):
                    level = Level.WARN if level is Level.OK else level
                    message = "; ".join([message, *problems])
            values = diagnostics.camera_values(report)
            yield Status(f"{prefix}: {camera.topic}", level, message, hardware, values)
            if camera.watch is not None:
                judged = camera.watch.assess(settings.stale_periods, settings.max_rate)
                for name, level, message, values in judged:
                    name = f"{prefix}: {camera.topic} {name}"
                    yield Status(name, level, message, hardware, values)

    # Threads

    def _start_thread(self, work: Callable[[], None]) -> None:
        # Daemons, because a call into a backend cannot be interrupted; `close` waits for them.
        self._threads = [*self._running(), threading.Thread(target=work, daemon=True)]
        self._threads[-1].start()

    def _running(self) -> list[threading.Thread]:
        return [thread for thread in self._threads if thread.is_alive()]

    def _in_background(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` on a thread of its own and wait for it, ready for signals."""
        future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._start_thread(run)
        self._wait(future.done, timeout=float("inf"))
        return future.result()

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until `done()`; False after `timeout` seconds.

        SIGINT raises KeyboardInterrupt by itself. SIGTERM is made to do so here, since rclpy
        swallows everything milder that a transition raises.
        """
        deadline = time.monotonic() + timeout
        look = time.monotonic() + WATCH_PERIOD
        while not done():
            if time.monotonic() > look:  # this thread's timer does not run meanwhile
                self._report()
                look += WATCH_PERIOD
            if not self.context.ok():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> bool:
        """Stop the threads; False if one is still in a backend after EXIT_GRACE seconds.

        False too when the device is lost: its libraries may hang or crash where they are unloaded.
        """
        self._closing = True
        self._frames.close()
        for thread in self._threads:
            thread.join(EXIT_GRACE)
        return not self._running() and not self._device_lost

    def destroy_node(self) -> None:
        super().destroy_node()
        # rclpy leaves this to the garbage collector, and until then the node keeps its shared
        # memory, which outlives a process that has to end at once.
        self._state_machine.destroy_when_not_in_use()


def main(ros_args: Sequence[str] | None = None) -> int:
    """Run the node until a signal ends it (exit code 0) or it cannot go on (1)."""
    keep_freed_images()
    try:
        try:
            rclpy.init(args=list(sys.argv[1:] if ros_args is None else ros_args))
        except RuntimeError as error:  # RCLError and UnknownROSArgsError
            print(f"segment: error: {error}", file=sys.stderr)
            return 1
        return run(SegmentNode)
    except KeyboardInterrupt:  # before there was a node
        rclpy.try_shutdown()
        return 0
