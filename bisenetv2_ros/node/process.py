"""Runs a node until a signal asks it to stop."""

from __future__ import annotations

from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from bisenetv2_ros.node import parameters
from bisenetv2_ros.node.lifecycle import NodeFailure, ReportingNode
from bisenetv2_ros.node.signals import end_signal_handling
from bisenetv2_ros.system.threads import end_process_now


def run(make_node: Callable[[], ReportingNode]) -> int:
    """Create a node, run it until it ends, and return the exit code: 1 after a NodeFailure."""
    code, stopped = 0, True
    node = executor = None
    try:
        executor = SingleThreadedExecutor()
        node = make_node()
        executor.add_node(node)
        if parameters.read(node).autostart:
            node.start()
        _spin(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except NodeFailure:
        code = int(rclpy.ok())  # 0 if a signal has interrupted its work
    except Exception:
        if rclpy.ok():  # otherwise a signal has invalidated everything during the work
            raise
    finally:
        end_signal_handling()
        if executor is not None:
            executor.shutdown(timeout_sec=0)
        if node is not None:
            stopped = node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    if not stopped:
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
