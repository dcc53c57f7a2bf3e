"""The end of a ROS process that a signal asked for. Knows no node.

rclpy answers SIGINT and SIGTERM on a thread of its own. It goes through the guard conditions of all
executors and shuts the contexts down, without a lock, and is often later than KeyboardInterrupt:
what it is at must not be destroyed meanwhile (ros2/rclpy, rclpy/src/rclpy/signal_handler.cpp).
"""

from __future__ import annotations

import os
import signal

from rclpy.signals import uninstall_signal_handlers


def end_on_hangup() -> None:
    """Have SIGHUP end the process as SIGTERM does, unless it is ignored (nohup).

    By default it would end at once, and leave its shared memory behind, when a terminal is closed.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def note() -> list[int]:
    """Return a list that gets the numbers of the SIGINTs and SIGTERMs that come from now on.

    To be called before rclpy.init(), whose handlers add to these and shut the context down: that
    is what ends a node. KeyboardInterrupt, raised amid rclpy's own code, would leave a node that
    cannot be destroyed. Signals that come before rclpy has its handlers are in the list alone.
    """
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: came.append(number))
    return came


def end_signal_handling() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP from now on; wait until rclpy has answered earlier ones.

    To be called from the main thread, before anything of ROS is destroyed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    uninstall_signal_handlers()
