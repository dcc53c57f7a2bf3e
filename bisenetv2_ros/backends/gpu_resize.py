"""Resizes frames on the GPU, to the same pixels as resize.py on the CPU.

Each frame is copied once into page-locked memory. A GPU that shares the system's memory, as on
Jetson, reads it there; for other GPUs it is uploaded. Each step of the resize is one launch of
`resample` (kernels.cu); the last step writes to the network's input.
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bisenetv2_ros.backends.cuda import Cuda, Kernel
from bisenetv2_ros.resize import resize_image, resize_steps

_SIZES = 8  #: number of frame sizes whose tables are kept on the device
_ALIGNMENT = 256  # bytes
_LEAST = 1e-3  # pixels; OpenCV ignores smaller parts of an area
_AREA, _HALVES, _LINEAR = range(3)  # as in kernels.cu


class Taps(NamedTuple):
    """Source pixels and weights of each pixel along one side; those of i start at first[i]."""

    first: np.ndarray  #: (pixels,) int32
    weights: np.ndarray  #: (pixels, taps) float32; sum to 1, or to 2048 in linear interpolation


@functools.lru_cache(maxsize=64)
def area_taps(source: int, target: int) -> Taps:
    """Return the taps of one side for area averaging of `source` to `target` pixels."""
    scale = source / target
    begin = np.arange(target)[:, np.newaxis] * scale
    end = np.minimum(begin + scale, source)
    first = np.floor(begin + _LEAST)
    number = min(source, max(1, int(np.ceil(end - _LEAST - first).max())))
    first = np.minimum(first, source - number)
    pixel = first + np.arange(number)
    shares = np.minimum(pixel + 1, end) - np.maximum(pixel, begin)
    shares = np.where(shares > _LEAST, shares, 0)
    weights = shares / shares.sum(1, keepdims=True)
    return Taps(first.ravel().astype(np.int32), weights.astype(np.float32))


@functools.lru_cache(maxsize=64)
def linear_taps(source: int, target: int, edges: bool) -> Taps:
    """Return the taps of one side for linear interpolation, with 11-bit weights.

    edges: whether taps may lie outside the image; the kernel then repeats the edge pixels.
    """
    at = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    if not edges:
        at = np.clip(at, 0, source - 1)
    first = np.floor(at).astype(np.int32)
    number = 2
    if not edges:
        number = min(2, source)
        first = np.minimum(first, source - number)
    share = at - first
    weights = np.stack([1 - share, share], 1)[:, :number]
    return Taps(first, np.rint(weights * 2048).astype(np.float32))


@dataclass(frozen=True)
class _Launch:
    """A step of a plan; only the frame and the last target are still to be set."""

    size: tuple[int, int]  #: (width, height) of its result
    kind: int
    tables: tuple[int, int, int, int, int, int]  #: x first, weights, number of taps; y the same
    target: int  #: address of its result; 0 for the last step


class GpuResize:
    """Resizes frames to one size. Not thread-safe; `cuda` must be current.

    Memory that the device uses is freed only after the stream has finished its work.
    """

    def __init__(self, cuda: Cuda, kernel: Kernel, size: tuple[int, int]) -> None:
        self._cuda, self._kernel, self._size = cuda, kernel, size
        self._plans: OrderedDict[tuple[int, int], tuple[list[_Launch], contextlib.ExitStack]]
        self._plans = OrderedDict()
        self._frames: dict[int, tuple[np.ndarray, int, contextlib.ExitStack]] = {}

    def __call__(
        self, image: np.ndarray, order: Literal["rgb", "bgr"], place: int, target: int
    ) -> None:
        """Queue the resize of an (H, W, 3) uint8 frame of another size, with any strides.

        The frame may be reused when this returns.

        Args:
            place: index of the frame in its batch; each index has its own memory.
            target: device address of the result, (height, width, 3) uint8 RGB.

        Raises:
            CudaError: if a CUDA call fails, such as for lack of memory.
        """
        height, width = image.shape[:2]
        launches = self._plan((width, height))
        host, source = self._frame(place, image.nbytes)
        np.copyto(host[: image.nbytes].reshape(image.shape), image)
        if not self._cuda.integrated:
            self._cuda.upload(source, host[: image.nbytes])
        first, next_ = (0, 1) if order == "rgb" else (2, -1)
        sizes = [(width, height), *(launch.size for launch in launches)]
        for size, launch in zip(sizes, launches, strict=False):
            made = launch.target or target
            arguments = (source, *size, first, next_, made, *launch.size)
            self._kernel(launch.size, *arguments, *launch.tables, launch.kind)
            source, first, next_ = made, 0, 1

    def is_right(self, target: int, host: np.ndarray) -> bool:
        """Return whether every kind of step gives the CPU's pixels, within one level. Blocks.

        target, host: memory for one image on device and host; overwritten.
        """
        width, height = self._size
        right = True
        for columns, rows in ((2 * width, 2 * height), (2 * width + 1, 3 * height)):
            frame = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
            self(frame, "bgr", 0, target)
            self._cuda.download(host, target)
            self._cuda.wait()
            expected = resize_image(frame, self._size)[..., ::-1]
            right &= int(np.abs(expected.astype(np.int16) - host).max()) <= 1
        return right

    def _plan(self, source: tuple[int, int]) -> list[_Launch]:
        if source in self._plans:
            self._plans.move_to_end(source)
        else:
            if len(self._plans) >= _SIZES:
                self._cuda.wait()
                self._plans.popitem(last=False)[1][1].close()
            with self._cuda.all_or_nothing() as memory:
                launches = self._make_plan(source)
            self._plans[source] = (launches, memory)
        return self._plans[source][0]

    def _make_plan(self, source: tuple[int, int]) -> list[_Launch]:
        steps = resize_steps(source, self._size)
        sides, kinds = [], []
        for step in steps:
            (width, height), (columns, rows) = source, step.size
            if step.area:
                sides += [area_taps(width, columns), area_taps(height, rows)]
                halves = (width, height) == (2 * columns, 2 * rows)
                kinds.append(_HALVES if halves else _AREA)
            else:  # OpenCV clips columns, but not rows
                sides += [linear_taps(width, columns, False), linear_taps(height, rows, True)]
                kinds.append(_LINEAR)
            source = step.size
        addresses = self._upload([array for side in sides for array in side])
        launches = []
        for number, (step, kind) in enumerate(zip(steps, kinds, strict=True)):
            x, y = sides[2 * number : 2 * number + 2]
            a, b, c, d = addresses[4 * number : 4 * number + 4]
            tables = (a, b, x.weights.shape[1], c, d, y.weights.shape[1])
            last = number == len(steps) - 1
            target = 0 if last else self._cuda.allocate(3 * step.size[0] * step.size[1])
            launches.append(_Launch(step.size, kind, tables, target))
        return launches

    def _upload(self, arrays: list[np.ndarray]) -> list[int]:
        """Upload arrays in one copy; return the device address of each."""
        ends = np.cumsum([-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays])
        begins = [0, *map(int, ends[:-1])]
        host = self._cuda.pinned((int(ends[-1]),))
        for begin, array in zip(begins, arrays, strict=True):
            host[begin : begin + array.nbytes] = array.reshape(-1).view(np.uint8)
        device = self._cuda.allocate(host.nbytes)
        self._cuda.upload(device, host)
        return [device + begin for begin in begins]

    def _frame(self, place: int, size: int) -> tuple[np.ndarray, int]:
        """Return page-locked memory for a frame, and the address at which the device reads it."""
        if place in self._frames and len(self._frames[place][0]) < size:
            self._cuda.wait()
            self._frames.pop(place)[2].close()
        if place not in self._frames:
            with self._cuda.all_or_nothing() as memory:
                host = self._cuda.pinned((size,))
                integrated = self._cuda.integrated
                device = self._cuda.mapped(host) if integrated else self._cuda.allocate(size)
            self._frames[place] = (host, device, memory)
        return self._frames[place][:2]
