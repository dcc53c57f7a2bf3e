"""What a network is trained on: frames, and scenes among them, at the scale it is scored at."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.training.datasets import Sample, SceneDataset
from bisenetv2_ros.training.recipe import load_recipe
from bisenetv2_ros.training.recipe_folder import known_recipes
from bisenetv2_ros.training.samples import TrainingStream

# (width, height) of the frames, of data sets where all have one
FRAMES = {
    "camvid": (480, 360),
    "camvid32": (960, 720),
    "cityscapes": (2048, 1024),
    "synthetic": (480, 360),
}


class Frames:
    """Black frames of one size."""

    labels = CAMVID

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> Sample:
        width, height = self.size
        return Sample(
            np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8), "x"
        )


@pytest.mark.parametrize("name", known_recipes())
def test_frames_and_scenes_are_trained_at_the_scale_they_are_scored_at(name):
    recipe = load_recipe(name)
    if recipe.dataset not in FRAMES:
        pytest.skip("its frames are of many sizes")
    size = recipe.train_size or FRAMES[recipe.dataset]
    stream = TrainingStream(Frames(FRAMES[recipe.dataset]), recipe)
    for trained in (size, stream.scenes.size):
        for scored, side in zip(recipe.input_size, trained, strict=True):
            assert recipe.scales[0] <= scored / side <= recipe.scales[-1]
    assert stream.scenes.size == size


def test_scenes_are_resized_with_the_frames():
    recipe = load_recipe("camvid_cpu", ["train_size=[240, 180]"])
    assert TrainingStream(Frames((480, 360)), recipe).scenes.size == (240, 180)


def test_scenes_are_drawn_from_as_many_as_the_recipe_says(monkeypatch):
    drawn = set()
    monkeypatch.setattr(
        SceneDataset,
        "__getitem__",
        lambda scenes, index: drawn.add(index) or Frames(scenes.size)[index],
    )
    recipe = load_recipe("camvid_cpu", ["synthetic=1", "scenes=3"])
    stream = TrainingStream(Frames((480, 360)), recipe)
    for k in range(40):
        stream[k]
    assert drawn == {0, 1, 2}
