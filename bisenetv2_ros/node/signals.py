"""The end of a ROS process that a signal asked for. Knows no node.

rclpy answers SIGINT and SIGTERM on a thread of its own. It goes through the guard conditions of all
executors and shuts the contexts down, without a lock, and is often later than KeyboardInterrupt:
what it is at must not be destroyed meanwhile (ros2/rclpy, rclpy/src/rclpy/signal_handler.cpp).
"""

from __future__ import annotations

import signal

from rclpy.signals import uninstall_signal_handlers


def end_signal_handling() -> None:
    """Ignore SIGINT and SIGTERM from now on, and wait until rclpy has answered earlier ones.

    To be called from the main thread, before anything of ROS is destroyed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    uninstall_signal_handlers()
