"""Threads that cannot be ended: a call into a library goes on after its result is wanted.

They are daemons, so that the process does not wait for them. But Python (before 3.14) ends a daemon
that wants to run while the interpreter is being finalized by unwinding its stack, and C++ in it, as
of OpenCV, aborts the process then.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn

_left: list[threading.Thread] = []


def join(thread: threading.Thread, seconds: float) -> bool:
    """Wait for a daemon thread. False if it still runs then: it is left to `end_process`."""
    thread.join(seconds)
    if thread.is_alive():
        _left.append(thread)
    return not thread.is_alive()


def end_process(code: int) -> int:
    """Return the exit code; but if a thread that was left still runs, end the process with it."""
    if any(thread.is_alive() for thread in _left):
        end_process_now(code)
    return code


def end_process_now(code: int) -> NoReturn:
    """End the process without finalizing the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
