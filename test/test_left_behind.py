"""What tests leave behind is put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import left_behind
import pytest
from left_behind import put_back


def test_signals_directory_and_variables_are_as_before(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/before")
    monkeypatch.delenv("ROS_DISTRO_OF_A_TEST", raising=False)
    handler, directory = signal.getsignal(signal.SIGTERM), Path.cwd()
    with put_back():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.chdir(tmp_path)
        os.environ["HOME"] = "/after"
        os.environ["ROS_DISTRO_OF_A_TEST"] = "x"
    assert signal.getsignal(signal.SIGTERM) == handler
    assert Path.cwd() == directory
    assert os.environ["HOME"] == "/before" and "ROS_DISTRO_OF_A_TEST" not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_process_that_is_left_is_named(monkeypatch):
    monkeypatch.setattr(left_behind, "PATIENCE", 0.0)
    begun = put_back()
    begun.__enter__()
    with subprocess.Popen(["sleep", "600"]) as process:
        while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            pass
        with pytest.warns(UserWarning, match="a process is left: sleep 600"):
            begun.__exit__(None, None, None)
        process.kill()
