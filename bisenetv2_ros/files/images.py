"""Pictures and label maps from files, whole or not at all.

Knows nothing of folders, of what labels mean, or of untrusted data from a network
(image_conversion does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.files.paths import naming

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class ImageFileError(ValueError):
    """A file that cannot be used as a picture; the message begins with its path."""


def read_image(path: Path) -> np.ndarray:
    """The picture as (H, W, 3) uint8 RGB; ImageFileError where it cannot be read whole."""
    return np.asarray(cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def read_label(path: Path) -> np.ndarray:
    """The label map as (H, W) uint8, its values as they are; ImageFileError for anything else."""
    label = _read(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ImageFileError(
            f"{path}: label map is {label.dtype} of shape {label.shape}, expected uint8 (H, W): "
            "one class index a pixel"
        )
    return label


def _read(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"{path}: {error.strerror}") from error
    # Of a file that was cut off, decoders hand back the part there is without a word.
    if _is_cut_off(data):
        raise ImageFileError(f"{path}: ends after {len(data)} bytes, in the middle of the picture")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # a claim of more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        raise ImageFileError(f"{path}: {len(data)} bytes, expected a picture that OpenCV reads")
    return np.asarray(pixels)


def _is_cut_off(data: bytes) -> bool:
    """Whether a PNG or JPEG lacks its end. Other formats are left to their decoder."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    if data.startswith(b"\xff\xd8"):
        # Neither marker can occur inside compressed data, but both do in an embedded thumbnail.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return False


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB or (H, W) grey image in the format of the path's suffix; OSError if it fails."""
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Not imwrite: it reports a full disk as a bare False, or not at all.
    done, data = cv2.imencode(path.suffix, pixels)
    if not done:
        raise OSError(f"cannot encode {path}: shape {image.shape}, {image.dtype}")
    with naming(path):
        path.write_bytes(data.tobytes())
