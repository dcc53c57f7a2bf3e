"""The SROS2 policy allows what the running node uses, and nothing more."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

from ros_graph import Program, graph
from sensor_msgs.msg import Image
from tiny_model import write_tiny_model

POLICY = Path(__file__).resolve().parent.parent / "config" / "sros2" / "segment.policy.xml"
PROFILE = ElementTree.parse(POLICY).getroot().find("./enclaves/enclave/profiles/profile")

#: What a rule is called in a policy, by (element, attribute).
RIGHTS = {
    ("topics", "publish"): "publish",
    ("topics", "subscribe"): "subscribe",
    ("services", "reply"): "serve",
    ("services", "request"): "call",
}

#: Rights that the node makes no use of here: ROS distributions differ, and so do installations.
NOT_EVERYWHERE = {
    ("publish", "/segmentation/label_info"),  # where vision_msgs is installed
    ("serve", "/segment/get_type_description"),  # not on Humble
}


def allowed() -> set[tuple[str, str]]:
    """(right, full name) for every rule of the policy."""
    assert PROFILE is not None
    found = set()
    for rules in PROFILE:
        for attribute, value in rules.attrib.items():
            assert value == "ALLOW", "whatever is not allowed is denied"
            for rule in rules:
                name = (rule.text or "").replace("~", f"/{PROFILE.get('node')}", 1)
                full = name if name.startswith("/") else f"/{name}"
                found.add((RIGHTS[rules.tag, attribute], full))
    return found


def used(node, name: str) -> set[tuple[str, str]]:
    """(right, full name) of all that a running node has, as the graph tells it."""
    return {
        (right, found)
        for right, ask in {
            "publish": node.get_publisher_names_and_types_by_node,
            "subscribe": node.get_subscriber_names_and_types_by_node,
            "serve": node.get_service_names_and_types_by_node,
            "call": node.get_client_names_and_types_by_node,
        }.items()
        for found, _ in ask(name, "/")
    }


def test_the_policy_is_written_as_the_schema_asks():
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.get("version")) == ("policy", "0.2.0")
    (enclave,) = root.findall("./enclaves/enclave")
    assert enclave.get("path") == "/segment"
    assert PROFILE is not None and PROFILE.attrib == {"ns": "/", "node": "segment"}
    assert {(rules.tag, rule.tag) for rules in PROFILE for rule in rules} == {
        ("topics", "topic"),
        ("services", "service"),
    }
    names = [rule.text or "" for rules in PROFILE for rule in rules]
    assert len(names) == len(set(names)), "a name twice"
    assert not [name for name in names if "*" in name or not name.strip("/~")]


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_policy_allows_what_the_node_uses_and_nothing_more(transport, tmp_path):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    words = ["segment", "--ros-args", "-p", f"model:={model}", "-p", "use_sim_time:=true"]
    words += ["-p", f"image_transport:={transport}"]
    images = {"raw": "/image_raw", "compressed": "/image_raw/compressed"}
    with graph() as ros:
        program = Program(words, tmp_path / "segment.log")
        ros.collect(Image, "/segmentation/mask")  # images are subscribed to while somebody listens
        try:
            assert ros.spin_until(
                lambda: (
                    "segment" in ros.node.get_node_names()
                    and ("subscribe", images[transport]) in used(ros.node, "segment")
                    and ("serve", "/segment/enable") in used(ros.node, "segment")
                )
            ), program.output
            other = {("subscribe", images["compressed" if transport == "raw" else "raw"])}
            unused = lambda: allowed() - used(ros.node, "segment") - other - NOT_EVERYWHERE  # noqa: E731
            assert ros.spin_until(lambda: not unused()), f"more is allowed than is used: {unused()}"
            ros.spin(1.0)  # for what else it may use
            has = used(ros.node, "segment")
        finally:
            program.end()
    assert not has - allowed(), "the node would be refused what it needs"
