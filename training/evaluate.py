"""Scores of a network or a model file on a labeled dataset, at the labels' full resolution.

The protocol is the paper's (section 5.1): the frame is resized to the network's size, and the
scores are enlarged to the label's size before the argmax. Frames go through the code that the node
runs: the same resize, the same wrapper (`DeployedModel`), the same enlargement. Knows nothing of
training.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bisenetv2_ros.camera_view import View
from bisenetv2_ros.files.images import raise_error, write_picture
from bisenetv2_ros.metrics import confusion_matrix
from bisenetv2_ros.model_file import NO_CLASS
from bisenetv2_ros.resize import resize_image, resize_mask
from bisenetv2_ros.training.dataset_files import known_dataset
from bisenetv2_ros.training.datasets import Dataset, DatasetError, Sample
from bisenetv2_ros.training.export import DeployedModel
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe

Mask = NDArray[np.uint8]
READERS = 4  # threads that read frames
BAND = 1 << 26  # scores enlarged per step


class CroppedDataset:
    """Another dataset's samples, cropped as the node crops a camera's image (parameter `crops`)."""

    def __init__(self, whole: Dataset, view: View) -> None:
        self.whole = whole
        self.view = view
        self.labels = whole.labels

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        """Return the cropped sample; errors as for the whole one."""
        sample = self.whole[index]
        return Sample(self.view.cut(sample.image), self.view.cut(sample.label), sample.name)


def evaluate(
    predict: Callable[[Mask], Mask],
    dataset: Dataset,
    on_sample: Callable[[Sample, Mask], None] | None = None,
    on_damaged: Callable[[DatasetError], None] = raise_error,
) -> NDArray[np.int64]:
    """Return the confusion matrix (C, C + 1) of a predictor over a dataset.

    Args:
        predict: frame (H, W, 3) uint8 RGB of any size -> mask (h, w) uint8 of any size.
        dataset: labeled frames.
        on_sample: receives each sample with its mask at the label's size.
        on_damaged: receives the error of each damaged sample, which is then left out.
    """
    classes = len(dataset.labels)
    total = np.zeros((classes, classes + 1), np.int64)
    for read in _read_ahead(dataset):
        try:
            sample = read()
        except DatasetError as error:
            on_damaged(error)
            continue
        height, width = sample.label.shape
        mask = resize_mask(predict(sample.image), (width, height))
        total += confusion_matrix(sample.label, mask, classes, dataset.labels.ignore_index)
        if on_sample:
            on_sample(sample, mask)
    return total


def _read_ahead(dataset: Dataset) -> Iterator[Callable[[], Sample]]:
    """Yield, in order, functions that return or raise each sample; READERS threads read ahead.

    A large image takes longer to decode than a GPU takes to segment it.
    """
    ahead: collections.deque[Future[Sample]] = collections.deque()
    pool = ThreadPoolExecutor(READERS)
    try:
        for index in range(len(dataset)):
            ahead.append(pool.submit(dataset.__getitem__, index))
            if len(ahead) > READERS:
                yield ahead.popleft().result
        while ahead:
            yield ahead.popleft().result
    finally:
        pool.shutdown(cancel_futures=True)


def network_predictor(network: BiSeNetV2, recipe: Recipe) -> Callable[[Mask], Mask]:
    """Return a function from a frame to its mask, with a network as it is deployed."""
    device = next(network.parameters()).device
    deployed = DeployedModel(network, recipe.mean, recipe.std).eval().to(device)

    @torch.inference_mode()
    def predict(image: Mask) -> Mask:
        small = resize_image(image, recipe.input_size)
        x = torch.from_numpy(np.ascontiguousarray(small)[None]).to(device)
        coarse = deployed.coarse_logits(x)
        return enlarged_argmax(coarse, image.shape[:2], network.config.align_corners)

    return predict


def enlarged_argmax(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Mask:
    """Enlarge scores bilinearly and take the argmax of each pixel.

    Published protocols score this way; an enlarged mask would have stepped edges. Works in bands of
    rows, because all classes of a large frame take gigabytes.

    Args:
        logits: (1, C, h, w).
        size: (height, width) of the mask.
        align_corners: see torch's `interpolate`.

    Returns:
        (height, width) uint8 class indices; NO_CLASS if the scores are not finite.
    """
    height, width = size
    rows = logits.shape[2]
    place = torch.arange(height, device=logits.device, dtype=torch.float32)
    if align_corners:
        place = place * ((rows - 1) / max(1, height - 1))
    else:
        place = ((place + 0.5) * (rows / height) - 0.5).clamp(min=0)
    above = place.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    weight = (place - above)[None, None, :, None]
    band = max(1, BAND // (logits.shape[1] * width))
    masks = []
    for start in range(0, height, band):
        part = slice(start, start + band)
        mixed = torch.lerp(
            logits[:, :, above[part]].float(), logits[:, :, below[part]].float(), weight[:, :, part]
        )
        wide = F.interpolate(
            mixed, (mixed.shape[2], width), mode="bilinear", align_corners=align_corners
        )
        top, index = wide[0].max(0)
        masks.append(torch.where(top < 1e30, index, NO_CLASS).to(torch.uint8))
    return torch.cat(masks).cpu().numpy()


def averaging_predictor(
    network: BiSeNetV2,
    recipe: Recipe,
    *,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    full_size: bool = False,
) -> Callable[[Mask], Mask]:
    """Average class probabilities over scales and mirroring: frame -> mask.

    Benchmarks call it multi-scale testing; real-time systems do not use it.

    Args:
        network: in evaluation mode after this call.
        recipe: for the normalization and the network's size.
        flip: average with the prediction of the mirrored frame.
        scales: factors on the network's size, each rounded to a multiple of 8 pixels.
        full_size: the network's size is the frame's own instead of the recipe's.

    Returns:
        a function from a frame to its mask, of the frame's size.
    """
    device = next(network.parameters()).device
    network.eval()
    mean, std = torch.tensor(recipe.mean, device=device), torch.tensor(recipe.std, device=device)

    def probabilities(image: Mask, size: tuple[int, int]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, size))[None]).to(device)
        x = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        result = enlarged(x, image).softmax(1)
        if flip:
            result = (result + enlarged(x.flip(3), image).softmax(1).flip(3)) / 2
        return result

    def enlarged(x: Tensor, image: Mask) -> Tensor:
        corners = network.config.align_corners
        size = image.shape[:2]
        return F.interpolate(network(x), size, mode="bilinear", align_corners=corners)

    @torch.inference_mode()
    def predict(image: Mask) -> Mask:
        size = (image.shape[1], image.shape[0]) if full_size else recipe.input_size
        total = sum(probabilities(image, _scaled(size, scale)) for scale in scales)
        assert isinstance(total, Tensor), "there is at least one scale"
        return total.argmax(1)[0].to(torch.uint8).cpu().numpy()

    return predict


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    width, height = (max(32, 8 * round(scale * side / 8)) for side in size)
    return width, height


class CityscapesSubmission:
    """Writes predictions in the Cityscapes server's format: PNGs of label ids, not train ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = np.zeros(256, np.uint8)  # a mask value that is no class becomes `unlabeled`
        label_ids = [values[0] for values in known_dataset("cityscapes").values()]
        self.table[: len(label_ids)] = label_ids
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, sample: Sample, mask: Mask) -> None:
        """Write one mask of the label's size, under the frame's name."""
        write_picture(self.folder / f"{sample.name}.png", self.table[mask])
