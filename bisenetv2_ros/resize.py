"""The one way in which frames and masks are resized."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from bisenetv2_ros.opencv import readable


class Step(NamedTuple):
    """One step of a resize."""

    size: tuple[int, int]  #: (width, height) afterwards
    area: bool  #: averages of areas, if no axis grows; otherwise linear interpolation


def resize_steps(source: tuple[int, int], size: tuple[int, int]) -> list[Step]:
    """List the steps that resize a frame from `source` to `size` (width, height); [] if equal.

    It is halved by 2x2 averages while it is at least twice the size in both directions; the rest is
    linear interpolation, or area averages if only one axis shrinks to less than half. Pixels are
    rounded to uint8 in each step.
    """
    (width, height), steps = source, []
    # Area averages in one step take OpenCV several times as long, unless the areas are 2x2.
    while width >= 2 * size[0] and height >= 2 * size[1]:
        width, height = width // 2, height // 2
        steps.append(Step((width, height), area=True))
    if width > 2 * size[0] or height > 2 * size[1]:
        # INTER_AREA averages only if no axis grows, so an axis that grows gets its own step.
        width, height = min(width, size[0]), min(height, size[1])
        steps.append(Step((width, height), area=True))
    if (width, height) != size:
        steps.append(Step(size, area=False))
    return steps


def resize_image(
    image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """Resize a (H, W, 3) uint8 frame to size (width, height), as for every segmented frame.

    Follows `resize_steps`. Returns a frame of the right size itself, without a copy; writes others
    to `out` if given.
    """
    steps = resize_steps((image.shape[1], image.shape[0]), size)
    if not steps:
        return image
    for step in steps:
        image = cv2.resize(
            _readable_by_opencv(image),
            step.size,
            dst=out if step is steps[-1] else None,
            interpolation=cv2.INTER_AREA if step.area else cv2.INTER_LINEAR,
        )
    return image


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
    """Return the image, copied if OpenCV cannot read its strides (it reads only padded rows)."""
    image = readable(image)
    whole_pixels = image.strides[1:] == (3, 1) and image.strides[0] >= 3 * image.shape[1]
    return image if whole_pixels else np.ascontiguousarray(image)
