"""What TensorRT asks of the node: to wait for its builder, and to end when the device is lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
pytest.importorskip("onnxruntime", reason="stands in for the GPU")

import ros_graph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from processes import children, is_running
from ros_graph import Graph, Program, graph, image_message
from sensor_msgs.msg import Image
from tiny_model import tiny_answer, write_slow_model, write_tiny_model

from bisenetv2_ros.backends import BackendUnavailable
from bisenetv2_ros.backends.engine_target import load_library

try:
    load_library()
except BackendUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)

SCRIPT = Path(__file__).parent / "support" / "node_without_gpu.py"
ON_HOST = Path(__file__).parent / "support" / "node_on_host_device.py"
OK, WARN, ERROR = range(3)


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ros_graph.ENVIRONMENT, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bisenetv2_ros" / "engines"


def start(
    model: Path, backend: str, script: Path = SCRIPT, cameras: str = "", more: Sequence[str] = ()
) -> Program:
    words = ["--ros-args", "-p", f"model:={model}", "-p", f"backend:={backend}", "-p", "threads:=1"]
    words += ["-p", f"cameras:={cameras}"] if cameras else []
    words += more
    return Program(words, model.with_suffix(".log"), [sys.executable, str(script)])


def test_the_first_start_builds_and_says_how_far_it_is(ros: Graph, cache: Path, tmp_path: Path):
    program = start(write_slow_model(tmp_path / "slow.onnx", 150), "tensorrt")
    try:
        assert ros.spin_until(
            lambda: ros.status("/segment")[1].startswith("building for tensorrt")
        ), program.output
        assert ros.status("/segment")[0] == WARN
        assert ros.spin_until(lambda: ros.status("/segment")[:2] == (OK, "active")), program.output
    finally:
        code, _ = program.end()
    assert code == 0 and "Traceback" not in program.output, program.output
    assert "building for tensorrt" in program.output
    assert sorted(path.suffix for path in cache.iterdir()) == [".engine", ".json", ".lock"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_build_and_leaves_no_file(
    number: signal.Signals, ros: Graph, cache: Path, tmp_path: Path
):
    program = start(write_slow_model(tmp_path / "slow.onnx", 1500), "tensorrt")
    try:
        assert ros.spin_until(lambda: "%" in ros.status("/segment")[1]), program.output
        builders = children(program.process.pid)
        assert builders
    finally:
        code, _ = program.end(number)
    assert code == 0 and "Traceback" not in program.output, program.output
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []
    assert ros.spin_until(lambda: not any(map(is_running, builders)))


def test_a_lost_device_ends_the_process_after_it_is_in_diagnostics(ros: Graph, tmp_path: Path):
    program = start(write_tiny_model(tmp_path / "tiny.onnx"), "onnxruntime")
    masks = ros.collect(Image, "segmentation/mask")
    publisher = ros.node.create_publisher(Image, "image_raw", 10)
    frames = [image_message(np.full((24, 32, 3), level, np.uint8)) for level in (0, 9)]

    def sending(frame: Image, done) -> bool:
        def step() -> bool:
            publisher.publish(frame)
            ros.spin(0.05)
            return bool(done())

        return ros.spin_until(step)

    try:
        assert sending(frames[0], lambda: masks), program.output
        assert sending(frames[1], lambda: program.process.poll() is not None), program.output
    finally:
        program.end()
    assert program.wait() == 1
    assert "GPU is lost to this process" in program.output
    assert ros.spin_until(
        lambda: ros.status("/segment")[:2] == (ERROR, "GPU is lost to this process")
    )


def test_a_device_that_is_lost_while_loading_ends_the_process(ros: Graph, tmp_path: Path):
    """Also where a manager configures the node, and would do so again."""
    model = write_tiny_model(tmp_path / "tiny.onnx")
    program = start(model, "openvino", more=["-p", "autostart:=false"])
    configure = Transition(id=Transition.TRANSITION_CONFIGURE)
    try:
        answer = ros.call(ChangeState, "segment/change_state", transition=configure)
        assert answer is None or not answer.success
        assert ros.spin_until(lambda: program.process.poll() is not None), program.output
    finally:
        program.end()
    assert program.wait() == 1
    assert "cannot configure: GPU is lost to this process" in program.output


def test_cameras_that_wait_are_segmented_at_once(ros: Graph, cache: Path, tmp_path: Path):
    """Each gets its own mask; one whose frames have no answer costs the others nothing."""
    names = ["front", "left", "right", "bad"]
    topics = ", ".join(f"{name}/image_raw" for name in names)
    program = start(write_tiny_model(tmp_path / "tiny.onnx"), "tensorrt", ON_HOST, f"[{topics}]")
    masks, confidences, publishers, frames = {}, {}, {}, {}
    for number, name in enumerate(names):
        masks[name] = ros.collect(Image, f"{name}/segmentation/mask")
        publishers[name] = ros.node.create_publisher(Image, f"{name}/image_raw", 1)
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        pixels[0, 0, 2] = 255 if name == "bad" else 0
        frames[name] = image_message(pixels, frame_id=name)
    confidences["left"] = ros.collect(Image, "left/segmentation/confidence")

    def send(*senders: str) -> None:
        for name in senders:
            publishers[name].publish(frames[name])
        ros.spin(0.02)

    def good_seen() -> bool:
        send(*names[:3])
        enough = all(len(masks[name]) > 10 for name in names[:3]) and confidences["left"]
        return bool(enough) and "ran 3 images" in program.output

    def bad_dropped() -> bool:
        send(*names)
        dropped = ros.status("/bad/image_raw")[2].get("dropped: inference", "0")
        enough = int(dropped) > 5 and all(len(masks[name]) > 20 for name in names[:3])
        return enough and "ran 4 images" in program.output

    try:
        assert ros.spin_until(good_seen), program.output
        assert ros.spin_until(bad_dropped), program.output
        assert ros.spin_until(lambda: ros.status("/segment")[:2] == (OK, "active")), ros.statuses
    finally:
        code, _ = program.end()
    assert code == 0 and "Traceback" not in program.output, program.output
    for name in names[:3]:
        pixels = np.frombuffer(frames[name].data, np.uint8).reshape(1, 24, 32, 3)
        mask, confidence = tiny_answer(pixels)
        for message in masks[name]:
            assert message.header.frame_id == name
            assert bytes(message.data) == mask.tobytes()
        for message in confidences.get(name, []):
            assert bytes(message.data) == confidence.tobytes()
    assert masks["bad"] == []
