"""What a test leaves to those after it in the same process is put back.

A handler of signals that stays, as of a program that was run in the process, ends another test
without a word; variables of ROS change what its programs do.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import children, is_running

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OURS = ("ROS_", "RMW_", "FAST", "BISENETV2_", "XDG_")  # libraries set some of their own
STAY = (b"resource_tracker", b"forkserver", b"compile_worker")  # of multiprocessing and torch
PATIENCE = 5.0  # seconds for a process that has been told to end


def _programs() -> dict[int, bytes]:
    """Running children by process id, with their command lines; none where the system has no
    /proc."""
    found: dict[int, bytes] = {}
    if not Path("/proc/self/task").is_dir():
        return found
    for pid in children(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if is_running(pid) and not any(word in command for word in STAY):
            found[pid] = command
    return found


@contextmanager
def put_back() -> Iterator[None]:
    """Put back signal handlers, working directory and variables; warn of processes."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    directory, variables, programs = Path.cwd(), dict(os.environ), _programs()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        os.chdir(directory)
        for name in [*os.environ]:
            if name not in variables and name.startswith(OURS):
                del os.environ[name]
        for name, value in variables.items():
            if name != "PYTEST_CURRENT_TEST" and os.environ.get(name) != value:
                os.environ[name] = value
        if (rclpy := sys.modules.get("rclpy")) and rclpy.ok():
            rclpy.shutdown()  # or every other test that starts it would fail
        give_up = time.monotonic() + PATIENCE
        while (left := _programs()).keys() - programs and time.monotonic() < give_up:
            gc.collect()  # an iterator over batches ends its workers
            time.sleep(0.02)
        for pid in left.keys() - programs:
            warnings.warn(f"a process is left: {left[pid].decode(errors='replace')}", stacklevel=1)
