"""Runs ROS in this process until the work is done or a signal ends it.

rclpy handles SIGINT and SIGTERM on a thread of its own, which uses the guard conditions of all
executors and shuts the contexts down without a lock, often later than KeyboardInterrupt. What it
uses must not be destroyed meanwhile (ros2/rclpy, rclpy/src/rclpy/signal_handler.cpp).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import uninstall_signal_handlers

from bisenetv2_ros.node import parameters, ros_arguments
from bisenetv2_ros.node.lifecycle import NodeFailure, ReportingNode
from bisenetv2_ros.system.threads import end_process_now


def run_ros(
    words: Sequence[str], program: str, work: Callable[[contextlib.ExitStack], None]
) -> None:
    """Start ROS, do `work`, and shut ROS down.

    Args:
        words: the command line.
        program: name at the beginning of warnings on stderr.
        work: creates and runs nodes; pushes the callbacks that close them on the stack it is given.
            They are called when signals can no longer interfere.

    Raises RosRefusal if ROS does not start, and what `work` raises unless a signal came first.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        # By default, closing the terminal would end the process and leave shared memory behind.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    # rclpy.init() installs handlers that shut the context down, which ends the work. Signals that
    # come before are only noted: a KeyboardInterrupt inside rclpy's own code would leave a node
    # that cannot be destroyed.
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: came.append(number))
    ros_arguments.init(words, program)
    with contextlib.ExitStack() as closing:
        closing.callback(rclpy.try_shutdown)
        try:
            if not came:
                work(closing)
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except Exception:
            if rclpy.ok():  # otherwise a signal has invalidated everything during the work
                raise
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            uninstall_signal_handlers()  # waits until rclpy has handled earlier signals


def run(words: Sequence[str], program: str, make_node: Callable[[], ReportingNode]) -> int:
    """Run a node as `run_ros` does until it ends; return the exit code, 1 after a NodeFailure."""
    code = 0
    unstoppable: list[ReportingNode] = []  # kept, so that their libraries are not unloaded

    def close(node: ReportingNode) -> None:
        if not node.close():
            unstoppable.append(node)
        node.destroy_node()

    def work(closing: contextlib.ExitStack) -> None:
        nonlocal code
        node = make_node()
        closing.callback(close, node)
        executor = SingleThreadedExecutor()
        closing.callback(executor.shutdown, timeout_sec=0)
        executor.add_node(node)
        try:
            if parameters.read(node).autostart:
                node.start()
            _spin(executor, node)
        except NodeFailure:
            code = int(rclpy.ok())  # 0 if a signal has interrupted its work

    run_ros(words, program, work)
    if unstoppable:
        end_process_now(code)
    return code


def _spin(executor: SingleThreadedExecutor, node: ReportingNode) -> None:
    while node.context.ok():
        try:
            executor.spin()
        except (NodeFailure, ExternalShutdownException):
            raise
        except Exception as error:
            # Exceptions from rclpy's own services surface here, e.g. for an invalid parameter type
            # and, on Humble and Jazzy, for a lifecycle transition that is not possible now
            # (ros2/rclpy#1209). Reject the request, keep the node running.
            if node.context.ok():  # else the process is ending and entities are invalid
                node.get_logger().error(
                    f"request refused: {error or repr(error)}", throttle_duration_sec=5.0
                )
