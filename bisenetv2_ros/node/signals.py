"""Ends a ROS process after a signal. Knows no node.

rclpy handles SIGINT and SIGTERM on a thread of its own, which uses the guard conditions of all
executors and shuts the contexts down without a lock, often later than KeyboardInterrupt. What it
uses must not be destroyed meanwhile (ros2/rclpy, rclpy/src/rclpy/signal_handler.cpp).
"""

from __future__ import annotations

import os
import signal

from rclpy.signals import uninstall_signal_handlers


def end_on_hangup() -> None:
    """Make SIGHUP end the process as SIGTERM does, unless it is ignored (nohup).

    By default, closing the terminal would end it immediately and leave its shared memory behind.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def note() -> list[int]:
    """Return a list that receives the numbers of all SIGINTs and SIGTERMs from now on.

    Call it before rclpy.init(), whose handlers then shut the context down, which ends a node. A
    KeyboardInterrupt inside rclpy's own code would leave a node that cannot be destroyed. Signals
    that come before rclpy installs its handlers are only in the list.
    """
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: came.append(number))
    return came


def end_signal_handling() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP from now on; wait until rclpy has handled earlier ones.

    Call it from the main thread, before destroying anything of ROS.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    uninstall_signal_handlers()
