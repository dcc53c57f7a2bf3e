"""OpenCV's color conversion and resizing, also for images of a single pixel.

OpenCV 4.5.4 (Ubuntu 22.04) raises cv2.error for a single pixel with several channels.
"""

from __future__ import annotations

import cv2
import numpy as np


def convert_color(image: np.ndarray, code: int) -> np.ndarray:
    """Convert (H, W) or (H, W, C) by cv2.cvtColor and a code such as cv2.COLOR_RGB2BGR."""
    if _is_single(image):
        return np.ascontiguousarray(cv2.cvtColor(readable(image), code)[:, :1])
    return np.asarray(cv2.cvtColor(image, code))


def resize(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Resize (H, W) or (H, W, C) by cv2.resize to size (width, height)."""
    return np.asarray(cv2.resize(readable(image), size, interpolation=interpolation))


def readable(image: np.ndarray) -> np.ndarray:
    """Return the image; if it is a single pixel, with that pixel twice, which resizes the same."""
    return np.repeat(image, 2, axis=1) if _is_single(image) else image


def _is_single(image: np.ndarray) -> bool:
    return image.ndim == 3 and image.shape[:2] == (1, 1)
