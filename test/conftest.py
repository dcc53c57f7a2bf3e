"""What holds for every test."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))  # what several tests share
pytest.register_assert_rewrite("running_node")

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
