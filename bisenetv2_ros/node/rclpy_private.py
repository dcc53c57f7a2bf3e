"""Access to private names of rclpy, with fallbacks.

The names are the same from Humble to Rolling, but may change in any release. If the name that a
function needs is missing, it warns and does what the public API allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from rclpy import qos_overriding_options
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription


def given_values(node: Node, names: Iterable[str]) -> Mapping[str, Any]:
    """Return the values given for parameters of `node`, including unknown parameters.

    An empty list is returned as None. Without the private name, only those of `names` that are not
    declared yet are returned (rclpy's own declaration of all given values fails for empty lists).
    """
    try:
        return {name: each.value for name, each in node._parameter_overrides.items()}
    except AttributeError:
        _warn(node, "parameters with unknown names, and those given an empty list, go unnoticed")
    return {name: value for name in names if (value := _given(node, name)) is not None}


def _given(node: Node, name: str) -> Any:
    from rcl_interfaces.msg import ParameterDescriptor

    if node.has_parameter(name):
        return None
    value = node.declare_parameter(name, None, ParameterDescriptor(dynamic_typing=True)).value
    node.undeclare_parameter(name)
    return value


def declare_qos_overrides(
    node: Node, topic: str, profile: QoSProfile, options: QoSOverridingOptions
) -> None:
    """Declare the parameters that override a subscription's QoS, and apply them to `profile`.

    rclpy does this when it creates a subscription; this node creates its subscriptions later, and
    again whenever publishers change.
    """
    declare = getattr(qos_overriding_options, "_declare_qos_parameters", None)
    if declare is None:
        _warn(node, f"{topic} takes no qos_overrides")
    else:
        declare(Subscription, node, topic, profile, options)


def free_state_machine(node: Node) -> None:
    """Free the state machine of a destroyed lifecycle node.

    rclpy leaves this to the garbage collector. Until then the node holds shared memory, which stays
    behind if the process exits immediately.
    """
    machine = getattr(node, "_state_machine", None)
    if machine is None:
        _warn(node, "shared memory may be left behind in /dev/shm")
    else:
        machine.destroy_when_not_in_use()


def _warn(node: Node, consequence: str) -> None:
    try:
        version = metadata.version("rclpy")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    node.get_logger().warning(f"rclpy {version} is not known to this package: {consequence}")
