"""Reads and writes videos, and opens cameras and streams, through OpenCV."""

from __future__ import annotations

import contextlib
import errno
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bisenetv2_ros.files.decoder_messages import captured_messages
from bisenetv2_ros.files.paths import naming
from bisenetv2_ros.opencv import convert_color, resize

#: Consecutive failed reads that count as the end of a video.
_ATTEMPTS = 100
#: Longest side of a written video: H.264 and MPEG-4 refuse larger ones, which are scaled down.
MAX_SIDE = 4096
#: Bytes that must stay free on the disk: for the encoder's buffer, and the index at the end.
_RESERVE = 512 * 1024
_PREFERRED, _ANYWHERE = "avc1", "mp4v"
#: Containers that count their frames; for others, OpenCV computes the count from the duration.
_COUNTS_FRAMES = re.compile(rb"GIF8|RIFF....AVI |....(?:ftyp|moov|mdat|free|wide|skip)", re.DOTALL)
# Errors of FFmpeg's that leave the frames complete.
_HARMLESS = re.compile(
    r"co located POCs|mmco: unref|number of reference frames|Warning MVs|single-track mode|"
    r"deprecated pixel format|threads"
)


class VideoError(ValueError):
    """A video cannot be opened or read completely. The message does not name it."""


class VideoFrame(NamedTuple):
    """A frame of a video."""

    image: np.ndarray  #: (H, W, 3) uint8 RGB
    number: int  #: frames read before it
    time: float  #: seconds from the beginning, by the container


def open_capture(source: Path | str | int) -> cv2.VideoCapture:
    """Open a video file, a URL or a camera by number.

    A path is always opened as a file, whatever its name, also if it is not UTF-8. Raises VideoError
    with the decoder's message.
    """
    with contextlib.ExitStack() as names, captured_messages() as messages:
        if isinstance(source, Path):
            name: str | int = names.enter_context(_plain_name(source))
            # Threads of the decoder would print at any time, also between calls.
            options = [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, "CAP_PROP_N_THREADS") else []
            capture = cv2.VideoCapture(name, _file_backend(), *([options] if options else []))
        else:
            capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise VideoError("cannot be opened" + _quoted(messages))
    return capture


class VideoReader:
    """The frames of a video file. Continues after damage and reports what was lost."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises VideoError if OpenCV cannot."""
        self._path = path
        capture = open_capture(path)
        rate = capture.get(cv2.CAP_PROP_FPS)
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        #: Frames per second; 0.0 if unknown.
        self.rate = rate if math.isfinite(rate) and rate > 0 else 0.0
        #: Number of frames in the file's header; None if it has none.
        self.count = round(claimed) if 0 < claimed < 1e9 else None
        with path.open("rb") as file:
            self._start = file.read(16)
            if self._start.startswith(b"GIF8"):
                self.count = _gif_frames(self._start + file.read())
        #: After `frames`: the losses, one line each.
        self.losses: list[str] = []
        self.read = 0  #: frames read in the last pass, including unwanted ones

    def frames(
        self, wanted: Callable[[int, float], bool | None] = lambda index, time: True
    ) -> Iterator[VideoFrame]:
        """Read from the beginning to the end.

        wanted: whether to return the frame with a number and time; others cost less. None ends it.
        """
        capture = open_capture(self._path)
        messages = _Complaints()
        time, misses = -1.0, 0
        self.read = 0
        step = 1 / self.rate if self.rate else 0.04
        try:
            while misses < _ATTEMPTS:
                with messages.counted(self.read):
                    success = capture.grab()
                    position = max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
                if not success:
                    misses += 1
                    continue
                misses = 0
                # Some containers have no times, and damaged files have times that go backwards.
                time = position if position > time else max(time, 0.0) + step * (self.read > 0)
                index, self.read = self.read, self.read + 1
                take = wanted(index, time)
                if take is None:
                    return
                if not take:
                    continue
                with messages.counted(index):
                    success, bgr = capture.retrieve()
                if success:
                    yield VideoFrame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), index, time)
        finally:
            capture.release()
            self.losses = messages.summary()
        self.losses += self._missing(self.read, time)

    def _missing(self, count: int, time: float) -> list[str]:
        """Report frames that the file's header claims but that were not read."""
        if self.count is None or count >= self.count or not self.rate:
            return []
        if _COUNTS_FRAMES.match(self._start):
            loss = f"{count} frames read of the {self.count} that the file claims"
            # An AVI has no times; its frames are counted.
            early = self._start.startswith(b"RIFF") and time < (self.count - 1.5) / self.rate
            return [loss + (", and times are early behind a gap" if early else "")]
        claimed = self.count / self.rate
        if time < 0.9 * claimed - 1:
            return [f"ends after {time:.1f} s of the {claimed:.1f} s that the file claims"]
        return []


def _gif_frames(data: bytes) -> int | None:
    """Count the images in a GIF, which may be truncated; FFmpeg does not report the number."""
    frames, position = 0, 13 + (3 << (data[10] & 7) + 1) * (data[10] >> 7)
    while position < len(data):
        kind = data[position]
        if kind == 0x2C and position + 10 < len(data):
            frames += 1
            flags = data[position + 9]
            position += 11 + (3 << (flags & 7) + 1) * (flags >> 7)
        elif kind == 0x21:
            position += 2
        else:
            break
        while position < len(data) and data[position]:  # blocks of up to 255 bytes
            position += 1 + data[position]
        position += 1
    return frames or None


class _Complaints:
    """Counts a decoder's error messages."""

    def __init__(self) -> None:
        self._count = 0
        self._first = ""

    @contextlib.contextmanager
    def counted(self, index: int) -> Iterator[None]:
        """Count the messages of the block, which reads frame `index`."""
        with captured_messages() as messages:
            yield
        serious = [message for message in messages if not _HARMLESS.search(message)]
        if serious and not self._count:
            self._first = f"damaged about frame {index}: {serious[0]}"
        self._count += len(serious)

    def summary(self) -> list[str]:
        """One line, or none."""
        more = f" (and {self._count - 1} such messages more)" if self._count > 1 else ""
        return [self._first + more] if self._count else []


class VideoFile:
    """An .mp4 file of RGB frames.

    In H.264 if OpenCV can encode it, otherwise in MPEG-4 part 2. All frames are resized to the
    first one's size, limited to MAX_SIDE. The file appears on `close`; without a frame there is
    none.
    """

    def __init__(self, path: Path, rate: float) -> None:
        """rate: playback rate in frames per second, rounded to what MPEG-4 can express."""
        self.path = path
        self.codec = ""  #: as four characters; '' before the first frame
        # A fraction of 16-bit numbers.
        self._rate = min(max(0.01, round(rate, 2 if rate < 655 else 0)), 65535.0)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0
        self._partial = path.with_name(f".partial-{path.name}")
        self._name = contextlib.ExitStack()

    @property
    def note(self) -> str:
        """A remark about playing the file; '' if it plays everywhere."""
        if self.codec != _ANYWHERE:
            return ""
        return (
            f"{self.path.name} is MPEG-4 part 2, as this OpenCV has no H.264 encoder: VLC and "
            "ffmpeg play it, browsers do not"
        )

    def write(self, frame: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame. Raises OSError if the file cannot be written."""
        if self._writer is None:
            self._size = _fitted(frame.shape[1], frame.shape[0])
            self._writer = self._open()
        # The encoder silently drops frames that do not fit on the disk.
        if shutil.disk_usage(self.path.parent).free < _RESERVE:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        if frame.shape[1::-1] != self._size:
            frame = resize(frame, self._size, cv2.INTER_AREA)
        with captured_messages():
            self._writer.write(convert_color(frame, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def close(self) -> None:
        """Complete the file and move it into place. Raises OSError if it lacks frames."""
        if self._writer is None:
            return
        with self._name, captured_messages() as messages:
            self._writer.release()
            self._writer = None
            written = 0
            with contextlib.suppress(VideoError):
                written = VideoReader(self._partial).count or 0
        with naming(self.path):
            if written < self._frames:
                self._partial.unlink(missing_ok=True)
                said = _quoted(messages)
                raise OSError(errno.EIO, f"{written} of {self._frames} frames written{said}")
            self._partial.replace(self.path)

    def _open(self) -> cv2.VideoWriter:
        name = self._name.enter_context(_plain_name(self._partial))
        for self.codec in (_PREFERRED, _ANYWHERE):
            code = cv2.VideoWriter.fourcc(*self.codec)
            with captured_messages() as messages:
                writer = cv2.VideoWriter(name, code, self._rate, self._size)
            if writer.isOpened():
                return writer
        self._name.close()
        self._partial.unlink(missing_ok=True)
        raise OSError(
            errno.EIO,
            f"cannot write a video of {self._size} at {self._rate:g} Hz in {self.codec}"
            + _quoted(messages),
            str(self.path),
        )


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Make the sides even, because odd ones lose a line, and at most MAX_SIDE."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return width + width % 2, height + height % 2


def _quoted(messages: list[str]) -> str:
    """The decoder's first message, if any, because OpenCV only reports that it failed."""
    said = [message for message in messages if "VIDEOIO" not in message]
    return f": {said[0]}" if said else ""


def _file_backend() -> int:
    """FFmpeg if available; other backends take some names for a series of images."""
    known = cv2.videoio_registry.getBackends()
    return int(cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in known else cv2.CAP_ANY)


@contextlib.contextmanager
def _plain_name(path: Path) -> Iterator[str]:
    """Yield a name that FFmpeg recognizes as a file and OpenCV can pass on.

    `rec:front.mp4` would be a protocol, so the name is absolute. OpenCV crashes on names that are
    not UTF-8, so such a file is opened through a link.
    """
    absolute = path.absolute()
    try:
        str(absolute).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"video{path.suffix if path.suffix.isascii() else ''}"
            link.symlink_to(absolute)  # also for a file that does not exist yet
            yield str(link)
    else:
        yield str(absolute)
