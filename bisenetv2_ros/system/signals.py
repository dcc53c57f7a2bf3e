"""Signal handlers of programs: end at once, interrupt once, or finish the current frame."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
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


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collect the signals that ask to stop, so that the current frame is finished first.

    Ctrl-C, SIGTERM, and SIGHUP unless it is ignored (nohup). A second Ctrl-C interrupts as usual;
    the others may come twice, as when a terminal is closed.
    """
    signals: list[int] = []

    def handle(number: int, _: object) -> None:
        signals.append(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
