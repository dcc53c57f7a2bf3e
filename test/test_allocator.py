"""Freed memory is kept for the next block of its size, and not mapped anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import resource
from bisenetv2_ros.system import malloc
{call}
for size in 2 * [{megabytes} << 20]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str, megabytes: int) -> int:
    """Pages that a process takes from the kernel for the second block of that size."""
    code = PAGES.format(call=call, megabytes=megabytes)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("call", "megabytes"), [("keep_freed_images", 16), ("keep_freed_tensors", 200)]
)
def test_memory_is_kept(call: str, megabytes: int):
    pages = megabytes << 20 >> 12
    if faults("", megabytes) < pages / 10:
        pytest.skip("this C library keeps it unasked")
    assert faults(f"malloc.{call}()", megabytes) < pages / 100


def test_large_blocks_of_a_model_go_back():
    pages = 200 << 20 >> 12
    if faults("", 200) < pages / 10:
        pytest.skip("this C library keeps it unasked")
    assert faults("malloc.keep_freed_images()", 200) > pages / 10
