"""What glibc does with large blocks of memory that were freed.

By default it gives them back to the kernel, and the next ones are mapped and filled with zeros page
by page. Where every frame or training step takes the same blocks again, that is work for nothing.
The functions are for a program to call once, early; other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h


def keep_freed_images() -> None:
    """Keep blocks of up to 32 MB, the most that glibc lets be told apart, and 512 MB of them.

    For a node: a large image received into fresh memory costs more in page faults than in copying.
    What loading a model took beyond that is given back.
    """
    _set({_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 512 << 20})


def keep_freed_tensors() -> None:
    """Keep all there was, of any size.

    For training on a CPU, whose activations are larger than that: docs/performance.md says what it
    saves.
    """
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})


def _set(options: dict[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in options.items():
        mallopt(option, value)
