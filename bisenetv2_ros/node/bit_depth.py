"""Notices images whose 16 bits hold fewer: 12 bits, not shifted up, are nearly black."""

from __future__ import annotations

from typing import Any

import numpy as np

LOOKS = 10  # frames, for a single one may be dark
DARKEST = 64  # of 255: what 14 bits reach, and no camera that fills 16 stays below for long
_SENSOR_BITS = (10, 12, 14)


class BitDepth:
    """Looks at the first frames of one camera."""

    def __init__(self) -> None:
        self._left = LOOKS
        self._brightest = 0

    def look(self, message: Any, image: np.ndarray) -> str:
        """One line, once, if the frames so far cannot fill their encoding; else ''.

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
        self._left -= brightest > 0  # a covered lens tells nothing
        if self._left:
            return ""
        bits = next(n for n in _SENSOR_BITS if self._brightest <= 2 ** (n - 8))
        return (
            f"{encoding} images are nearly black: their brightest value is {self._brightest} of "
            f"255 after conversion, as {bits} bits in 16 give; expected values up to 65535, so let "
            f"the driver shift them up by {16 - bits} bits"
        )
