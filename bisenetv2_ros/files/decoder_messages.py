"""Separates the lines that image and video decoders print from this program's own.

libjpeg, libpng, libtiff, FFmpeg and OpenCV write to standard error past Python.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# FFmpeg: `[h264 @ 0x55d0] ...`; OpenCV: `[ WARN:0@0.02] ...` or `OpenCV: ...`.
_DECODER = re.compile(
    r"(?!\[(?:DEBUG|INFO|WARN|ERROR|FATAL)\] |bisenetv2 )"  # ROS's and ours
    r"(?:> |\[[\w, -]+ @ 0x[0-9a-f]+\]|\[ *(?:WARN|ERROR|INFO|DEBUG):|libpng|"
    r"Open(?:CV|JPEG|EXR)|"
    r"TIFF|Corrupt JPEG|Premature end|Invalid SOS|Unsupported marker|Unknown Adobe|"
    r"Warning[:,]|.*(?:JPEG|SOI|DHT|Huffman|marker|bytes before)|\w+ \(?VIDEOIO|VIDIOC)"
)
_PLACE = re.compile(r" @ 0x[0-9a-f]+|^\[ *[A-Z]+:[^\]]*\] global \S+ ")


class _Capture:
    """The redirection of standard error; a process can have one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.crowded = False  #: another thread's decoder may have printed to it
        self.thread: threading.Thread | None = None  #: that is inside a block
        with tempfile.TemporaryFile() as file:  # without a name, until the process ends
            self.file = os.dup(file.fileno())


@functools.cache
def _capture(process: int) -> _Capture:
    """The capture of this process: a forked one has its own, without its parent's threads."""
    return _Capture()


@contextlib.contextmanager
def captured_messages() -> Iterator[list[str]]:
    """Capture what decoders print in the block: a list of lines, filled when the block ends.

    Other lines, such as another thread's log, are passed on. While several threads are in such
    blocks, the decoders' lines are captured but not returned, because their thread is unknown.
    Nested blocks belong to the outermost.
    """
    messages: list[str] = []
    capture = _capture(os.getpid())
    if capture.thread is threading.current_thread():
        yield messages
        return
    if not capture.lock.acquire(blocking=False):
        capture.crowded = True
        yield messages
        return
    try:
        error_output = os.dup(2)
    except OSError:  # there is no standard error
        capture.lock.release()
        yield messages
        return
    capture.thread, capture.crowded = threading.current_thread(), False
    if sys.stderr is not None:
        sys.stderr.flush()
    os.dup2(capture.file, 2)
    try:
        yield messages
    finally:
        os.dup2(error_output, 2)
        os.close(error_output)
        text = os.pread(capture.file, os.fstat(capture.file).st_size, 0)
        if text:
            os.ftruncate(capture.file, 0)
            os.lseek(capture.file, 0, os.SEEK_SET)
            messages += _sorted(text.decode(errors="replace"))
        if capture.crowded:
            messages.clear()
        capture.thread = None
        capture.lock.release()


def _sorted(text: str) -> list[str]:
    """Return the decoders' lines and print the others."""
    messages: list[str] = []
    for line in text.splitlines(keepends=True):
        if _DECODER.match(line):
            messages.append(_PLACE.sub("", line.rstrip()))
        elif not messages or line.strip():  # OpenCV ends an error with an empty line
            os.write(2, line.encode())
    return messages
