"""A bag replayed with its clock by a process, as `ros2 bag play --clock --loop` does it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

from bisenetv2_ros.msg import ClassFractions
from ros_graph import Program
from running_node import OK, STALE
from sensor_msgs.msg import Image
from std_msgs.msg import String

pytest_plugins = ["running_node"]  # fixtures

FRAMES = 20
START, GAP = 1_600_000_000, 1000  # seconds: the recording was interrupted after half of it

PLAYER = f"""
import json, sys, time
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node("player")
clock = node.create_publisher(Clock, "/clock", 10)
images = node.create_publisher(Image, "image_raw", 10)
told = node.create_publisher(String, "told", 10)
said = []
node.create_subscription(String, "tell", lambda message: said.append(message.data), 10)
answered = []
node.create_subscription(Image, "segmentation/mask", answered.append, 10)
message = Image(encoding="rgb8", height=24, width=32, step=96)
message.data.frombytes(bytes(24 * 96))


def at(milliseconds):
    return Time(sec=milliseconds // 1000, nanosec=milliseconds % 1000 * 10**6)


def wait_for_answer():
    for _ in range(250):  # a frame may be lost
        if answered and answered[-1].header.stamp == message.header.stamp:
            break
        rclpy.spin_once(node, timeout_sec=0.02)


def tell(now, steps):
    for _ in range(steps):  # 100 Hz
        clock.publish(Clock(clock=at(now)))
        rclpy.spin_once(node, timeout_sec=0)
        time.sleep(0.01)
        now += 10


loop = 0
while True:
    for frame in range({FRAMES}):
        now = {START} * 1000 + frame * 100 + (frame >= {FRAMES} // 2) * {GAP} * 1000
        message.header.stamp = at(now)
        if frame:
            tell(now, 1)
        images.publish(message)  # the first one before the clock, as it may happen
        tell(now, 10)
        if frame in ({FRAMES} // 2 - 1, {FRAMES} - 1):
            wait_for_answer()  # one that is answered after the jump is as old as the jump is long
        while said and said[-1] == "pause":  # neither frames nor clock
            rclpy.spin_once(node, timeout_sec=0.05)
    loop += 1
    told.publish(String(data=str(loop)))
"""


def test_a_bag_that_loops_and_pauses(ros, start, tmp_path):
    start(use_sim_time=True, latency_budget=30.0)  # of a slow machine; every jump is far longer
    masks = ros.collect(Image, "segmentation/mask")
    fractions = ros.collect(ClassFractions, "segmentation/class_fractions")
    loops = ros.collect(String, "told")
    tell = ros.node.create_publisher(String, "tell", 10)
    judged: list[tuple[int, str]] = []

    def looked_until(done) -> bool:
        def look() -> bool:
            level, text, values = ros.status("/image_raw")
            if not judged or judged[-1] != (level, text):
                judged.append((level, text))
            assert not float(values.get("latency p99 [s]", "nan")) > 30, judged
            return done()

        return ros.spin_until(look)

    player = Program([], tmp_path / "player.log", command=[sys.executable, "-c", PLAYER])
    try:
        assert ros.spin_until(lambda: masks and fractions), player.output
        # Frames that came before the first clock are forgotten after a loop or two.
        assert ros.spin_until(lambda: len(loops) >= 3), player.output
        judged.clear()
        seen = len(loops)
        assert looked_until(lambda: len(loops) >= seen + 3), player.output
        tell.publish(String(data="pause"))
        assert looked_until(lambda: ros.status("/image_raw")[0] == STALE), judged
        before = len(masks)
        tell.publish(String(data="go"))
        assert looked_until(
            lambda: len(masks) > before + FRAMES and ros.status("/image_raw")[0] == OK
        ), judged
    finally:
        player.end()
    texts = json.dumps(judged)
    assert "clock" not in texts and "budget" not in texts, judged

    stamps = [(mask.header.stamp.sec, mask.header.stamp.nanosec // 10**6) for mask in masks]
    times = [START * 1000 + i * 100 + (i >= FRAMES // 2) * GAP * 1000 for i in range(FRAMES)]
    assert set(stamps) <= {divmod(time, 1000) for time in times}
    assert len(set(stamps)) > FRAMES // 2
    latencies = np.array([message.latency for message in fractions])
    measured = latencies[~np.isnan(latencies)]
    assert measured.size, latencies  # not of frames that overtake the clock
    assert (measured >= 0).all() and (measured < 30).all()
