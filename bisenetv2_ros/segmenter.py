"""A frame in, its segmentation out. Read this first: everything else feeds it or shows its result.

    segmenter = Segmenter()                      # the package's model on the best backend
    result = segmenter(frame)                    # (H, W, 3) uint8 of any size
    result.mask, result.counts                   # class per pixel, pixels per class

The node, the offline verbs and the training's evaluation share this code, so that all of them see
the same pixels. It knows nothing of ROS, image files, or the runtime behind the backend.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from bisenetv2_ros.backends import BatchProfile, Report, create_backend
from bisenetv2_ros.model_file import ModelFile
from bisenetv2_ros.resize import check_image

#: (H, W, 3) uint8 of any size and strides, and the order of its channels.
Frame = tuple[np.ndarray, Literal["rgb", "bgr"]]


class InferenceError(RuntimeError):
    """The network's output for one frame is unusable; the next frame may be fine."""


@dataclass(frozen=True)
class Segmentation:
    """The class of each pixel of one frame."""

    mask: np.ndarray  #: (H, W) uint8 class index, at the network's size or the one asked for
    confidence: np.ndarray | None  #: (h, w) uint8 probability at the network's size, 255 = 1.0
    counts: np.ndarray  #: (num_classes,) int64, pixels of each class in the mask
    inference_seconds: float  #: resize and network, for all frames of the batch together


class Segmenter:
    """A model on a backend: segments frames of any size.

    Not thread-safe: make one call at a time. As a context manager, it closes itself.
    """

    def __init__(
        self,
        model: ModelFile | str | Path = "",
        *,
        backend: str = "auto",
        device: str = "",
        threads: int = 0,
        batch: int = 1,
        report: Report = lambda line: None,
    ) -> None:
        """Load a model and run it once, so that the first frame is as fast as the next.

        Args:
            model: a model file already read, or a path or name as `model_file.model_path` takes
                them; the backend picks the precision that suits it.
            backend, device, threads, report: see `backends.create_backend`.
            batch: most frames per call; see `at_once`.

        Raises what `create_backend` raises, ModelFileError if the model cannot be read, and
        InferenceError if its output is unusable.
        """
        self.backend = create_backend(
            model, backend, device, threads, report=report, batch=BatchProfile(1, batch, batch)
        )
        self.model = self.backend.model
        #: Frames to pass to `segment_batch` per call: 1 if the backend gains nothing from more.
        self.at_once = batch if self.backend.gains_from_batches else 1
        width, height = self.model.info.input_size
        black = np.zeros((height, width, 3), np.uint8)
        try:
            for count in range(1, self.at_once + 1):
                self.segment_batch([(black, "rgb")] * count)
        except BaseException:
            self.close()
            raise

    def __call__(
        self,
        image: np.ndarray,
        *,
        channel_order: Literal["rgb", "bgr"] = "rgb",
        confidence: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Segmentation:
        """Segment one frame and return a result that the caller may keep.

        Args:
            image: (H, W, 3) uint8 of any size and strides.
            channel_order: of the image.
            confidence: compute it as well.
            size: (width, height) wanted of the mask; see `segment_batch`.

        Raises ValueError for another shape, type or order, and InferenceError if the network's
        output is not finite (the graph then outputs a value that is no class).
        """
        (result,) = self.segment_batch([(image, channel_order)], confidence, [size])
        probability = result.confidence
        return replace(
            result,
            mask=result.mask.copy(),
            confidence=None if probability is None else probability.copy(),
        )

    def segment_batch(
        self,
        frames: Sequence[Frame],
        confidence: bool = False,
        sizes: Sequence[tuple[int, int] | None] | None = None,
    ) -> list[Segmentation]:
        """Segment several frames in one call; they may differ in size.

        Args:
            frames: the images and their channel orders.
            confidence: compute it as well.
            sizes: (width, height) wanted of each frame's mask, None for the network's. The scores
                are enlarged to it before the argmax, as published evaluations do. A backend that
                does not return scores returns the network's mask instead; use `resize_mask` then.

        The results lie in the backend's memory and are valid until the next call. Raises the same
        errors as a call for one frame.
        """
        for image, order in frames:
            check_image(image)
            if order not in ("rgb", "bgr"):
                raise ValueError(f"channel_order must be 'rgb' or 'bgr', got '{order}'")
        start = time.perf_counter()
        # Sizes are only passed on if they are not the network's own.
        network = self.model.info.input_size
        others = [None if size == network else size for size in sizes or ()]
        images = self._resize(frames)
        masks, confidences = (
            self.backend.infer(images, confidence, others)
            if any(others)
            else self.backend.infer(images, confidence)
        )
        seconds = time.perf_counter() - start
        return [
            Segmentation(mask, confidences[i] if confidences else None, self._count(mask), seconds)
            for i, mask in enumerate(masks)
        ]

    def _resize(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB at the network's size, in the memory fastest for the backend."""
        size = self.model.info.input_size
        if len(frames) == 1 and frames[0][1] == "rgb" and frames[0][0].shape[1::-1] == size:
            return frames[0][0][np.newaxis]
        images = self.backend.input_memory(len(frames))
        for (image, order), place in zip(frames, images, strict=True):
            self.backend.lay(image, order, place)
        return images

    def _count(self, mask: np.ndarray) -> np.ndarray:
        """Pixels of each class, (num_classes,) int64."""
        # calcHist is three times as fast as np.bincount, and exact up to 2**24 pixels.
        histogram = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        counts = histogram[: len(self.model.info.labels)]
        strays = mask.size - int(counts.sum())
        if strays:
            raise InferenceError(
                f"model '{self.model.name}' on {self.backend.name}: {strays} of {mask.size} "
                "pixels are no class, expected finite network output"
            )
        return counts

    def close(self) -> None:
        """Free the model; the segmenter cannot be used afterwards."""
        self.backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
