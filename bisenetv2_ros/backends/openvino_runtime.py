"""Imports OpenVINO without its telemetry.

OpenVINO reports every import to its maker from a child process, which writes to the home directory,
connects to the internet and, without a DNS server, delays the end of the process by seconds. If the
package `openvino_telemetry` is missing it uses a stub instead; blocking the name has that effect.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now raises

import openvino  # noqa: E402

__all__ = ["openvino"]
