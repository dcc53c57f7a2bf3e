"""A ROS graph for tests: our programs as processes, and a node of the test that talks to them.

Every test process has a domain of its own, so that neither a robot nor another test run is heard.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from patience import HANG
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image


def own_domain() -> int:
    """A domain from 1 to 101: above, DDS ports run into those that Linux gives to connections.

    The workers of one pytest-xdist run differ for certain, other test runs most probably.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(worker.removeprefix("gw")) if worker else 0
    run = os.getppid() if worker else os.getpid()
    return 1 + (run + 37 * number) % 101


DOMAIN = own_domain()
ENVIRONMENT = {
    **os.environ,
    "ROS_DOMAIN_ID": str(DOMAIN),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",  # where it crashed, in the output
    "MALLOC_PERTURB_": "165",  # what is used after it was freed is no longer there
}
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def dds_memory(pid: int) -> set[Path]:
    """The segments of shared memory that a process has mapped. Ports are left out: every process
    that writes to one holds it open."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {Path(name) for name in re.findall(r"/dev/shm/fast[a-z]+_[0-9a-f]{16}\b", maps)}


class Program:
    """A verb of the command-line program as a process, its output in a file.

    command: another program to run instead, with the words for arguments.
    """

    def __init__(self, words: list[str], log: Path, command: Sequence[str] = ()) -> None:
        if not command:
            installed = shutil.which("bisenetv2")
            command = [installed] if installed else [sys.executable, "-m", "bisenetv2_ros.cli.main"]
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def shared_memory(self) -> set[Path]:
        """The segments that Fast DDS has made for it and that must go with it."""
        return dds_memory(self.process.pid) - dds_memory(os.getpid())

    def wait(self, timeout: float = HANG) -> int:
        """Exit code, when it ends by itself."""
        return self.process.wait(timeout)

    def end(self, by: signal.Signals = signal.SIGINT) -> tuple[int, float]:
        """Send the signal; (exit code, seconds until the end). A killed process leaks DDS memory,
        so killing is for the desperate."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            code = self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end on {by.name}; output:\n{self.output}") from None
        return code, time.monotonic() - began


class Graph:
    """The test's own node."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=DOMAIN)
        self.node = rclpy.create_node("tester", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.statuses: dict[str, DiagnosticStatus] = {}  # the newest of each name
        self.status_times: list[float] = []  # of the messages
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._take_diagnostics, RELIABLE
        )

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.shutdown()

    def collect(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """The list that messages of a topic are appended to from now on."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def spin_until(self, done: Callable[[], Any], timeout: float = HANG) -> bool:
        """Handle callbacks until `done()`; whether that came before `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def spin(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def call(self, kind: type, name: str, timeout: float = HANG, **fields: Any) -> Any:
        """Call a service and return its response, None if none comes in time."""
        client = self.node.create_client(kind, name)
        try:
            assert self.spin_until(client.service_is_ready), f"no service {name}"
            future = client.call_async(kind.Request(**fields))
            return future.result() if self.spin_until(future.done, timeout) else None
        finally:
            self.node.destroy_client(client)

    def status(self, topic: str) -> tuple[int, str, dict[str, str]]:
        """Level, message and values of the newest status about `topic`; level -1 for none."""
        status = self.statuses.get(f"segment: {topic}")
        if status is None:
            return -1, "", {}
        return status.level[0], status.message, {pair.key: pair.value for pair in status.values}

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        self.status_times.append(time.monotonic())
        self.statuses |= {status.name: status for status in message.status}


@contextmanager
def graph() -> Iterator[Graph]:
    """A `Graph` that is closed at the end."""
    made = Graph()
    try:
        yield made
    finally:
        made.close()


def image_message(
    pixels: np.ndarray, stamp: tuple[int, int] = (7, 8), frame_id: str = "camera"
) -> Image:
    """An rgb8 Image of (H, W, 3) uint8."""
    message = Image(encoding="rgb8", height=pixels.shape[0], width=pixels.shape[1])
    message.header.stamp = Time(sec=stamp[0], nanosec=stamp[1])
    message.header.frame_id = frame_id
    message.step = pixels.shape[1] * 3
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message
