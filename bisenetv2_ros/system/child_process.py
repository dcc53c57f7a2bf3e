"""Child processes that end as ROS processes need: by SIGINT, with time to finish.

A killed DDS process leaves its shared memory behind, so killing is the last resort. Knows nothing
else of ROS.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bisenetv2_ros.system.process_usage import peak_memory

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE = 10.0  # seconds for a process to end after SIGINT, and again after SIGTERM


class Child:
    """A process that logs to a file; starts on construction and ends by `end_all`.

    Make it in the main thread: the kernel interrupts it when the thread that made it ends.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self._interrupted = False
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                # Ctrl-C on the terminal is for the parent, which ends its children in order.
                start_new_session=True,
                preexec_fn=_ending_with(os.getpid()),
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def peak_memory(self) -> float | None:
        """Peak resident memory in MiB; None if the system does not report it."""
        peak = peak_memory(self.pid)
        return peak / 2**20 if peak else None

    def last_lines(self, count: int = 8) -> str:
        """The last lines of its log, indented, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-count:]) or "    (it wrote nothing)"

    def interrupt(self) -> None:
        """Send SIGINT once, without waiting; a second one would interrupt the process's cleanup."""
        if self.exit_code() is None and not self._interrupted:
            self._interrupted = True
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait for it to end after `interrupt`, then terminate, then kill; return the exit code."""
        for insist in (self._process.terminate, self._process.kill):
            try:
                return self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                insist()
        return self._process.wait()


def _ending_with(parent: int) -> Callable[[], None] | None:
    """Return a function for the new process: the kernel interrupts it when its parent ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # before the fork: another thread may hold the loader's lock

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it ended before that call
            os._exit(1)

    return prepare


def end_all(children: Iterable[Child]) -> None:
    """End all children in parallel."""
    children = list(children)
    for child in children:
        child.interrupt()
    for child in children:
        child.wait()
