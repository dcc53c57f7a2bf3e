"""Keeps the lines that image and video decoders print apart from this program's own.

libjpeg, libpng, libtiff, FFmpeg and OpenCV write to standard error past Python.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# FFmpeg: `[h264 @ 0x55d0] ...`; OpenCV: `[ WARN:0@0.02] ...` or `OpenCV: ...`.
_DECODER = re.compile(
    r"\[[\w, -]+ @ 0x[0-9a-f]+\]|\[ *(?:WARN|ERROR|INFO|DEBUG):|OpenCV|Open(?:JPEG|EXR)|libpng|"
    r"TIFF|Corrupt JPEG|Premature end|Invalid SOS|Unsupported marker|Unknown Adobe|"
    r"Warning[:,]|.*(?:JPEG|SOI|DHT|Huffman|marker|bytes before)|\w+ \(?VIDEOIO|VIDIOC"
)
_PLACE = re.compile(r" @ 0x[0-9a-f]+|^\[ *[A-Z]+:[^\]]*\] global \S+ \w+ ")
_lock = threading.RLock()
_active = False


@contextlib.contextmanager
def captured_messages() -> Iterator[list[str]]:
    """Catch what decoders print in the block: a list of lines, filled when the block ends.

    Lines of others, such as another thread's log, go where they belong. Blocks of several threads
    run one after the other; inner blocks belong to the outermost.
    """
    global _active
    messages: list[str] = []
    with _lock:
        if _active:
            yield messages
            return
        try:
            error_output = os.dup(2)
        except OSError:  # there is no standard error to keep clean
            yield messages
            return
        _active = True
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), 2)
                try:
                    yield messages
                finally:
                    os.dup2(error_output, 2)
                    file.seek(0)
                    _sort(file.read().decode(errors="replace"), messages)
        finally:
            os.close(error_output)
            _active = False


def _sort(text: str, messages: list[str]) -> None:
    for line in text.splitlines():
        if _DECODER.match(line):
            messages.append(_PLACE.sub("", line))
        elif line.strip():
            os.write(2, f"{line}\n".encode())
