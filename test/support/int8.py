"""Skips what makes int8 files where the installed ONNX Runtime cannot."""

from __future__ import annotations

import pytest

from bisenetv2_ros.convert.int8 import OLDEST, can_quantize

needs_int8 = pytest.mark.skipif(
    not can_quantize(),
    reason=f"needs ONNX Runtime {OLDEST[0]}.{OLDEST[1]}, which takes NumPy 1.21.6 or newer",
)
