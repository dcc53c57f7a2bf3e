"""Lifecycle transitions that report their errors instead of raising."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from bisenetv2_ros.backends import DeviceLost

if TYPE_CHECKING:
    from bisenetv2_ros.node.segment_node import SegmentNode


class NodeFailure(Exception):
    """The node cannot go on, has logged why, and the process is to end with an exit code."""


def transition(work: Callable[[SegmentNode], None]) -> Callable[..., TransitionCallbackReturn]:
    """Make a lifecycle callback: failure, with the cause logged, if `work` raises.

    rclpy itself swallows the exception without a word (ros2/rclpy#1673).
    """

    @functools.wraps(work)
    def callback(node: SegmentNode, _: LifecycleState) -> TransitionCallbackReturn:
        try:
            work(node)
        except Exception as error:
            if not isinstance(error, (ValueError, OSError, RuntimeError)):
                node.get_logger().error(traceback.format_exc())
            name = work.__name__.removeprefix("on_")
            node.refusal = f"cannot {name}: {' '.join(str(error).split()) or repr(error)}"
            node.get_logger().error(node.refusal)
            if isinstance(error, DeviceLost):  # no other transition would fare better
                node.lose_device(error)
            return TransitionCallbackReturn.FAILURE
        node.refusal = ""
        return TransitionCallbackReturn.SUCCESS

    return callback


def guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """Log what a callback raises: an exception that leaves `spin` would end the node."""

    @functools.wraps(callback)
    def guarded(node: SegmentNode, *arguments: Any) -> None:
        try:
            callback(node, *arguments)
        except NodeFailure:
            raise
        except Exception:
            if node.context.ok():  # else the process is ending and entities are invalid
                node.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)

    return guarded
