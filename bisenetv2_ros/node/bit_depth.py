"""Detects images that use fewer than their 16 bits: unshifted 12-bit images are nearly black."""

from __future__ import annotations

from typing import Any

import numpy as np

LOOKS = 10  # frames, since a single one may be dark
DARKEST = 64  # of 255: the most that 14 bits reach; a camera that uses 16 soon exceeds it
_SENSOR_BITS = (10, 12, 14)


class BitDepth:
    """Checks the first frames of one camera."""

    def __init__(self) -> None:
        self._left = LOOKS
        self._brightest = 0

    def look(self, message: Any, image: np.ndarray) -> str:
        """Return one line, once, if the frames so far do not use their encoding's range; else ''.

        Args:
            message: an Image, or a CompressedImage whose format names the encoding.
            image: (H, W, 3) uint8, decoded from it.
        """
        if not self._left:
            return ""
        encoding = getattr(message, "encoding", "") or getattr(message, "format", "")
        encoding = encoding.split(";")[0].strip()
        if not encoding.endswith(("16", "16UC1")):
            return ""
        brightest = int(image.max())
        if brightest > DARKEST:
            self._left = 0
            return ""
        self._brightest = max(self._brightest, brightest)
        self._left -= brightest > 0  # a covered lens does not count
        if self._left:
            return ""
        bits = next(n for n in _SENSOR_BITS if self._brightest <= 2 ** (n - 8))
        return (
            f"{encoding} images are nearly black: their brightest value is {self._brightest} of "
            f"255 after conversion, as {bits} bits in 16 give; expected values up to 65535, so let "
            f"the driver shift them up by {16 - bits} bits"
        )
