"""Imports OpenVINO without its telemetry, and has the one Core of the process.

OpenVINO reports every import to its maker from a child process, which writes to the home directory,
connects to the internet and, without a DNS server, delays the end of the process by seconds. If the
package `openvino_telemetry` is missing it uses a stub instead; blocking the name has that effect.

A Core's CPU plugin gives its thread another stack for signal handlers, and at its end puts back
the one before (openvinotoolkit/openvino, src/plugins/intel_cpu, SigAltStackSetup). Of two Cores,
the one loaded first and freed first takes away what the other puts back, and the next signal with a
handler, such as Ctrl-C or the end of a data worker, is a SIGSEGV. So there is one, which stays.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now raises

import openvino  # noqa: E402

__all__ = ["CORE", "openvino"]

CORE = openvino.Core()
