"""Converts a float32 model file to one whose network computes in float16, the form for GPUs.

The code is in `backends.float16`, because a backend for GPUs also converts a model without a
float16 file.
"""

from bisenetv2_ros.backends.float16 import cast_to_half, write_half_model

__all__ = ["cast_to_half", "write_half_model"]
