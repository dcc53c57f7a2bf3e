"""A folder of labelled frames as a user has it: three classes in stripes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = "name: yard\nclasses: [{name: ground}, {name: wall}, {name: sky}]\n"


def write_set(root: Path, count: int = 10, size: tuple[int, int] = (96, 72)) -> Path:
    """Frames of three stripes, whose colours tell the classes."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for i in range(count):
        label = np.repeat(np.arange(3, dtype=np.uint8), size[1] // 3)[:, None].repeat(size[0], 1)
        frame = 60 * label[..., None] + rng.integers(0, 50, (*label.shape, 3), np.uint8)
        cv2.imwrite(str(root / "images" / f"{i:02}.png"), frame)
        cv2.imwrite(str(root / "labels" / f"{i:02}.png"), label)
    (root / "classes.yaml").write_text(CLASSES)
    return root
