"""Threads beside the executor's, and waiting for them without missing a signal."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rclpy.context import Context

EXIT_GRACE = 1.0  # seconds that a thread may take to stop when the process ends

_Result = TypeVar("_Result")


class Background:
    """The threads of one node."""

    def __init__(self, context: Context, meanwhile: Callable[[], None], period: float) -> None:
        """While waiting, call `meanwhile` every `period` seconds, since no timer runs then."""
        self._context = context
        self._meanwhile = meanwhile
        self._period = period
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread of its own."""
        # Daemons, because a call into a backend cannot be interrupted; `close` waits for them.
        self._threads = [*self._running(), threading.Thread(target=work, daemon=True)]
        self._threads[-1].start()

    def result_of(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` on a thread of its own, wait, and return its result or raise its exception.

        Raises KeyboardInterrupt if a signal ends the process in the meantime.
        """
        future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self.start(run)
        self._wait(future.done, timeout=float("inf"))
        return future.result()

    def end_within(self, seconds: float) -> bool:
        """Wait until every thread has ended; False if one has not after that many seconds."""
        return self._wait(lambda: not self._running(), seconds)

    def close(self) -> bool:
        """Give each thread EXIT_GRACE seconds to end; False if one has not."""
        for thread in self._threads:
            thread.join(EXIT_GRACE)
        return not self._running()

    def _running(self) -> list[threading.Thread]:
        return [thread for thread in self._threads if thread.is_alive()]

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until `done()`; False after `timeout` seconds.

        SIGINT raises KeyboardInterrupt by itself. SIGTERM is made to do so here, because rclpy
        swallows any other exception that a transition raises.
        """
        deadline = time.monotonic() + timeout
        look = time.monotonic() + self._period
        while not done():
            if time.monotonic() > look:
                self._meanwhile()
                look += self._period
            if not self._context.ok():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True
