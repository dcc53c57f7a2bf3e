"""Paints the ground of a street from above: asphalt, markings, pavement, grass and shadows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.street.parts import Colour, noise, pick

if TYPE_CHECKING:
    from bisenetv2_ros.street.street import Street

GROUND_X, GROUND_Z = 24, 16  # ground texture pixels per meter, across and along the road
GROUND_HALF, GROUND_PERIOD = 16.0, 64.0  # m, half width and length of the repeating ground


def paint_ground(street: Street, rng: np.random.Generator) -> list[np.ndarray]:
    """Paint the ground from above, and two smoothed copies for larger distances."""
    height, width = int(GROUND_PERIOD * GROUND_Z), int(2 * GROUND_HALF * GROUND_X)
    shape = (height, width)
    across = ((np.arange(width) + 0.5) / GROUND_X - GROUND_HALF).astype(np.float32)
    off = np.abs(across)
    fine, coarse = rng.standard_normal(shape, np.float32), noise(rng, shape, 40)
    asphalt = np.array(pick(rng, [(92, 92, 94), (74, 75, 78), (108, 105, 102)]), np.float32)
    tracks = 0.05 * np.cos(2 * math.pi * off / 1.7)  # of many tyres
    image = asphalt * (1 + 0.05 * (fine + coarse) + tracks)[..., None]
    for _ in range(10):  # mended patches
        x, z = rng.uniform(-street._road, street._road), rng.uniform(0, 60)
        columns = _columns(x, min(x + rng.uniform(0.5, 2.0), street._road))
        image[_rows(z, z + rng.uniform(0.6, 4)), columns] *= rng.uniform(0.75, 1.15)
    _paint_markings(street, rng, image)

    slab = np.array(
        pick(rng, [(158, 152, 144), (140, 138, 134), (172, 160, 146), (150, 134, 122)]),
        np.float32,
    )
    tile = rng.uniform(0.92, 1.08, (height // 12 + 1, width // 16 + 1)).astype(np.float32)
    paving = tile.repeat(12, 0).repeat(16, 1)[:height, :width] + 0.05 * (fine + coarse)
    paving[::12] *= 0.78  # joints
    paving[:, ::16] *= 0.8
    paving[:, off < street._road + 0.2] = 1.12  # kerb
    grass = np.array(pick(rng, [(96, 112, 58), (82, 100, 54), (112, 112, 66)]), np.float32)
    growth = 1 + 0.2 * fine + 0.12 * noise(rng, shape, 4)
    beyond = GROUND_HALF
    for part in _columns(-beyond, -street._road), _columns(street._road, beyond):
        image[:, part] = slab * paving[:, part, None]
    for part in _columns(-beyond, -street._edge), _columns(street._edge, beyond):
        image[:, part] = grass * growth[:, part, None]
    image[:, np.abs(off - street._road + 0.08) < 0.07] *= 0.6  # gutter
    if street._sunny:  # the shadows of the houses and trees on the sun's side
        reach = street._edge - rng.uniform(0, street._edge)
        turn = np.linspace(0, 2 * math.pi, height)[:, None]
        skyline = 1.2 * np.sign(np.sin(turn * 5 + 1)) + 1.5 * np.sign(np.sin(turn * 2))
        dapple = noise(rng, shape, 26) + 0.5 * noise(rng, shape, 7) > 1.6
        shade = (across * street._sun_side > reach + skyline) | dapple
        image *= 1 - street._shadow * cv2.blur(shade.astype(np.float32), (9, 9))[..., None]
    texture = np.clip(image, 0, 255).astype(np.uint8)
    smooth = [np.asarray(cv2.blur(texture, window)) for window in ((5, 17), (11, 101))]
    return [texture, *smooth]


def _paint_markings(street: Street, rng: np.random.Generator, image: np.ndarray) -> None:
    wear = np.clip(0.9 + 0.2 * noise(rng, image.shape[:2], 5), 0.35, 1)[..., None]
    paint = float(rng.uniform(170, 225))
    white: Colour = (paint, paint, paint * 0.97)

    def stripe(centre: float, width: float, z0: float, z1: float, colour: Colour) -> None:
        part = (_rows(z0, z1), _columns(centre - width / 2, centre + width / 2))
        image[part] += (np.array(colour) - image[part]) * wear[part]

    dash = int(rng.choice([4, 6, 8]))
    for start in range(0, int(GROUND_PERIOD), dash):
        stripe(0, 0.14, start, start + dash / 2, white)
    edging = int(rng.integers(3))  # none, a white line, double yellow lines
    for side in (-1, 1):
        if edging == 1:
            stripe(side * (street._road - 0.35), 0.12, 0, GROUND_PERIOD, white)
        elif edging == 2:
            for offset in (0.25, 0.5):
                stripe(side * (street._road - offset), 0.1, 0, GROUND_PERIOD, (200, 168, 60))
    if rng.random() < 0.6:  # zebra crossing
        for x in np.arange(-street._road + 0.5, street._road - 0.4, 1.0):
            stripe(x + 0.25, 0.5, 20, 23, white)
    if rng.random() < 0.5:  # a stop line of the own lane
        stripe(-street._road / 2, street._road - 0.6, 26, 26.4, white)


def _columns(x0: float, x1: float) -> slice:
    """Return the columns of the ground texture between two x in meters."""
    a, b = (
        min(max(round((x + GROUND_HALF) * GROUND_X), 0), round(2 * GROUND_HALF * GROUND_X))
        for x in (x0, x1)
    )
    return slice(a, b)


def _rows(z0: float, z1: float) -> slice:
    """Return the rows of the ground texture between two z in meters."""
    return slice(int(z0 * GROUND_Z), int(z1 * GROUND_Z))
