"""OpenCV's color conversion and resizing for images of any size.

OpenCV 4.5.4, Ubuntu 22.04's, refuses to read a single pixel with several channels (cv2.error).
"""

from __future__ import annotations

import cv2
import numpy as np


def convert_color(image: np.ndarray, code: int) -> np.ndarray:
    """cv2.cvtColor: (H, W) or (H, W, C) to what `code`, such as cv2.COLOR_RGB2BGR, makes of it."""
    if _is_single(image):
        return np.ascontiguousarray(cv2.cvtColor(readable(image), code)[:, :1])
    return np.asarray(cv2.cvtColor(image, code))


def resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """cv2.resize: (H, W) or (H, W, C) to size (width, height)."""
    return np.asarray(cv2.resize(readable(image), size, interpolation=interpolation))


def readable(image: np.ndarray) -> np.ndarray:
    """The image; a single pixel twice, side by side, which looks the same when it is resized."""
    return np.repeat(image, 2, axis=1) if _is_single(image) else image


def _is_single(image: np.ndarray) -> bool:
    return image.ndim == 3 and image.shape[:2] == (1, 1)
