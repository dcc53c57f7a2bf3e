"""The part of a camera's image that is segmented, and its orientation.

    crop       'front/image_raw: 0 0.25 1 1'    left, top, right, bottom as fractions of the image
    rotation   'rear/image_raw: 90'             clockwise degrees that turn it upright

Masks cover the cropped part and keep the camera's orientation: the network, trained on streets with
the sky above, sees a rotated image, and the rotation of its result is undone. Knows nothing of ROS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bisenetv2_ros.segmenter import Segmentation

WHOLE = (0.0, 0.0, 1.0, 1.0)  #: the crop that keeps everything

_TURNS = {
    90: (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE),
    180: (cv2.ROTATE_180, cv2.ROTATE_180),
    270: (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_90_CLOCKWISE),
}


@dataclass(frozen=True)
class View:
    """Crop and rotation of one camera; the default is the whole image, not rotated."""

    crop: tuple[float, float, float, float] = WHOLE  #: left, top, right, bottom, 0..1
    turn: int = 0  #: 0, 90, 180 or 270, clockwise degrees to upright

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the crop in an image of `size` (width, height).

        At least one pixel.
        """
        width, height = size
        left = min(round(self.crop[0] * width), width - 1)
        top = min(round(self.crop[1] * height), height - 1)
        right, bottom = round(self.crop[2] * width), round(self.crop[3] * height)
        return left, top, max(1, right - left), max(1, bottom - top)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The cropped part of an (H, W, ...) image, a view of its memory."""
        if self.crop == WHOLE:
            return image
        left, top, width, height = self.box((image.shape[1], image.shape[0]))
        return image[top : top + height, left : left + width]

    def upright(self, image: np.ndarray) -> np.ndarray:
        """The cropped part of an (H, W, 3) uint8 image, rotated for the network."""
        part = self.cut(image)
        return cv2.rotate(np.ascontiguousarray(part), _TURNS[self.turn][0]) if self.turn else part

    def back(self, result: Segmentation) -> Segmentation:
        """The segmentation of an `upright` image, rotated back to the camera's orientation."""
        if not self.turn:
            return result
        turn = _TURNS[self.turn][1]
        confidence = result.confidence
        return dataclasses.replace(
            result,
            mask=cv2.rotate(result.mask, turn),
            confidence=None if confidence is None else cv2.rotate(confidence, turn),
        )

    def upright_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the `upright` image for an image of `size`."""
        return self.mask_size(self.box(size)[2:])

    def mask_size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the masks that `back` returns, for a network's input size."""
        return input_size[::-1] if self.turn in (90, 270) else input_size


def parse_crop(text: str) -> tuple[float, float, float, float]:
    """`View.crop` from 'LEFT TOP RIGHT BOTTOM'. Raises ValueError for another form or order."""
    try:
        left, top, right, bottom = map(float, text.split())
        valid = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f"crop '{text}': expected 'LEFT TOP RIGHT BOTTOM', within 0..1 and in order"
        )
    return left, top, right, bottom


def parse_views(
    crops: Sequence[str], rotations: Sequence[str], cameras: Sequence[str]
) -> dict[str, View]:
    """Parse the view of each camera from texts as above; empty texts are ignored.

    Raises ValueError, naming the text, if its form is wrong, its camera is unknown or repeated, its
    edges are outside 0..1 or out of order, or its rotation is not 0, 90, 180 or 270.
    """
    views = dict.fromkeys(cameras, View())
    for camera, value, text in camera_entries("crop", crops, cameras):
        try:
            views[camera] = View(crop=parse_crop(value))
        except ValueError:
            raise ValueError(
                f"crop '{text}': expected 'CAMERA: LEFT TOP RIGHT BOTTOM', within 0..1 and in order"
            ) from None
    for camera, value, text in camera_entries("rotation", rotations, cameras):
        if value not in ("0", "90", "180", "270"):
            raise ValueError(f"rotation '{text}': expected 'CAMERA: ' and 0, 90, 180 or 270")
        views[camera] = dataclasses.replace(views[camera], turn=int(value))
    return views


def camera_entries(
    what: str, texts: Sequence[str], cameras: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Camera, value and complete text of each 'CAMERA: VALUE'; empty texts are ignored.

    Raises ValueError, naming the text, if its form is wrong or its camera is unknown or repeated.
    """
    entries: list[tuple[str, str, str]] = []
    for text in filter(str.strip, texts):
        camera, colon, value = text.partition(":")
        camera = camera.strip()
        if not colon:
            raise ValueError(f"{what} '{text}': expected 'CAMERA: ...', with a colon")
        if camera not in cameras:
            raise ValueError(f"{what} '{text}': no camera '{camera}', known: {', '.join(cameras)}")
        if camera in (entry[0] for entry in entries):
            raise ValueError(f"{what} '{text}': camera '{camera}' has another one")
        entries.append((camera, value.strip(), text))
    return entries
