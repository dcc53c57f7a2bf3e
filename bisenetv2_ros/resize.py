"""The one way in which frames and masks are resized."""

from __future__ import annotations

import cv2
import numpy as np


def resize_image(
    image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """Resize a (H, W, 3) uint8 frame to size (width, height), as for every segmented frame.

    The frame is halved by 2x2 averages while it is at least twice the size in both directions; the
    rest is linear interpolation, or area averages if only one axis shrinks to less than half. A
    frame of the right size is returned as it is, not copied; any other is written to `out`, if
    given.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    image = _readable_by_opencv(image)
    # Area averages in one step take OpenCV several times as long, unless the areas are 2x2.
    while width >= 2 * size[0] and height >= 2 * size[1]:
        width, height = width // 2, height // 2
        last = (width, height) == size
        image = cv2.resize(
            image, (width, height), dst=out if last else None, interpolation=cv2.INTER_AREA
        )
        if last:
            return image
    if width > 2 * size[0] or height > 2 * size[1]:
        # INTER_AREA averages only if no axis grows, so an axis that grows gets its own step.
        part = (min(width, size[0]), min(height, size[1]))
        if part == size:
            return cv2.resize(image, size, dst=out, interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, part, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, dst=out, interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a (H, W) mask, confidence or depth to size (width, height) by nearest pixel centers.

    A mask of the right size is returned as it is, not copied. Masks made from scores at the right
    size are more accurate: see `Segmenter.segment_batch`.
    """
    if mask.shape == (size[1], size[0]):
        return mask
    return cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_NEAREST_EXACT)


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is uint8 (H, W, 3) with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image is {type(image).__name__}, expected a uint8 array (H, W, 3)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")


def _readable_by_opencv(image: np.ndarray) -> np.ndarray:
    """The image, copied if OpenCV cannot read its strides: it takes padded rows, but not others.

    OpenCV 4.5.4 does not take a single pixel either: it becomes two, with the same result.
    """
    if image.shape[:2] == (1, 1):
        return np.repeat(image, 2, axis=1)
    whole_pixels = image.strides[1:] == (3, 1) and image.strides[0] >= 3 * image.shape[1]
    return image if whole_pixels else np.ascontiguousarray(image)
