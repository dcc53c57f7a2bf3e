"""A folder of small pictures without a meaning, for the verbs that read recordings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIZE = (150, 100)
NAMES = ("2", "10", "b")  # in the order in which a source delivers them


def write_drive(folder: Path) -> Path:
    """Make the folder, with a picture of `SIZE` for each of `NAMES`."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for name in NAMES:
        coarse = random.integers(0, 256, (5, 7, 3), np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(coarse, SIZE))
    return folder
