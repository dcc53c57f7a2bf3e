"""A network small enough to export in a second, whose masks vary, and frames for it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn

from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.street.scene import StreetScene
from bisenetv2_ros.training.export import DeployedModel
from bisenetv2_ros.training.model import BiSeNetV2, ModelConfig

SIZE = (96, 64)  # (width, height)
MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.25, 0.3)


@functools.lru_cache
def street_frames(count: int) -> list[np.ndarray]:
    """(H, W, 3) uint8 RGB, twice the network's size."""
    return [StreetScene(seed, (192, 128)).render(0.5 * seed)[0] for seed in range(count)]


def small_network(seed: int = 0, shuffle: int = 1) -> DeployedModel:
    """Random weights; batch norm statistics from frames, without which masks hold one class."""
    torch.manual_seed(seed)
    config = ModelConfig(
        num_classes=11,
        detail_channels=(16, 16, 32),
        head_channels=32,
        head_shuffle=shuffle,
        boosters=(),
        dropout=0.0,
    )
    deployed = DeployedModel(BiSeNetV2(config), MEAN, STD)
    for module in deployed.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one pass tells all
    frames = np.stack([resize_image(frame, SIZE) for frame in street_frames(4)])
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        deployed.network(x)
    return deployed.eval()
