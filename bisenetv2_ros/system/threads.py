"""Ends the process although a thread is still inside a library call, which cannot be interrupted.

Such threads are daemons, for which the process does not wait. But before 3.14, Python unwinds the
stack of a daemon that runs while the interpreter is being finalized, and C++ code on that stack,
such as OpenCV's, then aborts the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn

_left: list[threading.Thread] = []


def join(thread: threading.Thread, seconds: float) -> bool:
    """Wait for a daemon thread. False if it still runs; `end_process` then deals with it."""
    thread.join(seconds)
    if thread.is_alive():
        _left.append(thread)
    return not thread.is_alive()


def end_process(code: int) -> int:
    """Return `code`, or end the process with it if a thread that `join` gave up on still runs."""
    if any(thread.is_alive() for thread in _left):
        end_process_now(code)
    return code


def end_process_now(code: int) -> NoReturn:
    """End the process without finalizing the interpreter."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
