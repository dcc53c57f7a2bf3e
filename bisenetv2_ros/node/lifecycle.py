"""A lifecycle node whose transitions and callbacks report errors instead of raising them."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from bisenetv2_ros.backends import DeviceLost
from bisenetv2_ros.node.parameter_files import last_given
from bisenetv2_ros.node.rclpy_private import free_state_machine
from bisenetv2_ros.node.state import NodeState


class NodeFailure(Exception):
    """The node cannot continue and has logged why; the process ends with an exit code."""


class ReportingNode(LifecycleNode):
    """A lifecycle node with a `NodeState`; its transitions are made by `transition`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, cli_args=last_given(name, sys.argv))
        self.state = NodeState()

    def start(self) -> None:
        """Configure and activate. Raises NodeFailure, with the cause logged, if one is refused."""
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise NodeFailure(self.state.refusal)

    def close(self) -> bool:
        """Stop all work. False if some cannot be stopped: the process must not unload its
        libraries."""
        return True

    def destroy_node(self) -> None:
        super().destroy_node()
        free_state_machine(self)


def transition(work: Callable[[Any], None]) -> Callable[..., TransitionCallbackReturn]:
    """Make a lifecycle callback of a ReportingNode that logs an exception of `work` and fails.

    rclpy itself swallows the exception silently (ros2/rclpy#1673).
    """

    @functools.wraps(work)
    def callback(node: ReportingNode, _: LifecycleState) -> TransitionCallbackReturn:
        try:
            work(node)
        except Exception as error:
            if not node.context.ok():  # a signal has ended the work, and entities are invalid
                return TransitionCallbackReturn.FAILURE
            if not isinstance(error, (ValueError, OSError, RuntimeError)):
                node.get_logger().error(traceback.format_exc())
            name = work.__name__.removeprefix("on_")
            node.state.refusal = f"cannot {name}: {' '.join(str(error).split()) or repr(error)}"
            node.get_logger().error(node.state.refusal)
            if isinstance(error, DeviceLost):  # no other transition would fare better
                node.state.lose_device(error)
            return TransitionCallbackReturn.FAILURE
        node.state.refusal = ""
        return TransitionCallbackReturn.SUCCESS

    return callback


def guarded(node: Node, callback: Callable[..., None]) -> Callable[..., None]:
    """Log exceptions of `callback`: one that leaves `spin` would end the node."""

    @functools.wraps(callback)
    def guard(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except NodeFailure:
            raise
        except Exception:
            if node.context.ok():  # else the process is ending and entities are invalid
                node.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)

    return guard
