"""The whole TensorRT backend on real cuda-bindings, over a strict driver of host memory.

The cases are in support/on_host_cuda.py. They run in processes of their own, because cuda-bindings
keep the first driver that they find, which may be a real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bisenetv2_ros.backends import BackendUnavailable
from bisenetv2_ros.backends.engine_target import library_name, load_library

CASES = Path(__file__).parent / "support" / "on_host_cuda.py"

pytest.importorskip("cuda.bindings")
if not shutil.which("gcc"):
    pytest.skip("no gcc to compile the stand-in for the driver with", allow_module_level=True)
try:
    if library_name(load_library()) != "tensorrt_rtx":
        pytest.skip("the stand-in engine is one of TensorRT for RTX", allow_module_level=True)
except BackendUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)


@pytest.mark.timeout(3600)  # for hangs; it takes a minute of one core, which may be shared by many
@pytest.mark.parametrize(
    ("version", "selection"),
    [
        ("13000", "not fail"),
        ("13000", "fail"),
        ("12060", "number_of_images or parts_of_a_call or three_threads or frames_of_cameras"),
    ],
    ids=[
        "driver of CUDA 13.0",
        "driver of CUDA 13.0 and errors",
        "driver of CUDA 12.6, as in JetPack 6",
    ],
)
def test_the_backend_makes_no_mistake_and_leaves_nothing(version: str, selection: str):
    options = ["-q", "-p", "no:cacheprovider", "-o", "timeout=3600"]
    command = [sys.executable, "-m", "pytest", *options, str(CASES)]
    environment = {**os.environ, "HOSTCUDA_VERSION": version}
    result = subprocess.run(
        [*command, "-k", selection],
        env={**environment, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        cwd=CASES.parent.parent.parent,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
