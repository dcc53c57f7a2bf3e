"""Whether TensorRT can run here, for tests that need that."""

from __future__ import annotations

import functools

import pytest

from bisenetv2_ros.backends import BackendUnavailable


@functools.cache
def what_is_missing() -> str:
    """Why TensorRT cannot run here; '' where it can."""
    from bisenetv2_ros.backends.cuda import Cuda
    from bisenetv2_ros.backends.engine_target import load_library

    try:
        load_library()
        Cuda().close()
    except BackendUnavailable as error:
        return str(error)
    return ""


needs_gpu = pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())
