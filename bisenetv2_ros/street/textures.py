"""Paints the textures of a synthetic street: house fronts, fences, hedges and trees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.street.parts import (
    SHOP_COLOURS,
    TREE,
    WALL_COLOURS,
    WALL_PX,
    Colour,
    Face,
    Sprite,
    limb,
    noise,
    pick,
    pyramid,
    rgba,
    scaled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def facade(rng: np.random.Generator) -> np.ndarray:
    """Paint a house front: masonry, windows with frames and sills, sometimes a shop below."""
    floors, bays, cell = int(rng.integers(2, 5)), int(rng.integers(3, 7)), 3 * WALL_PX
    height, width = floors * cell + 14, bays * cell
    base = np.array(pick(rng, WALL_COLOURS))
    shade = 1 + 0.05 * noise(rng, (height, width), 24) + 0.05 * noise(rng, (height, width), 2)
    if rng.random() < 0.6:  # courses of brick
        brick = rng.standard_normal((height // 3 + 1, width // 6 + 1)).repeat(3, 0).repeat(6, 1)
        shade += 0.07 * brick[:height, :width]
        shade[::3] -= 0.05
    image = base * shade[..., None]
    image *= np.linspace(1.06, 0.86, height)[:, None, None]  # dirt and darkness towards the street
    image[:5] = base * rng.uniform(0.55, 1.15)  # cornice
    image[5:7] *= 0.6
    frame = np.array([(235, 232, 225), (70, 58, 48), (40, 42, 46)][int(rng.integers(3))], float)
    wide, tall = int(rng.uniform(0.36, 0.62) * cell), int(rng.uniform(0.5, 0.66) * cell)
    shop = rng.random() < 0.5
    trim = rng.uniform(0.7, 1.25)
    for floor in range(floors - 1 if shop else floors):
        for bay in range(bays):
            door = floor == floors - 1 and rng.random() < 0.3
            top, left = 14 + floor * cell + 8, bay * cell + (cell - wide) // 2
            right, bottom = left + wide, height if door else top + tall
            image[top - 3 : bottom + 2, left - 2 : right + 2] = base * trim
            image[top:bottom, left:right] = frame
            if door:
                image[top + 3 : bottom, left + 3 : right - 3] = pick(rng, SHOP_COLOURS)
                continue
            _window(rng, image[top + 2 : bottom - 2, left + 2 : right - 2], frame)
            image[bottom : bottom + 3, left - 3 : right + 3] = base * 1.25  # sill and its shadow
            image[bottom + 3 : bottom + 5, left - 3 : right + 3] *= 0.6
    if shop:
        _shop(rng, image[14 + (floors - 1) * cell :], frame)
    return rgba(image)


def _window(rng: np.random.Generator, pane: np.ndarray, frame: np.ndarray) -> None:
    """Paint dark glass that reflects the sky, sometimes a curtain, and glazing bars."""
    height, width = pane.shape[:2]
    glass = rng.uniform(25, 80) + np.linspace(rng.uniform(0, 90), 0, height)[:, None, None]
    pane[:] = glass * np.array((0.92, 1.0, 1.1))
    if rng.random() < 0.3:
        pane[:, : int(rng.uniform(0.15, 0.5) * width)] = rng.uniform(120, 200)
    pane[height // 2 - 1 : height // 2 + 1] = frame
    pane[:, width // 2 : width // 2 + 2] = frame


def _shop(rng: np.random.Generator, storey: np.ndarray, frame: np.ndarray) -> None:
    """Paint a shop over a storey: a fascia with imitated lettering, glass, pillars."""
    height, width = storey.shape[:2]
    storey[:] = np.array(pick(rng, SHOP_COLOURS)) * 0.8
    glass = storey[10 : height - 6]
    glass[:] = rng.uniform(30, 70) + 40 * np.abs(noise(rng, glass.shape[:2], 9))[..., None]
    storey[:9] = pick(rng, SHOP_COLOURS)
    for x in range(8, width - 24, 9):
        if rng.random() < 0.6:
            storey[3:7, x : x + int(rng.integers(3, 8))] = rng.choice([235, 20, 200])
    for x in range(0, width, 3 * WALL_PX):
        storey[9:, x : x + 4] = frame


def hedge(rng: np.random.Generator, green: Colour) -> np.ndarray:
    """Paint ten meters of hedge with a ragged top."""
    height, width = 32, 160
    light = 1 + 0.28 * noise(rng, (height, width), 2) + 0.16 * noise(rng, (height, width), 7)
    image = np.array(green) * (light * np.linspace(1.2, 0.55, height)[:, None])[..., None]
    ragged = 2 + 1.6 * noise(rng, (1, width), 4)
    return rgba(image, np.where(np.arange(height)[:, None] >= ragged, 255, 0))


def board_fence(rng: np.random.Generator) -> np.ndarray:
    """Paint ten meters of wooden boards."""
    height, width = 28, 160
    board = rng.uniform(0.75, 1.15, width // 4).repeat(4)
    wood = np.array(pick(rng, [(132, 98, 66), (150, 122, 92), (104, 84, 66), (92, 96, 84)]))
    image = wood * (board * (1 + 0.06 * noise(rng, (height, width), 3)))[..., None]
    image[:, ::4] *= 0.5  # gaps
    for rail in (slice(3, 5), slice(-7, -5)):
        image[rail] *= 0.75
    for post in (slice(0, None, 40), slice(1, None, 40)):
        image[:, post] *= 0.7
    return rgba(image)


def railings(rng: np.random.Generator, colours: Sequence[Colour], step: int) -> np.ndarray:
    """Paint ten meters of upright bars, one every `step` texture pixels.

    Between the bars (alpha 128) the background is visible but labeled as fence, as in CamVid.
    """
    height, width = 40, 160
    iron = np.array(pick(rng, colours))
    image = np.broadcast_to(iron * 0.8, (height, width, 3)).copy()
    alpha = np.full((height, width), 128)
    for x in range(0, width, step):
        alpha[:, x : x + 2] = 255
        image[:, x] = iron * 1.15
    for x in range(0, width, 40):
        alpha[:, x : x + 4] = 255
    for y in (1, height - 8):
        alpha[y : y + 3] = 255
        image[y] = iron * 1.3
    return rgba(image, alpha)


def crown(rng: np.random.Generator, green: Colour) -> Sprite:
    """Paint a leafy crown of many shaded clumps with a ragged edge."""
    side = 192
    rgb = np.zeros((side, side, 3), np.float32)
    alpha = np.zeros((side, side), np.uint8)
    sun = rng.uniform(-0.6, 0.6)
    for _ in range(170):
        a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform()) * 66
        x, y = side / 2 + r * math.cos(a), side / 2 + 0.95 * r * math.sin(a)
        light = 0.85 - 0.4 * (y - side / 2) / 80 + 0.2 * sun * (x - side / 2) / 80
        colour = scaled(green, light * rng.uniform(0.6, 1.3))
        centre, radius = (int(x), int(y)), int(rng.uniform(6, 17))
        cv2.circle(rgb, centre, radius, colour, -1)
        cv2.circle(alpha, centre, radius, (255,), -1)
    leaves = noise(rng, (side, side), 2.2)
    rgb *= (1 + 0.30 * leaves + 0.12 * noise(rng, (side, side), 6))[..., None]
    rim = cv2.GaussianBlur(alpha, (0, 0), 5).astype(np.float32) + 30 * leaves
    leafy = np.where(rgb.sum(axis=2, keepdims=True) > 0, rgb, np.array(green) * 0.5)
    levels = pyramid(rgba(leafy, np.where(rim > 120, 255, 0)))
    width = rng.uniform(3.6, 6.5)
    height, base = width * rng.uniform(0.9, 1.3), rng.uniform(1.9, 2.8)
    return Sprite(levels, width, height, base, 127, TREE)


def bare_tree(rng: np.random.Generator) -> Sprite:
    """Paint a tree in winter: only the twigs are painted, but the whole crown is labeled."""
    side = 224
    bark = np.array(pick(rng, [(74, 62, 52), (92, 84, 74), (58, 50, 46)]))
    alpha = np.zeros((side, side), np.uint8)

    def grow(x: float, y: float, angle: float, length: float, thick: float) -> None:
        x1, y1 = x + length * math.sin(angle), y - length * math.cos(angle)
        cv2.line(alpha, (int(x), int(y)), (int(x1), int(y1)), (255,), max(1, round(thick)))
        if length > 5:
            for _ in range(3 if length > 14 else 2):
                turn, shrink = rng.uniform(-0.7, 0.7), rng.uniform(0.66, 0.84)
                grow(x1, y1, angle + turn, length * shrink, thick * 0.66)

    grow(side / 2, side - 1, 0, 38, 7)
    padded = cv2.copyMakeBorder(alpha, 20, 20, 20, 20, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    hull = np.where(closed[20:-20, 20:-20] > 0, 128, 0)
    rgb = bark * (1 + 0.2 * noise(rng, (side, side), 3))[..., None]
    levels = pyramid(rgba(rgb, np.where(alpha > 0, 255, hull)))
    return Sprite(levels, rng.uniform(6, 8), rng.uniform(6.5, 9), 0.0, 170, TREE)


def trunk(size: float, top: float, bark: Colour) -> list[Face]:
    """Build the trunk of a tree of this size (1 is average), `top` meters high."""
    return [
        (limb(0, 0, 0, top, 0.42 * size, 0.2), scaled(bark, 0.7), TREE),
        (limb(0.06, 0, 0.03, top, 0.22 * size, 0.1), scaled(bark, 1.1), TREE),
    ]


# Shapes from here on are tables of coordinates, unreadable with one value per line.
