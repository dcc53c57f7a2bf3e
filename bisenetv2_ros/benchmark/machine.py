"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from bisenetv2_ros.backends import available_cores


def machine() -> dict[str, Any]:
    """The machine and its packages, as JSON values."""
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {
            name: version
            for name in (
                *("numpy", "openvino", "onnxruntime", "torch"),
                *("tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-bindings"),
            )
            if (version := _version(name))
        },
    }


def machine_line() -> str:
    """The machine in one line, for people."""
    facts = machine()
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_average']}, {packages}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
