"""Images for people: class colors, overlays, region outlines, and a side-by-side with a legend.

Arrays are (H, W, 3) uint8 RGB throughout. Knows nothing of ROS or of where frames come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.opencv import resize
from bisenetv2_ros.regions import Region
from bisenetv2_ros.resize import check_image, resize_mask

PANEL_HEIGHT = 360  # of each of the three images, pixels
MAX_PANEL_WIDTH = 1344  # three side by side fit a video encoder's limit; panoramas are lower
MARGIN = 12
OPACITY = 0.5  # of the colors in the overlay
BACKGROUND = (24, 26, 30)
TEXT = (232, 232, 232)
FAINT = (150, 150, 150)
FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_SCALE = 0.5
TITLE_HEIGHT = 30
ROW_HEIGHT = 26  # of the legend
SWATCH = 16


def colorize(mask: np.ndarray, labels: LabelSet) -> np.ndarray:
    """(H, W) uint8 mask to (H, W, 3) uint8 RGB by the palette; values without a class are black."""
    # applyColorMap is the fastest table lookup of OpenCV and NumPy: a third of np.take's time.
    return cv2.applyColorMap(np.ascontiguousarray(mask), labels.colour_table().reshape(256, 1, 3))


def overlay(
    image_rgb: np.ndarray, mask: np.ndarray, labels: LabelSet, opacity: float
) -> np.ndarray:
    """Blend a mask's colors over a (H, W, 3) uint8 RGB image: uint8 RGB of the image's size.

    mask: (h, w) uint8 of any size. opacity: 0 shows the image alone, 1 the colors alone.
    Raises ValueError if the opacity is outside 0..1.
    """
    check_image(image_rgb)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be within 0..1, got {opacity}")
    height, width = image_rgb.shape[:2]
    colors = colorize(resize_mask(mask, (width, height)), labels)
    return cv2.addWeighted(np.ascontiguousarray(image_rgb), 1 - opacity, colors, opacity, 0)


def side_by_side(
    image: np.ndarray, mask: np.ndarray, labels: LabelSet, fractions: np.ndarray
) -> np.ndarray:
    """Compose camera frame, color mask and overlay above a legend of all classes.

    image: (H, W, 3) uint8 RGB. mask: (h, w) uint8 class indices, of any size. fractions:
    (num_classes,) floats 0..1. Both sides of the result are even, as video codecs require.
    """
    height, width = image.shape[:2]
    scale = min(PANEL_HEIGHT / height, MAX_PANEL_WIDTH / width)
    panel_size = (max(2, round(scale * width)), max(2, round(scale * height)))
    # Resized before colorizing, which is several times faster for a large frame.
    camera = resize(image, panel_size, cv2.INTER_AREA)
    colors = colorize(resize_mask(mask, panel_size), labels)
    blended = cv2.addWeighted(camera, 1 - OPACITY, colors, OPACITY, 0)

    total_width = 3 * panel_size[0] + 4 * MARGIN
    total_width += total_width % 2
    legend = draw_legend(labels, fractions, total_width)
    bottom = TITLE_HEIGHT + panel_size[1] + panel_size[1] % 2
    canvas = np.full((bottom + len(legend), total_width, 3), BACKGROUND, "u1")
    panels = {"camera": camera, "classes": colors, "overlay": blended}
    for i, (title, panel) in enumerate(panels.items()):
        left = MARGIN + i * (panel_size[0] + MARGIN)
        canvas[TITLE_HEIGHT : TITLE_HEIGHT + panel_size[1], left : left + panel_size[0]] = panel
        _write(canvas, title, left, TITLE_HEIGHT - 10)
    canvas[bottom:] = legend
    return canvas


def draw_legend(labels: LabelSet, fractions: np.ndarray, width: int) -> np.ndarray:
    """Draw a strip `width` wide: swatch, name and percentage of each class, in class order.

    Classes keep their places from frame to frame, so that a video does not flicker; a class that is
    absent from the frame is drawn faintly.
    """
    name_width = max(_text_width(name) for name in labels.names)
    number_width = _text_width("100.0 %")
    cell = SWATCH + 8 + name_width + 10 + number_width + 24
    columns = min(len(labels), max(1, (width - 2 * MARGIN) // cell))
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)  # rows of about equal length: 6 + 5 rather than 8 + 3
    pitch = (width - 2 * MARGIN) // columns
    height = rows * ROW_HEIGHT + 2 * MARGIN
    strip = np.full((height + height % 2, width, 3), BACKGROUND, "u1")
    for i, (name, colour, fraction) in enumerate(
        zip(labels.names, labels.palette, fractions, strict=True)
    ):
        left = MARGIN + (i % columns) * pitch
        top = MARGIN + (i // columns) * ROW_HEIGHT + (ROW_HEIGHT - SWATCH) // 2
        corner = (left + SWATCH, top + SWATCH)
        cv2.rectangle(strip, (left, top), corner, colour, cv2.FILLED)
        cv2.rectangle(strip, (left, top), corner, FAINT)
        ink = TEXT if fraction > 0 else FAINT
        baseline = top + SWATCH - 3
        _write(strip, name, left + SWATCH + 8, baseline, ink)
        number = f"{100 * fraction:.1f} %"
        numbers_end = left + SWATCH + 8 + name_width + 10 + number_width
        _write(strip, number, numbers_end - _text_width(number), baseline, ink)
    return strip


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0])


def _write(
    canvas: np.ndarray, text: str, left: int, baseline: int, ink: tuple[int, int, int] = TEXT
) -> None:
    cv2.putText(canvas, text, (left, baseline), FONT, FONT_SCALE, ink, 1, cv2.LINE_AA)


def draw_regions(image: np.ndarray, regions: Sequence[Region]) -> None:
    """Draw outlines and names into a (H, W, 3) uint8 RGB image, white with a dark edge."""
    height, width = image.shape[:2]
    thickness = max(1, round(height / 360))
    for region in regions:
        corners = np.array(region.points) * (width, height) - 0.5
        corners = np.clip(np.round(corners), 0, (width - 1, height - 1)).astype(np.int32)
        left, top = corners.min(0)
        place = (int(left) + 4 * thickness, max(int(top) - 4 * thickness, 14 * thickness))
        for ink, edge in (((0, 0, 0), 2 * thickness), ((255, 255, 255), 0)):
            cv2.polylines(image, [corners], True, ink, thickness + edge, cv2.LINE_AA)
            cv2.putText(
                image, region.name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * thickness, ink,
                thickness + edge, cv2.LINE_AA,
            )  # fmt: skip
