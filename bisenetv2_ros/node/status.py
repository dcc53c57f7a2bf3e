"""Reports the state of the node on /diagnostics and in its log.

`StatusReporter` combines the assessments: of cameras in diagnostics.py, of the graph in qos.py, of
region limits in region_limits.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.node import Node

from bisenetv2_ros.node import diagnostics, parameters
from bisenetv2_ros.node.camera_topics import CameraTopics
from bisenetv2_ros.node.diagnostics import Level, Status
from bisenetv2_ros.node.state import NodeState

REPORT_PERIOD = 1.0  # seconds between messages on /diagnostics


class StatusReporter:
    """Publishes one status for the node, each camera and each region with limits."""

    def __init__(self, node: Node, state: NodeState) -> None:
        self._node = node
        self._state = state
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._levels: dict[str, Level] = {}  # as last reported
        self._logged_levels: dict[str, Level] = {}
        self._problems: dict[str, list[str]] = {}
        self._due = 0.0

    def postpone(self) -> None:
        """Report one period from now: a camera may need time to be discovered."""
        self._due = time.monotonic() + REPORT_PERIOD

    def report(self) -> None:
        """Report once a second, and immediately if a level changes; call it more often."""
        now = time.monotonic()
        due = now >= self._due
        if due:
            self._due = max(self._due + REPORT_PERIOD, now)
            self._problems = {camera.topic: camera.problems() for camera in self._state.cameras}
        statuses = list(self.statuses())
        levels = {status.name: status.level for status in statuses}
        if due or levels != self._levels:
            stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(diagnostics.diagnostic_array(stamp, statuses))
            self._levels = levels
        if due:
            for status in statuses:
                self._log_change(status)

    def flush(self, seconds: float) -> None:
        """Wait until subscribers have the last report, at most that many seconds."""
        self._publisher.wait_for_all_acked(Duration(seconds=seconds))

    def statuses(self) -> Iterator[Status]:
        """The current statuses."""
        settings = parameters.read(self._node)
        # Unique in the graph: nodes in several namespaces may have the same camera.
        full_name = self._node.get_fully_qualified_name()
        prefix = full_name.removeprefix("/")
        node_status = self._node_status(f"{prefix}: {full_name}", settings)
        yield node_status
        hardware = node_status.hardware_id
        for camera in self._state.cameras:
            yield self._camera_status(f"{prefix}: {camera.topic}", camera, settings, hardware)
            if camera.watch is not None:
                judged = camera.watch.assess(settings.stale_periods, settings.max_rate)
                for region, level, message, values in judged:
                    name = f"{prefix}: {camera.topic} {region}"
                    yield Status(name, level, message, hardware, values)

    def _node_status(self, name: str, settings: parameters.Parameters) -> Status:
        state = self._state
        hardware = "none"
        values = {"state": state.label}
        if state.segmenter is not None:
            model, backend = state.segmenter.model, state.segmenter.backend
            hardware = f"{backend.name} {backend.device}"
            values |= {
                "model": model.name,
                "model sha256": model.sha256,
                "precision": model.info.precision,
                "backend": backend.name,
                "device": backend.device,
            }
        level, message = Level.OK, state.label
        if state.fatal or state.refusal:
            level, message = Level.ERROR, state.fatal or state.refusal
        elif state.loading:
            level, message = Level.WARN, state.loading
        elif (busy := state.watchdog.busy()) > settings.watchdog_timeout:
            level, message = Level.ERROR, f"inference hangs: no result for {busy:.0f} s"
        return Status(name, level, message, hardware, values)

    def _camera_status(
        self, name: str, camera: CameraTopics, settings: parameters.Parameters, hardware: str
    ) -> Status:
        report = camera.statistics.report()
        level, message = Level.OK, self._state.label
        if message == "active":
            problems = self._problems.get(camera.topic, [])
            if camera.resting:
                message = camera.resting
                if message == diagnostics.IS_DISABLED:
                    problems = []
                elif not camera.input.is_published:
                    level = Level.STALE
            else:
                level, message = diagnostics.assess_camera(
                    report,
                    enabled=settings.enabled,
                    latency_budget=settings.latency_budget,
                    stale_periods=settings.stale_periods,
                    is_simulated=bool(self._node.get_parameter("use_sim_time").value),
                )
            if problems:
                level = Level.WARN if level is Level.OK else level
                message = "; ".join([message, *problems])
        values = {"images": camera.input.source, **diagnostics.camera_values(report)}
        return Status(name, level, message, hardware, values)

    def _log_change(self, status: Status) -> None:
        before = self._logged_levels.get(status.name, Level.OK)
        self._logged_levels[status.name] = status.level
        if status.level == before:
            return
        name = status.name.partition(": ")[2]
        text = f"{name}: {before.name} -> {status.level.name}: {status.message}"
        if status.level is Level.OK:
            self._node.get_logger().info(text)
        else:
            self._node.get_logger().warning(text)
