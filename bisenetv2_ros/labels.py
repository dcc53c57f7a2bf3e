"""The meaning of a mask's class indices: names, colors and the ignored value.

A label set travels inside the model file (see model_file.py); the two below are for training and
for tools without a model. Knows nothing of models, images or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSet:
    """Names and colors of the classes 0..C-1 of a mask.

    Raises ValueError, naming the field, if the fields contradict each other.
    """

    name: str  #: short identifier, such as 'camvid11'
    names: tuple[str, ...]  #: one per class, unique
    palette: tuple[Colour, ...]  #: RGB 0..255, one per class
    ignore_index: int = 255  #: label value that is neither trained nor scored; C..255

    def __post_init__(self) -> None:
        def check(is_right: bool, problem: str) -> None:
            if not is_right:
                raise ValueError(f"label set '{self.name}': {problem}")

        count = len(self.names)
        check(1 <= count <= 255, f"1 to 255 names expected, got {count}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        check(not twice, f"names occur twice: {', '.join(twice)}")
        check(len(self.palette) == count, f"{count} names but {len(self.palette)} palette colours")
        for name, colour in zip(self.names, self.palette, strict=True):
            is_right = len(colour) == 3 and all(0 <= value <= 255 for value in colour)
            check(is_right, f"colour of '{name}' must be three values 0..255, got {colour}")
        ignored = self.ignore_index
        check(count <= ignored <= 255, f"ignore_index must be in {count}..255, got {ignored}")

    def __len__(self) -> int:
        return len(self.names)

    def colour_table(self) -> np.ndarray:
        """(256, 3) uint8 RGB by mask value; values without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.palette
        return table


# The 11 classes of SegNet's CamVid, in the order of its label files; 32-class colors of
# Brostow et al. 2008.
CAMVID = LabelSet(
    name="camvid11",
    names=(
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign-symbol", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192),
        (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
        (0, 128, 192),
    ),
)  # fmt: skip

# The 19 evaluated classes of Cityscapes by train id; names and colors of cityscapesScripts.
CITYSCAPES = LabelSet(
    name="cityscapes19",
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
        "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
        "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
        (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
        (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
        (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip


def label_set_to_dict(labels: LabelSet) -> dict[str, Any]:
    """Convert to JSON values."""
    return {
        "name": labels.name,
        "names": list(labels.names),
        "palette": [list(colour) for colour in labels.palette],
        "ignore_index": labels.ignore_index,
    }


def label_set_from_dict(values: dict[str, Any]) -> LabelSet:
    """Convert from JSON values. Raises ValueError, TypeError or KeyError if they are not labels."""
    return LabelSet(
        name=str(values["name"]),
        names=tuple(map(str, values["names"])),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in values["palette"]),
        ignore_index=int(values["ignore_index"]),
    )
