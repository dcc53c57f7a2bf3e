"""Checks of the TensorRT backend that need a GPU, one line of PASS or FAIL each.

Each part runs in a process of its own with a time limit, because one part loses the device on
purpose and any part may hang. Engines and kernels are built into a temporary cache.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bisenetv2_ros.benchmark.gpu_driver_check import Checks, check_driver
from bisenetv2_ros.benchmark.gpu_model_check import (
    check_batches,
    check_broken_model,
    check_full_memory,
    check_life,
    check_lost_device,
    check_model,
    check_resize,
)
from bisenetv2_ros.benchmark.machine import machine

SECONDS = 460.0  #: for all parts together
ENVIRONMENT = "BISENETV2_GPU_CHECK"  #: set in the parts' processes


#: By name, most important first if time runs out: the part, and its limit in seconds.
PARTS: dict[str, tuple[Callable[[Checks], None], float]] = {
    "driver": (check_driver, 60),
    "float16": (functools.partial(check_model, precision="float16"), 400),
    "lost": (check_lost_device, 60),
    "resize": (check_resize, 120),
    "nan": (check_broken_model, 120),
    "batches": (check_batches, 240),
    "life": (check_life, 120),
    "full": (check_full_memory, 60),
    "float32": (functools.partial(check_model, precision="float32"), 200),
    "int8": (functools.partial(check_model, precision="int8"), 200),
}


def run_part(name: str) -> int:
    """Run one part in this process; returns how many of its checks failed."""
    check = Checks()
    PARTS[name][0](check)
    return check.failed


def run_all(report: Path, parts: list[str], seconds: float = SECONDS) -> bool:
    """Run parts in processes of their own, print their lines, and write them to `report`.

    Returns whether every check passed. Raises OSError if the report cannot be written.
    """
    lines: list[str] = []
    with report.open("w", encoding="utf-8") as file, tempfile.TemporaryDirectory() as cache:

        def say(line: str) -> None:
            lines.append(line)
            print(line)
            file.write(f"{line}\n")
            file.flush()

        file.write(f"bisenetv2 gpu-check\n{json.dumps(machine(), indent=1)}\n")
        end = time.monotonic() + seconds
        for name in parts:
            limit = min(PARTS[name][1], end - time.monotonic())
            if limit < 5:
                say(f"FAIL  part {name}: not run, no time was left of {seconds:.0f} s")
                continue
            for line in _run(name, limit, cache):
                say(line)
            if name == "driver" and lines[0].startswith("FAIL"):
                break  # without a GPU, nothing else can be checked
        failed = sum(line.startswith("FAIL") for line in lines)
        passed = sum(line.startswith("PASS") for line in lines)
        say(f"{passed} passed, {failed} failed; report: {report}")
    return not failed


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "bisenetv2_ros.cli.main", "gpu-check", "--part", name]


def _run(name: str, limit: float, cache: str) -> Iterator[str]:
    """The lines of a part, and one more if it did not end normally."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, ENVIRONMENT: "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    started = time.monotonic()
    process = subprocess.Popen(
        _command(name),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(limit, process.kill)
    timer.start()
    failed = False
    try:
        assert process.stdout
        for line in process.stdout:
            failed |= line.startswith("FAIL")
            yield line.rstrip("\n")
        code = process.wait()
    finally:
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    if time.monotonic() - started >= limit:
        yield f"FAIL  part {name}: not done within {limit:.0f} s"
    elif code != 0 and not failed:
        yield f"FAIL  part {name}: ended with {code}"
