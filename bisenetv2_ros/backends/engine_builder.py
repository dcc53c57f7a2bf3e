"""Builds the TensorRT engines of a model file in a child process (`engine_process.py`).

Building takes from a second (TensorRT for RTX) to minutes (TensorRT), inside one call of a C++
library. A child process can be cancelled at any time, its crash does not end the node, and its
memory, also on the device, is freed when it ends. Knows nothing of where engines are kept or how
they run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bisenetv2_ros.backends import engine_process
from bisenetv2_ros.backends.base import BackendUnavailable, BatchProfile, Report, refused
from bisenetv2_ros.backends.engine_cache import Parts
from bisenetv2_ros.backends.engine_target import Target
from bisenetv2_ros.model_file import ModelFile

_PERIOD = 0.05  # seconds between checks of the builder's progress and for cancellation


def build_engines(model: ModelFile, target: Target, batch: BatchProfile, report: Report) -> Parts:
    """Build the ENGINES of a model in a new process.

    `report` is called at least every 0.1 s; if it raises, the process is ended and the exception
    passed on. Raises ModelFileError if the library's parser does not accept the file,
    BackendUnavailable if no engine can be built on this machine, RuntimeError if the file has
    changed since it was read.
    """
    return _run_child(model, target, batch, report, describe=False)


def describe_engines(
    model: ModelFile, target: Target, batch: BatchProfile, report: Report
) -> dict[str, str]:
    """Build as `build_engines` does; return the library's own list of layers of each engine.

    See `engine_layers` for its contents. These engines contain layer names and are not for use.
    """
    return _run_child(model, target, batch, report, describe=True)


def _run_child(
    model: ModelFile, target: Target, batch: BatchProfile, report: Report, describe: bool
) -> Any:
    request = {
        "path": str(model.path.absolute()),
        "sha256": model.sha256,
        "input_size": model.info.input_size,
        "target": dataclasses.asdict(target),
        "batch": dataclasses.astuple(batch),
        "parent": os.getpid(),
        "describe": describe,
    }
    started = time.monotonic()
    with _child(json.dumps(request)) as (process, connection):
        state = "starting"
        while True:
            report(f"building for {target.library}: {state}, {time.monotonic() - started:.0f} s")
            try:
                if not connection.poll(_PERIOD):
                    continue
                kind, content = connection.recv()
            except EOFError:
                code = process.wait()
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise BackendUnavailable(
                    f"the process that built {model.name} for {target.library} ended without an "
                    f"engine ({how})"
                ) from None
            if kind == "engines":
                return content
            if kind == "refused":
                raise refused(model, target.library, RuntimeError(content))
            if kind == "unavailable":
                raise BackendUnavailable(
                    f"{target.library} {target.version} cannot build {model.name}: {content}"
                )
            if kind == "changed":
                raise RuntimeError(f"{target.library} cannot build {model.name}: {content}")
            state = content


@contextlib.contextmanager
def _child(request: str) -> Iterator[tuple[subprocess.Popen, Connection]]:
    """The building process, and what it sends: (kind, content) until the end of the pipe."""
    # Isolated from its working directory and from Python's environment variables: it imports from
    # the directories of this process. If nothing else finds this package, the last entry does.
    package = str(Path(__file__).resolve().parents[2])
    path = [entry for entry in sys.path if entry] + [package]
    code = f"import sys; sys.path[:] = sys.argv.pop().split({os.pathsep!r}); "
    code += f"from {engine_process.__name__} import main; main()"
    ours, theirs = os.pipe()
    connection = Connection(ours, writable=False)
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, str(theirs), request, os.pathsep.join(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs],
            )
        finally:
            os.close(theirs)
        try:
            yield process, connection
        finally:
            process.kill()
            process.wait()
    finally:
        connection.close()
