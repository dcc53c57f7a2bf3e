"""A frame in, its segmentation out. Read this first: everything else feeds it or shows its result.

    segmenter = Segmenter()                      # the package's model on the best backend
    result = segmenter(frame)                    # (H, W, 3) uint8 of any size
    result.mask, result.counts                   # class per pixel, pixels per class

The same code serves the node, the tools and the training's evaluation, so that all of them see the
same pixels. It knows nothing of ROS, files of pictures, or which runtime is behind the backend.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import cv2
import numpy as np

from bisenetv2_ros.backends import BatchProfile, Report, create_backend
from bisenetv2_ros.model_file import ModelFile
from bisenetv2_ros.resize import check_image, resize_image

#: (H, W, 3) uint8 of any size and strides, and the order of its channels.
Frame = tuple[np.ndarray, Literal["rgb", "bgr"]]


class InferenceError(RuntimeError):
    """The network's answer to one frame is unusable; the next one may be fine."""


@dataclass(frozen=True)
class Segmentation:
    """What is where in one frame."""

    mask: np.ndarray  #: (H, W) uint8 class index, at the network's size or the one asked for
    confidence: np.ndarray | None  #: (h, w) uint8 probability at the network's size, 255 = 1.0
    counts: np.ndarray  #: (num_classes,) int64, pixels of each class in the mask
    inference_seconds: float  #: time of resize and network, of all frames that ran at once


class Segmenter:
    """A model on a backend, from frames of any size to `Segmentation`s.

    Not thread-safe: one call at a time. Also a context manager, which closes it.
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
        """Load a model and run it once, so that the first frame is as quick as the next.

        model: a file that was read, or a path or name as `model_file.model_path` takes them, of
            which the backend takes the precision that suits it.
        batch: as many frames as there will be at once; see `at_once`.
        The others, and their errors: see `backends.create_backend`. ModelFileError
        when the model cannot be read, InferenceError when it answers nonsense.
        """
        self.backend = create_backend(
            model, backend, device, threads, report=report, batch=BatchProfile(1, batch, batch)
        )
        self.model = self.backend.model
        #: Frames to give to `segment_batch` at once: 1 where the backend gains nothing from more.
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
        """Segment one frame, (H, W, 3) uint8 of any size and strides, channels in that order.

        size: (width, height) wanted of the mask; see `segment_batch`.

        The result is the caller's to keep. Raises ValueError for another shape, type or order,
        InferenceError where the network's output is not finite (the graph then answers a value
        that is no class).
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
        """Segment frames at once, of one size or several.

        sizes: (width, height) wanted of each frame's mask, None for the network's. Masks of that
        size are made from the scores, enlarged before the argmax as published evaluations do it. A
        backend that does not hand out scores gives the network's mask, for `resize_mask`.

        The results lie in the backend's memory and are good until the next call. Errors as above,
        for whichever frame it is.
        """
        for image, order in frames:
            check_image(image)
            if order not in ("rgb", "bgr"):
                raise ValueError(f"channel_order must be 'rgb' or 'bgr', got '{order}'")
        start = time.perf_counter()
        masks, confidences = self.backend.infer(self._resize(frames), confidence, sizes)
        seconds = time.perf_counter() - start
        return [
            Segmentation(mask, confidences[i] if confidences else None, self._count(mask), seconds)
            for i, mask in enumerate(masks)
        ]

    def _resize(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB at the network's size, where the backend reads it the fastest."""
        size = self.model.info.input_size
        if len(frames) == 1 and frames[0][1] == "rgb" and frames[0][0].shape[1::-1] == size:
            return frames[0][0][np.newaxis]
        images = self.backend.input_memory(len(frames))
        for (image, order), place in zip(frames, images, strict=True):
            if order == "bgr":  # after the resize: usually fewer pixels
                cv2.cvtColor(resize_image(image, size), cv2.COLOR_BGR2RGB, dst=place)
            elif resize_image(image, size, place) is image:
                np.copyto(place, image)
        return images

    def _count(self, mask: np.ndarray) -> np.ndarray:
        """Pixels of each class, (num_classes,) int64."""
        # calcHist is three times as quick as np.bincount, and exact up to 2**24 pixels.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
