"""Quality of service of every topic, and what does not match in the graph."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)


def newest() -> QoSProfile:
    """Sensor data (REP-2003) with a queue of one: an older frame is of no use."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def reliable(depth: int) -> QoSProfile:
    """Matches every subscriber but those that ask for the past; RViz asks for reliable ones."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """The last message reaches subscribers that come later."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def graph_problems(
    node: Node, image_name: str, image_type: type, output_names: Iterable[str]
) -> list[str]:
    """Say in one line each why messages do not flow: no publisher, other types, QoS.

    Names are as given to rclpy, before remapping: of a camera's images and of its outputs.
    """
    topic = node.resolve_topic_name(image_name)
    publishers = node.get_publishers_info_by_topic(image_name)
    problems = [] if publishers else [f"nobody publishes {topic}"]
    expected = f"sensor_msgs/msg/{image_type.__name__}"
    problems += [
        f"{topic} is published as {other.topic_type}, expected {expected}"
        for other in publishers
        if other.topic_type != expected
    ]
    names = [image_name, *output_names]
    return problems + [problem for name in names for problem in _qos_problems(node, name)]


def _qos_problems(node: Node, name: str) -> list[str]:
    """Name the publishers and subscriptions of a topic that do not match one of this node's.

    Both sides as the graph tells them: there a policy that was not asked for has the same value
    everywhere.
    """
    own = (node.get_name(), node.get_namespace())
    topic = node.resolve_topic_name(name)
    problems = set()
    for publisher in node.get_publishers_info_by_topic(name):
        for subscription in node.get_subscriptions_info_by_topic(name):
            if own not in (
                (publisher.node_name, publisher.node_namespace),
                (subscription.node_name, subscription.node_namespace),
            ):
                continue
            compatibility, reason = qos_check_compatible(
                publisher.qos_profile, subscription.qos_profile
            )
            if compatibility == QoSCompatibility.ERROR:
                reason = reason.replace("ERROR: ", " ").strip(" ;")
                problems.add(f"incompatible QoS on {topic}: {reason}")
    return sorted(problems)
