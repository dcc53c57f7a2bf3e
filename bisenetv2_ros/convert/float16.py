"""From a float32 model file to one whose network computes in float16, the form for GPUs.

The work is in `backends.float16`: a backend for GPUs does it too, when it is given a model that has
no float16 file.
"""

from bisenetv2_ros.backends.float16 import cast_to_half, write_half_model

__all__ = ["cast_to_half", "write_half_model"]
