"""Augmentation of one frame and its label map (paper, section 5.1): scale, crop, mirror, colour.

Knows arrays and a random generator. Everything is drawn from the generator that is handed in, so a
sample depends on its seed alone, never on the worker that made it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random scale, crop, mirror and colour change of a frame with its labels.

    Attributes:
        crop: (width, height) of the result in pixels.
        scales: factors to draw from; with `scale_range`, the ends of a log-uniform range.
        flip: mirror with probability 1/2.
        jitter: brightness, contrast and saturation are each multiplied by 1 ± jitter.
        fill: RGB put where the crop reaches beyond the frame; the label there is `ignore_index`.
    """

    crop: tuple[int, int]
    scales: tuple[float, ...] = (1.0,)
    scale_range: bool = False
    flip: bool = True
    jitter: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)
    ignore_index: int = 255

    def __call__(
        self, image: Pixels, label: Pixels, rng: np.random.Generator
    ) -> tuple[Pixels, Pixels]:
        """image (H, W, 3) RGB and label (H, W) -> the same of size `crop`."""
        matrix = self.draw_transform(image.shape[1], image.shape[0], rng)
        image = cv2.warpAffine(
            image, matrix, self.crop, flags=cv2.INTER_LINEAR, borderValue=self.fill
        )
        label = cv2.warpAffine(
            label, matrix, self.crop, flags=cv2.INTER_NEAREST, borderValue=self.ignore_index
        )
        if self.jitter:
            image = jitter_colours(image, self.jitter, rng)
        return image, label

    def draw_transform(
        self, width: int, height: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """The 2x3 matrix, frame pixels to crop pixels, of one random scale, crop and mirror."""
        if self.scale_range:
            low, high = np.log(self.scales[0]), np.log(self.scales[-1])
            scale = float(np.exp(rng.uniform(low, high)))
        else:
            scale = float(rng.choice(self.scales))
        crop_width, crop_height = self.crop
        # a frame larger than the crop is cut anywhere inside; a smaller one lies anywhere inside
        left = rng.uniform(0, 1) * (scale * width - crop_width)
        top = rng.uniform(0, 1) * (scale * height - crop_height)
        # pixel centres are at half pixels: x' = scale * (x + 1/2) - 1/2 - left
        matrix = np.array(
            [[scale, 0, scale / 2 - 0.5 - left], [0, scale, scale / 2 - 0.5 - top]], np.float64
        )
        if self.flip and rng.random() < 0.5:
            matrix[0] = (-matrix[0, 0], 0, crop_width - 1 - matrix[0, 2])
        return matrix


def jitter_colours(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Multiply brightness, contrast and saturation of an RGB frame, each by 1 ± strength."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = float(grey.mean()) * brightness
    ramp = (np.arange(256) * brightness - mean) * contrast + mean
    image = cv2.LUT(image, np.clip(ramp, 0, 255).astype(np.uint8))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
