"""Imports OpenVINO without its telemetry, and has the one Core of the process.

OpenVINO reports every import to Intel from a child process, which writes to the home directory,
connects to the internet and, without a DNS server, delays the end of the process by seconds. If the
package `openvino_telemetry` is missing it uses a stub instead; blocking the name has that effect.

A Core's CPU plugin sets an alternative stack for signal handlers, and restores the previous one
when it is destroyed (openvinotoolkit/openvino, src/plugins/intel_cpu, SigAltStackSetup). If the
first of two Cores is destroyed first, the second restores a freed stack, and the next handled
signal, such as Ctrl-C or the end of a data worker, is a SIGSEGV. Therefore one Core is kept until
the process ends.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now raises

import openvino  # noqa: E402

__all__ = ["CORE", "openvino"]

CORE = openvino.Core()
