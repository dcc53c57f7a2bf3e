"""The whole of training, from files to scores, can learn a handful of frames by heart.

Where BISENETV2_CAMVID names CamVid's folder the frames are CamVid's, elsewhere rendered streets.
"""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bisenetv2_ros.training import loop  # noqa: E402
from bisenetv2_ros.training.dataset_layouts import load_dataset  # noqa: E402
from bisenetv2_ros.training.recipe import recipe_from_dict  # noqa: E402
from bisenetv2_ros.training.run_record import read_metrics  # noqa: E402

FRAMES = 8
SIZE = (160, 128)
CUT = (40, 32)  # of the frame, then enlarged to SIZE


def telling_part(label: np.ndarray) -> tuple[slice, slice]:
    """The part of a frame with three classes or more of which the smallest is largest.

    Logits are at 1/8 of the frame: of a pole of three pixels before one and the same wall, between
    two of them, they cannot tell.
    """
    best, found = 0, (slice(0, CUT[1]), slice(0, CUT[0]))
    for top in range(0, label.shape[0] - CUT[1], 8):
        for left in range(0, label.shape[1] - CUT[0], 8):
            part = (slice(top, top + CUT[1]), slice(left, left + CUT[0]))
            counts = np.unique(label[part][label[part] < 11], return_counts=True)[1]
            if len(counts) > 2 and counts.min() > best:
                best, found = counts.min(), part
    return found


@pytest.fixture
def frames(tmp_path):
    camvid = os.environ.get("BISENETV2_CAMVID", "")
    dataset = load_dataset("camvid" if camvid else "synthetic", camvid, "train")
    for kind in ("images", "labels"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    seen: set[int] = set()
    for i in range(FRAMES):
        sample = dataset[i * (len(dataset) // FRAMES)]
        part = telling_part(sample.label)
        image = cv2.resize(sample.image[part], SIZE)[..., ::-1]
        label = cv2.resize(sample.label[part], SIZE, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / "train/images" / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / "train/labels" / f"{i}.png"), label)
        seen.update(np.unique(label))
    assert len(seen) > 4, "something to tell apart"
    return tmp_path


RECIPE = {
    "name": "by_heart",
    "dataset": "camvid",
    "val_split": "train",
    "input_size": SIZE,
    "crop": SIZE,
    "scales": [1],
    "flip": False,
    "model": {
        "num_classes": 11,
        "width": 0.5,
        "head_channels": 128,
        "booster_channels": 32,
        "dropout": 0,
    },
    "iterations": 260,
    "batch_size": FRAMES,
    "warmup": 10,
    "weight_decay": 0,
    "class_weights": "log",
    "booster_weight": 0.4,
    "booster_stride": 4,
    "ema": 0.9,
    "workers": 0,
}


@pytest.mark.timeout(1800)  # about a minute of one core; a busy one has more to do
def test_eight_frames_are_learnt_by_heart(frames, tmp_path):
    run = tmp_path / "run"
    loop.train(recipe_from_dict(RECIPE), frames, run, device="cpu", say=lambda _: None)
    assert read_metrics(run / "metrics.jsonl")[-1]["val_miou"] > 0.95
