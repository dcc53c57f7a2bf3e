"""Tunes how glibc reuses large blocks of freed memory.

By default they are returned to the kernel, and new ones are mapped and zeroed page by page, which
wastes time if every frame or training step allocates the same blocks again. Call one of the
functions once, early. Does nothing with other C libraries.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h


def keep_freed_images() -> None:
    """Keep freed blocks of up to 32 MB, glibc's largest threshold, and up to 512 MB of them.

    For a node: a large image received into fresh memory costs more in page faults than in copying.
    Memory beyond that, used to load a model, is returned.
    """
    _set({_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 512 << 20})


def keep_freed_tensors() -> None:
    """Keep all freed memory, of blocks of any size.

    For training on a CPU, whose activations are larger than that; docs/performance.md has the gain.
    """
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})


def _set(options: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in options.items():
        mallopt(option, value)
