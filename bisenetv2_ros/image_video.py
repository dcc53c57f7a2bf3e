"""Decodes ffmpeg_image_transport: packets of an H.264 or H.265 stream, by PyAV.

Every packet must be decoded, even if its image is not used, because later packets depend on it.
Decoding starts at a key frame, and waits for the next one after a damaged or lost packet.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from bisenetv2_ros.image_conversion import MAX_PIXELS, ChannelOrder, ImageError

KEY_FRAME = 1  # bit of FFMPEGPacket.flags
_MAX_WAITING = 64  # packets whose images may be held back


@dataclass(frozen=True)
class VideoFrame:
    """The decoded image of a packet, or the error that prevented decoding."""

    header: Any  #: as passed with the image's packet
    pixels: np.ndarray | None  #: (H, W, 3) uint8 RGB
    error: ImageError | None = None

    def decoded(self) -> tuple[np.ndarray, ChannelOrder]:
        """Return pixels and the order of their channels. Raises ImageError if there are none."""
        if self.pixels is None:
            raise self.error or ImageError("decode", "no image")
        return self.pixels, "rgb"


def missing_decoder() -> str:
    """Return what to install for a VideoDecoder, or '' if nothing is missing."""
    try:
        importlib.import_module("av")
    except ImportError:
        return "PyAV (`pip install av`)"
    return ""


class VideoDecoder:
    """Decodes the packets of one camera in order of arrival."""

    def __init__(self) -> None:
        self._av = importlib.import_module("av")
        self._codec: Any = None  # None until a key frame comes
        self._encoding = ""
        self._headers: dict[int, Any] = {}  # by time stamp in the stream
        self._newest = 0  # time stamp of the newest packet
        self._reorders = False  # the stream has images that precede earlier packets

    def frames(self, packet: Any, header: Any) -> list[VideoFrame]:
        """Decode an FFMPEGPacket; return the images it completes (none if they are held back).

        header: any object; returned with the image of this packet.
        """
        frames: list[VideoFrame] = []
        pts = int(packet.pts)
        try:
            self._check_order(pts, packet)
            if packet.encoding != self._encoding or self._codec is None:
                frames += self.rest()
                self._start(packet)
        except Exception as error:
            self._headers[pts] = header
            return frames + self._lost(error)
        self._headers[pts] = header
        try:
            if len(self._headers) > _MAX_WAITING:
                raise ImageError("decode", f"video: {_MAX_WAITING} packets gave no image")
            encoded = self._av.Packet(bytes(packet.data))
            encoded.pts = pts
            frames.extend(self._image(frame, header) for frame in self._codec.decode(encoded))
        except Exception as error:
            frames += self._lost(error)
        return frames

    def rest(self) -> list[VideoFrame]:
        """Return the images, or errors, of packets held back when the stream ends."""
        frames: list[VideoFrame] = []
        try:
            if self._codec is not None:
                frames.extend(self._image(frame, None) for frame in self._codec.decode(None))
            raise ImageError("decode", "video: the stream ends before the image is complete")
        except Exception as error:
            return frames + self._lost(error)

    def _lost(self, error: Exception) -> list[VideoFrame]:
        """Return `error` for all packets held back, and wait for the next key frame."""
        if not isinstance(error, ImageError):  # PyAV has an exception for each FFmpeg error code
            error = ImageError("decode", f"video: {' '.join(str(error).split())}")
        headers, self._headers, self._codec = self._headers, {}, None
        return [VideoFrame(header, None, error) for header in headers.values()]

    def _start(self, packet: Any) -> None:
        self._codec, self._encoding = None, packet.encoding
        if not packet.flags & KEY_FRAME:
            raise ImageError("decode", "video: waiting for a key frame")
        codec = self._av.CodecContext.create(_codec_name(packet.encoding), "r")
        codec.thread_type, codec.thread_count = "SLICE", 1  # frame threads would delay images
        codec.options = {"err_detect": "explode"}
        self._codec = codec

    def _check_order(self, pts: int, packet: Any) -> None:
        """Raise ImageError if a packet is missing, which FFmpeg conceals silently in H.264.

        ffmpeg_image_transport's encoder numbers its frames. In a stream with reordered frames a
        loss cannot be detected, and the first reordered packet looks like one.
        """
        step, self._newest = pts - self._newest, pts
        if packet.flags & KEY_FRAME:
            return
        self._reorders |= step < 0
        if step > 1 and self._codec is not None and not self._reorders:
            raise ImageError("decode", f"video: {step - 1} packets before this one are lost")

    def _image(self, frame: Any, newest: Any) -> VideoFrame:
        if frame.is_corrupt:
            raise ImageError("decode", "video: the image builds on a packet that was lost")
        if frame.width * frame.height > MAX_PIXELS:
            raise ImageError("size", f"size is {frame.width}x{frame.height}, too large")
        pixels = frame.to_ndarray(format="rgb24")
        return VideoFrame(self._headers.pop(frame.pts, newest), pixels)


def _codec_name(encoding: str) -> str:
    """Return FFmpeg's decoder name; `encoding` may be an encoder's name, such as 'libx264'."""
    name = encoding.split(";")[0].strip()
    for part, codec in (("264", "h264"), ("265", "hevc"), ("hevc", "hevc")):
        if part in name:
            return codec
    return name
