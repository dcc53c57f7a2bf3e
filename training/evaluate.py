"""Scores of a network or a model file on a labelled data set, at the labels' full resolution.

The protocol is the paper's (section 5.1): the frame is resized to the network's size, the
prediction back to the label's. Frames go through the very code that the node runs: the same resize,
the same wrapper (`DeployedModel`), the same mask resize. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from bisenetv2_ros.metrics import confusion_matrix
from bisenetv2_ros.segmenter import resize_image, resize_mask
from bisenetv2_ros.training.datasets import Dataset, Sample
from bisenetv2_ros.training.export import DeployedModel
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe

Mask = NDArray[np.uint8]


def evaluate(
    predict: Callable[[Mask], Mask],
    dataset: Dataset,
    on_sample: Callable[[Sample, Mask], None] | None = None,
) -> NDArray[np.int64]:
    """Confusion matrix (C, C + 1) of `metrics.confusion_matrix`, of a predictor over a data set.

    Args:
        predict: frame (H, W, 3) uint8 RGB of any size -> mask (h, w) uint8 of any size.
        dataset: labelled frames.
        on_sample: receives each sample with its mask at the label's size.
    """
    classes = len(dataset.labels)
    total = np.zeros((classes, classes + 1), np.int64)
    for index in range(len(dataset)):
        sample = dataset[index]
        height, width = sample.label.shape
        mask = resize_mask(predict(sample.image), (width, height))
        total += confusion_matrix(sample.label, mask, classes, dataset.labels.ignore_index)
        if on_sample:
            on_sample(sample, mask)
    return total


def network_predictor(network: BiSeNetV2, recipe: Recipe) -> Callable[[Mask], Mask]:
    """The deployed wrapper around a network, on the network's device: frame -> mask."""
    device = next(network.parameters()).device
    deployed = DeployedModel(network, recipe.mean, recipe.std).eval().to(device)

    @torch.inference_mode()
    def predict(image: Mask) -> Mask:
        small = resize_image(image, recipe.input_size)
        mask, _ = deployed(torch.from_numpy(np.ascontiguousarray(small)[None]).to(device))
        return mask[0].cpu().numpy()

    return predict


def evaluate_network(network: BiSeNetV2, recipe: Recipe, dataset: Dataset) -> NDArray[np.int64]:
    """Confusion matrix of a network with a recipe's normalisation and input size."""
    was_training = network.training
    matrix = evaluate(network_predictor(network.eval(), recipe), dataset)
    network.train(was_training)
    return matrix
