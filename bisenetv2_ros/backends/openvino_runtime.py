"""Imports OpenVINO without its telemetry.

OpenVINO's package reports every import to its maker from a child process, which writes to the home
directory, connects to the internet and, if no DNS server answers, delays the end of the process by
seconds. Without the package `openvino_telemetry` it uses a stub instead, and that is what an import
finds once the name is blocked.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now raises

import openvino  # noqa: E402

__all__ = ["openvino"]
