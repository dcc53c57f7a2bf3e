"""The node as users start it, for tests: fixtures, and what a test does to it over the graph."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from patience import HANG
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy import get_rmw_implementation_identifier
from ros_graph import Graph, Program, graph
from sensor_msgs.msg import Image
from tiny_model import write_tiny_model
from trouble_model import write_trouble_model

OK, WARN, ERROR, STALE = range(4)
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
SHUTDOWN = {"unconfigured": 5, "inactive": 6, "active": 7}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    write_tiny_model(directory / "tiny.onnx")
    write_trouble_model(directory / "trouble.onnx")
    return directory


@pytest.fixture
def ros():
    with graph() as made:
        yield made


@pytest.fixture
def start(models, tmp_path):
    """Start the node with parameters; it is ended, and must end well, with the test."""
    programs: list[Program] = []

    def start_node(*arguments: str, model: str = "tiny", **parameters: object) -> Program:
        words = ["segment", "--ros-args", *arguments]
        given = {"model": f"{models}/{model}.onnx", "backend": "onnxruntime", "threads": 1}
        for name, value in (given | parameters).items():
            words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        programs.append(Program(words, tmp_path / f"segment{len(programs)}.log"))
        return programs[-1]

    yield start_node
    for program in programs:
        ended_before = program.process.poll() is not None
        code, _ = program.end()
        assert ended_before or code == 0, program.output
        assert "Traceback" not in program.output, program.output


@pytest.fixture
def scene() -> np.ndarray:
    """A frame at the size of the network, so that no resize stands between it and the answer."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    pixels[..., 2] = 0  # no trouble
    return pixels


def publish_until(
    ros: Graph, publisher, message, done, *, also=(), period: float = 0.05, timeout: float = HANG
):
    """Publish again and again; whether `done()` became true before `timeout` seconds.

    also: a second publisher and its message.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if also:
            also[0].publish(also[1])
        publisher.publish(message)
        if ros.spin_until(done, period):
            return True
    return False


def of(frame: Any, messages: Sequence[Any]) -> list[Any]:
    """Those that answer a frame, which has a stamp of its own. Others may come late: a list of
    messages that was cleared says nothing."""
    return [message for message in messages if message.header == frame.header]


def camera(ros: Graph, topic: str = "image_raw", kind: type = Image, qos=10):
    publisher = ros.node.create_publisher(kind, topic, qos)
    assert ros.spin_until(publisher.get_subscription_count), f"nobody subscribes to {topic}"
    return publisher


def set_parameter(ros: Graph, name: str, value: object):
    if isinstance(value, bool):
        message = ParameterValue(type=1, bool_value=value)
    elif isinstance(value, int):
        message = ParameterValue(type=2, integer_value=value)
    elif isinstance(value, float):
        message = ParameterValue(type=3, double_value=value)
    else:
        message = ParameterValue(type=4, string_value=value)
    parameters = [Parameter(name=name, value=message)]
    return ros.call(SetParameters, "segment/set_parameters", parameters=parameters).results[0]


def change_state(ros: Graph, transition: int, timeout: float = HANG) -> bool:
    """Whether the transition was made. Humble and Jazzy do not answer one that is not possible."""
    before = state(ros)
    wanted = Transition(id=transition)
    response = ros.call(ChangeState, "segment/change_state", timeout, transition=wanted)
    if response is None:  # or the answer was lost, as in `state`
        return state(ros) != before
    return response.success


def state(ros: Graph) -> str:
    for _ in range(20):  # the answer is lost where the node does not know yet who asks
        answer = ros.call(GetState, "segment/get_state", timeout=3.0)
        if answer is not None:
            return answer.current_state.label
    raise AssertionError("segment/get_state does not answer")


def end_well(program: Program, by: signal.Signals) -> None:
    """End it; it must end, say nothing bad and leave no shared memory behind."""
    memory = program.shared_memory()
    assert memory or "fastrtps" not in get_rmw_implementation_identifier()
    code, _ = program.end(by)
    assert code == 0, program.output
    assert "Traceback" not in program.output, program.output
    assert not [file for file in memory if file.exists()], "shared memory is left"


def pixels_of(message: Image) -> np.ndarray:
    channels = {"mono8": (), "rgb8": (3,)}[message.encoding]
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, *channels)
