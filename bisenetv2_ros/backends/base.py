"""The backend contract: checked uint8 images in, uint8 masks out.

Each runtime has its own module beside this one.
"""

from __future__ import annotations

import array
import contextlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from bisenetv2_ros.backends.tail import Tail
from bisenetv2_ros.model_file import ModelFile, ModelFileError
from bisenetv2_ros.resize import resize_image


class BackendUnavailable(RuntimeError):
    """The requested runtime or device is not available; the message says what to install."""


class Cancelled(Exception):
    """Raised by a progress callback to cancel a long-running load."""


class DeviceLost(RuntimeError):
    """The device has failed for this process; only a new process can use it again."""


#: Receives a line about the progress of loading, at least every 0.1 s if loading takes long. An
#: exception that it raises cancels the load.
Report = Callable[[str], None]


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes that an engine is built for. Raises ValueError if they are out of order."""

    minimum: int = 1
    optimum: int = 1
    maximum: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"batch is {self.minimum},{self.optimum},{self.maximum}, expected numbers of "
                "images min,opt,max with 1 <= min <= opt <= max"
            )


ONE_IMAGE = BatchProfile()
MOST_AT_ONCE = 8  #: largest batch of the node; engines are prepared for every size up to it

#: (H, W) uint8 per image.
Masks = list[np.ndarray]


class Backend(ABC):
    """A model loaded into a runtime. Not thread-safe."""

    name: str  #: key of `backends.BACKENDS`
    model: ModelFile  #: the file that was loaded
    device: str  #: human-readable, such as 'CPU (2 threads)'
    gains_from_batches = False  #: whether a batch takes less time than its images one by one
    _input: np.ndarray
    _tail: Tail | None = None  # set if the runtime's graph ends at the logits

    @classmethod
    def check_available(cls, device: str) -> None:
        """Raise BackendUnavailable if the runtime or device is missing, before a model is read."""
        return  # backends that find out only later raise while loading

    @abstractmethod
    def __init__(
        self, model: ModelFile, device: str, threads: int, report: Report, batch: BatchProfile
    ) -> None:
        """Load `model`. Arguments and errors as in `backends.create_backend`, but threads > 0."""

    def input_memory(self, count: int) -> np.ndarray:
        """Return memory for images, (count, H, W, 3) uint8, from which `infer` reads fastest.

        It is the same memory each time, with undefined content: do not keep references to it.
        Discards what `lay` wrote before.
        """
        if len(self._input) < count:
            width, height = self._input_size
            self._input = np.empty((count, height, width, 3), np.uint8)
        return self._input[:count]

    def lay(self, image: np.ndarray, order: Literal["rgb", "bgr"], place: np.ndarray) -> None:
        """Resize an (H, W, 3) uint8 frame into `place`, one image of `input_memory`, as RGB.

        Only the next `infer` of that memory uses it: some runtimes resize it on the device.
        """
        size = self._input_size
        if order == "bgr":  # converted after the resize, which usually leaves fewer pixels
            cv2.cvtColor(resize_image(image, size), cv2.COLOR_BGR2RGB, dst=place)
        elif resize_image(image, size, place) is image:
            np.copyto(place, image)

    def infer(
        self,
        images: np.ndarray,
        confidence: bool = False,
        sizes: Sequence[tuple[int, int] | None] | None = None,
    ) -> tuple[Masks, Masks | None]:
        """Segment (N, H, W, 3) uint8 RGB images of the model's size; return masks and confidences.

        Confidences are None unless asked for, and are computed only then. Both may lie in the
        runtime's memory, valid until the next call or `close`: copy what has to live longer.
        Strided images are copied first. Raises ValueError for other shapes or types.

        sizes: (width, height) wanted of each mask, None for the model's. If the runtime ends at the
        logits and the size is at least twice theirs, the logits are enlarged to it before the
        argmax. Other masks, and all confidences, have the model's size.
        """
        width, height = self._input_size
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.ndim != 4
            or images.shape[0] == 0
            or images.shape[1:] != (height, width, 3)
        ):
            received = (
                f"{images.dtype} {images.shape}"
                if isinstance(images, np.ndarray)
                else type(images).__name__
            )
            raise ValueError(
                f"images are {received}, expected uint8 (N, {height}, {width}, 3) "
                f"for model '{self._name}'"
            )
        answers, confidences = self._infer(np.ascontiguousarray(images), confidence)
        if self._tail is None:
            return answers, confidences
        masks = []
        for logits, size in zip(answers, sizes or [None] * len(answers), strict=True):
            fits = size is not None and self._tail.enlarges_to(logits, size)
            masks += list(self._tail.mask(logits[np.newaxis], size if fits else None))
        return masks, confidences

    @abstractmethod
    def _infer(self, images: np.ndarray, confidence: bool) -> tuple[Masks, Masks | None]:
        """Do `infer` for checked arguments; `images` are C-contiguous.

        With a `_tail`, return logits, (C, h, w) float32 per image, in place of masks.
        """

    def close(self) -> None:
        """Free the model. May be called twice; the backend cannot be used afterwards."""
        vars(self).clear()

    def _describe(self, model: ModelFile) -> None:
        self._name = model.name
        self._input_size = model.info.input_size
        self._input = np.empty((0, 0, 0, 3), np.uint8)


def output_memory(shape: tuple[int, ...]) -> np.ndarray:
    """Zeroed uint8 memory of an `array.array`, which a ROS message takes without a copy."""
    return np.frombuffer(array.array("B", bytes(math.prod(shape))), np.uint8).reshape(shape)


def refused(model: ModelFile, runtime: str, error: Exception) -> ModelFileError:
    """A one-line error for a valid model file that a runtime does not accept."""
    reason = " ".join(str(error).split())
    return ModelFileError(f"model file {model.path}: {runtime} cannot load it: {reason}")


def available_cores() -> int:
    """Physical cores that this process may use by its CPU affinity and its cgroup's CPU quota.

    Hyperthreads of a core count once: two threads on one core slow each other down.
    """
    cpus = os.sched_getaffinity(0)
    topology = (Path(f"/sys/devices/system/cpu/cpu{cpu}/topology") for cpu in cpus)
    try:
        cores = len({(core / "thread_siblings_list").read_text() for core in topology})
    except OSError:  # not exposed by every kernel or container
        cores = len(cpus)
    return max(1, math.ceil(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPUs that the cgroup of this process and its parents allow; inf without a quota.

    Read from `cpu.max` (cgroup v2) or `cpu.cfs_quota_us` (v1) below `root`/sys/fs/cgroup. A process
    with more threads than its quota is throttled for the rest of each period, which delays the
    frame.
    """
    quota = math.inf
    for directory in _cgroup_directories(root):
        try:
            allowed, period = (directory / "cpu.max").read_text().split()
        except (OSError, ValueError):
            try:
                allowed = (directory / "cpu.cfs_quota_us").read_text()
                period = (directory / "cpu.cfs_period_us").read_text()
            except OSError:
                continue
        with contextlib.suppress(ValueError, ZeroDivisionError):  # "max"
            if float(allowed) > 0:  # -1 in v1: no quota
                quota = min(quota, float(allowed) / float(period))
    return quota


def _cgroup_directories(root: Path) -> Iterator[Path]:
    """Directories of this process's CPU cgroup and all of its parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [mount / controllers, mount / "cpu"] if controllers else [mount]
        for top in tops:
            # In a container the path may be the host's, which does not exist here.
            directory = top / path.lstrip("/")
            yield from (p for p in (directory, *directory.parents) if p.is_relative_to(top))
