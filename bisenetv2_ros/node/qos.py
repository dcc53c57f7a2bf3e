"""Quality of service of every topic, and mismatches in the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.topic_endpoint_info import TopicEndpointInfo

from bisenetv2_ros.node.parameters import QOS_PREFIX
from bisenetv2_ros.node.rclpy_private import declare_qos_overrides, given_values

#: The policies of every topic that parameters may override.
OVERRIDES = QoSOverridingOptions(
    (
        QoSPolicyKind.HISTORY,
        QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY,
        QoSPolicyKind.DURABILITY,
    )
)


def newest() -> QoSProfile:
    """Sensor data (REP-2003) with a queue of one: older frames are not useful."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def reliable(depth: int) -> QoSProfile:
    """Matches all subscribers but transient-local ones; RViz asks for reliable."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """Later subscribers get the last message."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


@contextlib.contextmanager
def naming_topic(node: Node, name: str) -> Iterator[None]:
    """Re-raise any rclpy error as ValueError naming the topic, which rclpy often omits."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"topic {node.resolve_topic_name(name)}: {error}") from error


class SubscriptionQoS:
    """The QoS of one subscription: that of its publishers, unless a parameter overrides it."""

    def __init__(self, node: Node, name: str) -> None:
        """Declare the parameters that override it.

        Raises ValueError, naming the topic, for an invalid override.
        """
        topic = node.resolve_topic_name(name)
        declared = newest()
        policies = [policy.name.lower() for policy in OVERRIDES.policy_kinds]
        names = {policy: f"{QOS_PREFIX}{topic}.subscription.{policy}" for policy in policies}
        given = given_values(node, names.values())
        with naming_topic(node, name):
            declare_qos_overrides(node, topic, declared, OVERRIDES)
        self._overrides = {
            policy: getattr(declared, policy) for policy, name in names.items() if name in given
        }

    def profile(self, publishers: Sequence[TopicEndpointInfo], depth: int = 1) -> QoSProfile:
        """The best profile that matches all `publishers`.

        Transient local is requested only if all publishers offer it. A `depth` over 1 is for
        streams that must not lose messages, if they are offered reliably.
        """
        offered = [publisher.qos_profile for publisher in publishers]
        profile = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        is_latched = {qos.durability for qos in offered} == {DurabilityPolicy.TRANSIENT_LOCAL}
        is_reliable = {qos.reliability for qos in offered} == {ReliabilityPolicy.RELIABLE}
        if is_latched:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        if is_reliable and (is_latched or depth > 1):
            profile.reliability = ReliabilityPolicy.RELIABLE
        for policy, value in self._overrides.items():
            setattr(profile, policy, value)
        return profile


def incompatible(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Why two profiles do not match, in rclpy's words; '' if they do or may."""
    compatibility, reason = qos_check_compatible(publisher, subscription)
    if compatibility != QoSCompatibility.ERROR:
        return ""
    return str(reason.replace("ERROR: ", " ").strip(" ;"))


def output_problems(node: Node, names: Iterable[str]) -> list[str]:
    """List why outputs do not reach their subscribers, or are not only this node's, one line each.

    names: of the topics, as given to rclpy. Both sides are read from the graph, where a policy that
    was not requested has the same value everywhere.
    """
    own = (node.get_name(), node.get_namespace())
    problems = set()
    others: dict[str, list[str]] = {}  # topics by who else publishes them
    for name in names:
        topic = node.resolve_topic_name(name)
        publishers = node.get_publishers_info_by_topic(name)
        ours = [p for p in publishers if (p.node_name, p.node_namespace) == own]
        for subscription in node.get_subscriptions_info_by_topic(name):
            for publisher in ours:
                if reason := incompatible(publisher.qos_profile, subscription.qos_profile):
                    problems.add(f"incompatible QoS on {topic}: {reason}")
        for publisher in publishers:
            who = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
            if publisher not in ours:
                others.setdefault(f"node {who}", []).append(topic)
        if len(ours) > 1:
            who = f"another node named {node.get_fully_qualified_name()}"
            others.setdefault(who, []).append(topic)
    for who, topics in others.items():
        more = f" and {len(topics) - 1} more outputs" if len(topics) > 1 else ""
        problems.add(
            f"{who} publishes {topics[0]}{more} too: stop one, or give it a name and namespace of "
            "its own (-r __node:=NAME -r __ns:=/NAMESPACE)"
        )
    return sorted(problems)
