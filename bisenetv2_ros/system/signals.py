"""Signal handlers of programs: end at once, or interrupt once."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_at_once(*numbers: signal.Signals) -> None:
    """Make these signals end the process with exit code 0, while there is nothing to clean up.

    Some libraries swallow a KeyboardInterrupt during their import.
    """
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(0))


def interrupt_once(*numbers: signal.Signals) -> None:
    """Make the first of these signals raise KeyboardInterrupt and ignore later ones.

    A second one would interrupt the program's cleanup, and rclpy crashes if it is not shut down.
    Second signals are common: `ros2 launch` forwards a SIGINT of the terminal that its processes
    have already received.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
