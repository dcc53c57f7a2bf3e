"""The bond with Nav2's lifecycle manager, over a bondpy that only notes what it is asked."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn as Outcome
from rclpy.signals import SignalHandlerOptions
from ros_graph import DOMAIN
from tiny_model import write_tiny_model

from bisenetv2_ros.node.segment_node import SegmentNode


class Bond:
    """Has the constructor and methods of bondpy 4.1.0 (ros/bond_core, bondpy/bondpy/bondpy.py)."""

    def __init__(self, topic, id, node, on_broken=None, on_formed=None):
        self.words = [f"{topic} {id} of {node.get_fully_qualified_name()}"]
        bonds.append(self)

    def set_heartbeat_period(self, seconds):
        self.words.append(f"period {seconds}")

    def set_heartbeat_timeout(self, seconds):
        self.words.append(f"timeout {seconds}")

    def start(self):
        self.words.append("start")

    def shutdown(self):
        self.words.append("shutdown")


bonds: list[Bond] = []


@pytest.fixture
def bondpy(monkeypatch):
    package, module = ModuleType("bondpy"), ModuleType("bondpy.bondpy")
    module.Bond = Bond
    monkeypatch.setitem(sys.modules, "bondpy", package)
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
    bonds.clear()


@pytest.fixture
def make_node(tmp_path):
    made = contextlib.ExitStack()

    def make(*words: str) -> SegmentNode:
        model = write_tiny_model(tmp_path / "tiny.onnx")
        given = ["-p", f"model:={model}", "-p", "backend:=onnxruntime", "-r", "__ns:=/robot"]
        rclpy.init(
            args=["--ros-args", *given, *words],
            domain_id=DOMAIN,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        made.callback(rclpy.shutdown)
        node = SegmentNode()
        made.callback(node.destroy_node)
        made.callback(node.close)
        return node

    with made:
        yield make


@pytest.mark.usefixtures("bondpy")
def test_bond_lasts_as_long_as_a_manager_has_the_node_active(make_node):
    node = make_node("-p", "autostart:=false")
    assert node.trigger_configure() == Outcome.SUCCESS
    assert bonds == []
    for _ in range(2):
        assert node.trigger_activate() == Outcome.SUCCESS
        *_, bond = bonds
        assert bond.words == [
            "bond segment of /robot/segment",
            "period 0.1",
            "timeout 4.0",
            "start",
        ]
        assert node.trigger_deactivate() == Outcome.SUCCESS
        assert bond.words[-1] == "shutdown"
    assert node.trigger_activate() == Outcome.SUCCESS
    node.close()
    assert [bond.words.count("shutdown") for bond in bonds] == [1, 1, 1]


@pytest.mark.usefixtures("bondpy")
def test_node_that_starts_itself_has_no_bond(make_node):
    make_node().start()
    assert bonds == []


def test_without_bondpy_the_node_says_what_the_manager_needs(make_node, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "bondpy", None)
    node = make_node("-p", "autostart:=false")
    assert node.trigger_configure() == Outcome.SUCCESS
    assert node.trigger_activate() == Outcome.SUCCESS
    assert "bond_timeout: 0.0" in capfd.readouterr().err
