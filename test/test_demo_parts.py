"""The parts of the demo that need neither ROS nor a model."""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import HANG

from bisenetv2_ros.demo.results import EvenlySpaced, Results, SegmentedFrame
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.system.child_process import Child, end_all


@given(length=st.integers(0, 400), count=st.integers(2, 8))
def test_evenly_spaced_whatever_the_length(length, count):
    stream: EvenlySpaced[int] = EvenlySpaced(count)
    for item in range(length):
        stream.add(item)
    picked = stream.pick()
    assert all(index == item for index, item in picked)
    indices = [index for index, _ in picked]
    assert len(indices) == min(count, length)
    if length:
        assert (indices[0], indices[-1]) == (0, length - 1)
    gaps = np.diff(indices)
    assert (gaps > 0).all()
    if length > count:
        even = (length - 1) / (count - 1)
        assert gaps.max() <= 1.5 * even + 1 and gaps.min() >= 0.5 * even - 1


OBEDIENT = """import time
try:
    print('up', flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print('down')
"""
DEAF = """import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print('up', flush=True)
time.sleep(600)
"""


def child(tmp_path, code: str, name: str = "child") -> Child:
    child = Child(name, [sys.executable, "-c", code], os.environ, tmp_path / f"{name}.log")
    while "up" not in child.last_lines() and child.exit_code() is None:
        time.sleep(0.01)
    return child


def test_children_are_interrupted_and_waited_for(tmp_path):
    children = [child(tmp_path, OBEDIENT, name) for name in ("one", "two")]
    assert [one.exit_code() for one in children] == [None, None]
    end_all(children)
    assert [one.exit_code() for one in children] == [0, 0]
    assert all(one.last_lines() == "    up\n    down" for one in children)


def test_child_is_interrupted_once(tmp_path):
    """What it does on its way out is not cut short."""
    tidy = child(tmp_path, OBEDIENT.replace("print('down')", "time.sleep(0.3); print('tidy')"))
    for _ in range(30):
        tidy.interrupt()
        time.sleep(0.005)
    assert tidy.wait() == 0
    assert tidy.last_lines() == "    up\n    tidy"


def test_child_that_does_not_obey_is_terminated(tmp_path, monkeypatch):
    grace = "bisenetv2_ros.system.child_process.GRACE"
    monkeypatch.setattr(grace, 0.2)
    deaf = child(tmp_path, DEAF)
    terminate = deaf._process.terminate

    def terminate_with_patience() -> None:
        monkeypatch.setattr(grace, HANG)
        terminate()

    monkeypatch.setattr(deaf._process, "terminate", terminate_with_patience)
    end_all([deaf])
    assert deaf.exit_code() == -15


def test_child_keeps_out_of_the_terminals_interrupts(tmp_path):
    one = child(tmp_path, "import os; print('up', os.getsid(0), flush=True)")
    one.wait()
    assert int(one.last_lines().split()[-1]) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_child_ends_when_its_parent_is_killed(tmp_path):
    log = tmp_path / "orphan.log"
    parent = child(
        tmp_path,
        "import os, sys, time; from pathlib import Path\n"
        "from bisenetv2_ros.system.child_process import Child\n"
        f"Child('orphan', [sys.executable, '-c', {OBEDIENT!r}], os.environ, Path({str(log)!r}))\n"
        "print('up', flush=True); time.sleep(600)",
        "parent",
    )
    while log.read_text() != "up\n":
        time.sleep(0.01)
    parent._process.kill()
    parent.wait()
    give_up = time.monotonic() + HANG
    while log.read_text() != "up\ndown\n":
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_child_that_failed_tells_how(tmp_path):
    failed = child(tmp_path, "import sys; print('\\n'.join(map(str, range(20)))); sys.exit(3)")
    assert failed.wait() == 3
    assert failed.last_lines(2) == "    18\n    19"
    end_all([failed])  # nothing left to do, and no error


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_peak_memory_of_a_child(tmp_path):
    one = child(tmp_path, "x = bytearray(100 << 20); del x\n" + OBEDIENT)
    peak = one.peak_memory()
    assert peak is not None and 100 < peak < 200
    end_all([one])
    assert one.peak_memory() is None


def test_pictures_of_an_earlier_demo_do_not_mix_with_the_new(tmp_path):
    write_picture(tmp_path / "frame_0016.png", np.zeros((4, 4), np.uint8))  # an earlier one
    (tmp_path / "frame_of_mine.png").write_bytes(b"the user's own")
    (tmp_path / "notes.txt").write_text("the user's own")
    frame = SegmentedFrame(
        np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8), np.zeros(11)
    )
    results = Results(tmp_path, CAMVID, rate=10)
    results.add(frame)
    pictures = [path.name for path in results.close() if path.suffix == ".png"]
    assert pictures == ["frame_0000.png"]
    names = sorted(path.name for path in tmp_path.glob("*[!4]"))
    assert names == ["frame_0000.png", "frame_of_mine.png", "notes.txt"]


def test_topic_of_a_bag_goes_to_the_camera(tmp_path):
    bags = pytest.importorskip("bags", reason="needs rosbags and mcap")
    from bisenetv2_ros.cli import camera, demo
    from bisenetv2_ros.demo.run import _camera_command, frame_count

    rear = ("/rear/image_raw", "cdr", (bags.IMAGE, "ros2msg", b""), bags.image_bytes(0))
    drive = bags.write_mcap(tmp_path / "drive.mcap", 3, others=(rear,))
    parsers = argparse.ArgumentParser(), argparse.ArgumentParser()
    for parser, verb in zip(parsers, (demo, camera), strict=True):
        verb.add_arguments(parser)
    words = ["--source", str(drive), "--output", str(tmp_path), "--topic", bags.TOPIC]
    args = parsers[0].parse_args([*words, "--image-encoding", "bgr8"])
    assert frame_count(args) == 3
    command = _camera_command(args, 3)
    words = command[command.index("camera") + 1 : command.index("--ros-args")]
    given = parsers[1].parse_args(words)
    assert (given.topic, given.image_encoding) == ([bags.TOPIC], {"": "bgr8"})
    args.topic.append("/rear/image_raw")
    with pytest.raises(ValueError, match="expected one --topic"):
        frame_count(args)
