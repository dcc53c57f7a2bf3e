"""What holds for every test."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))  # what several tests share
pytest.register_assert_rewrite("running_node", "left_behind")

from left_behind import put_back  # noqa: E402

# A shell's background ignores Ctrl-C and nohup the end of the terminal, and programs inherit that:
# those of the tests must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    """Undo what ROS's launch does on import (its pytest plugin imports it): loggers made by its own
    class do not propagate, so that caplog would see nothing."""
    logging.setLoggerClass(logging.Logger)


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    with put_back():
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a worker of pytest-xdist ended that crashed: xdist itself does not."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if not error or process is None:
        return
    try:
        code = process.wait(10)
    except subprocess.TimeoutExpired:
        code = None
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    print(f"\n{node.gateway.id} ended with {name}", file=sys.stderr, flush=True)
