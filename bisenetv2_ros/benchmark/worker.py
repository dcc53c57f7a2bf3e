"""An object in a process of its own, whose methods are called over a pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

_GRACE = 10.0  # seconds for a process to clean up


class WorkerLost(RuntimeError):
    """A process ended before its answer."""


class Worker:
    """The parent's end of the pipe."""

    def __init__(self, name: str, connection: Connection, pid: int) -> None:
        self.pid = pid
        self._name = name
        self._connection = connection

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object; return its result, or raise its exception, as `answer`."""
        self._send(method, arguments)
        return self.answer()

    def answer(self) -> Any:
        """Wait for the object to be made, before the first `ask`.

        Raises the exception of its maker, or WorkerLost if the process ends instead.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerLost(f"the benchmark's process '{self._name}' ended early") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send(self, *request: Any) -> None:
        with contextlib.suppress(OSError):  # `answer` reports that the process has ended
            self._connection.send(request)


@contextlib.contextmanager
def worker(name: str, make: Callable[..., Any], *arguments: Any) -> Iterator[Worker]:
    """Start a process that calls `make(*arguments)`: an object, or a context manager of one.

    Call `answer` once before the first `ask`. A method `idle` of the object is called repeatedly
    between requests. The process ends with the pipe, even if its parent is killed, and on SIGINT
    unless `make` sets another handler.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    made = Worker(name, ours, process.pid or 0)
    try:
        # Not with `start`, which would block forever if the process ended while it receives
        # megabytes of arguments.
        made._send(make, arguments)
        yield made
    finally:
        ours.close()
        process.join(_GRACE)
        if process.is_alive():
            process.terminate()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once and without a traceback
    try:
        make, arguments = connection.recv()
        made = make(*arguments)
        is_context = isinstance(made, contextlib.AbstractContextManager)
        with made if is_context else contextlib.nullcontext(made) as target:
            connection.send(None)
            idle = getattr(target, "idle", None)
            while True:
                while idle and not connection.poll():
                    idle()
                method, parameters = connection.recv()
                connection.send(getattr(target, method)(*parameters))
    except EOFError:
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send(error)
