"""Augmentation of one frame and its label map (paper, section 5.1): scale, crop, mirror, color.

Uses arrays and a random generator only. All randomness comes from the generator passed in, so a
sample depends on its seed alone, not on the worker that made it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.resize import resize_image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random scale, crop, mirror and color change of a frame with its labels.

    `Recipe` explains the fields; `crop` is the (width, height) of the result.
    """

    crop: tuple[int, int]
    scales: tuple[float, ...] = (1.0,)
    scale_range: bool = False
    flip: bool = True
    jitter: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    shadow: float = 0.0
    #: RGB of pixels beyond the frame; their label is `ignore_index`
    fill: tuple[int, int, int] = (124, 116, 104)
    ignore_index: int = 255

    def __call__(
        self, image: Pixels, label: Pixels, rng: np.random.Generator
    ) -> tuple[Pixels, Pixels]:
        """Augment image (H, W, 3) RGB and label (H, W); returns both at size `crop`."""
        matrix = self.draw_transform(image.shape[1], image.shape[0], rng)
        image = self._warp_image(image, matrix)
        label = cv2.warpAffine(
            label, matrix, self.crop, flags=cv2.INTER_NEAREST, borderValue=self.ignore_index
        )
        if self.jitter:
            image = jitter_colours(image, self.jitter, rng)
        if self.gamma:
            image = change_gamma(image, self.gamma, rng)
        if self.shadow and rng.random() < self.shadow:
            image = cast_shadow(image, rng)
        if self.blur and rng.random() < self.blur:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
        if self.noise:
            image = add_noise(image, rng.uniform(0, self.noise), rng)
        return image, label

    def _warp_image(self, image: Pixels, matrix: NDArray[np.float64]) -> Pixels:
        """Resize the frame as it would enter the network at that scale; see `resize_image`."""
        height, width = image.shape[:2]
        factors = matrix.diagonal()
        if np.abs(factors).min() < 0.5:  # a warp would sample isolated pixels
            size = round(abs(factors[0]) * width), round(factors[1] * height)
            image = resize_image(image, size)
            # what is left of the matrix: the shift, and the mirror
            signs = np.sign(factors)
            matrix = np.column_stack([np.diag(signs), matrix[:, 2] + (signs - factors) / 2])
        return cv2.warpAffine(
            image, matrix, self.crop, flags=cv2.INTER_LINEAR, borderValue=self.fill
        )

    def draw_transform(
        self, width: int, height: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw the 2x3 matrix, frame to crop pixels, of a random scale, crop and mirroring.

        The scaled frame has whole pixels, and the crop is cut between them; anywhere else would
        blur it, unlike the frames that the network will see.
        """
        if self.scale_range:
            low, high = np.log(self.scales[0]), np.log(self.scales[-1])
            scale = float(np.exp(rng.uniform(low, high)))
        else:
            scale = float(rng.choice(self.scales))
        crop_width, crop_height = self.crop
        scaled_width, scaled_height = max(1, round(scale * width)), max(1, round(scale * height))
        # a frame larger than the crop is cut anywhere inside; a smaller one is placed anywhere
        # inside
        left = round(rng.uniform(0, 1) * (scaled_width - crop_width))
        top = round(rng.uniform(0, 1) * (scaled_height - crop_height))
        # pixel centers are at half pixels: x' = factor * (x + 1/2) - 1/2 - left
        across, down = scaled_width / width, scaled_height / height
        matrix = np.array(
            [[across, 0, across / 2 - 0.5 - left], [0, down, down / 2 - 0.5 - top]], np.float64
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


def change_gamma(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Raise the intensities to a power drawn log-uniformly from exp(±strength)."""
    exponent = float(np.exp(rng.uniform(-strength, strength)))
    levels = 255 * (np.arange(256) / 255) ** exponent
    return cv2.LUT(image, np.round(levels).astype(np.uint8))


def cast_shadow(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Darken one side of a random line by 20 to 60 %, with a soft edge of random width."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:height, :width]
    along = np.cos(angle) * (x - rng.uniform(0, width)) + np.sin(angle) * (
        y - rng.uniform(0, height)
    )
    edge = np.clip(0.5 + along / rng.uniform(2, 40), 0, 1)
    factor = 1 - rng.uniform(0.2, 0.6) * edge
    return np.round(image * factor[..., None]).astype(np.uint8)


def add_noise(image: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise of this standard deviation, in levels of 0..255."""
    noise = rng.normal(0, deviation, image.shape).astype(np.float32)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def mix_classes(
    image: Pixels,
    label: Pixels,
    other: Pixels,
    other_label: Pixels,
    ignore_index: int,
    rng: np.random.Generator,
) -> tuple[Pixels, Pixels]:
    """Paste the pixels of half of another frame's classes (ClassMix, arXiv 2007.07936).

    Both frames are (H, W, 3) and both labels (H, W), all of one size. Pixels without a class are
    never pasted.
    """
    present = np.unique(other_label)
    present = present[present != ignore_index]
    chosen = rng.permutation(present)[: (len(present) + 1) // 2]
    pasted = np.isin(other_label, chosen)
    return np.where(pasted[..., None], other, image), np.where(pasted, other_label, label)
