"""What a signal does to a program: end it at once, or interrupt it a single time."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_at_once(*numbers: signal.Signals) -> None:
    """Have these signals end the process with exit code 0, while there is nothing to close yet.

    Some libraries swallow the KeyboardInterrupt that Python would raise amid their import.
    """
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(0))


def interrupt_once(*numbers: signal.Signals) -> None:
    """Have the first of these signals raise KeyboardInterrupt and the process ignore later ones.

    A second one would cut short what the program closes on its way out, and rclpy crashes if it is
    not closed. Second ones are common: `ros2 launch` passes on the SIGINT of a terminal that has
    reached its processes already.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
