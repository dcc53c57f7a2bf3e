"""Upsampling and argmax of the logits, done here instead of by a runtime.

The network's logits are a fraction of the image's size. The graph enlarges all of them linearly and
takes the argmax of each pixel. But between four logits of the same class every pixel has that
class, because interpolated values lie between their corners; so only the borders between classes
need to be enlarged. The mask is the same; docs/performance.md has the time that it saves.

Works on graphs written by `training/export.py`. Other graphs have no `Tail`: a runtime runs them
whole. Knows neither runtimes nor images.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bisenetv2_ros.backends.subgraph import consumers, producers
from bisenetv2_ros.model_file import MASK, NO_CLASS

if TYPE_CHECKING:
    import onnx

_LARGEST = 1e30  # logits beyond it count as not finite, as in the graph
_PIXELS = 1 << 16  # enlarged per step: the working set stays in the second-level cache


@dataclass(frozen=True)
class Tail:
    """The upsampling and argmax at the end of a model file."""

    logits: str  #: the tensor's name in the file; float32 (N, classes, H / factor, W / factor)
    factor: int  #: even, and in both directions
    classes: np.ndarray  #: (256,) uint8, the mask's value for each channel of the logits

    def mask(self, logits: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """(N, C, h, w) float32 logits to (N, H, W) uint8 masks of `size` (width, height).

        The default size is that of the graph's mask, (w * factor, h * factor); any other must be at
        least twice that of the logits in both directions. Interpolates as the graph does: bilinear
        with half-pixel centers and repeated edges; the first of equal channels wins. An image with
        a logit that is not finite is NO_CLASS everywhere, while the graph may mark only some of its
        pixels.
        """
        count, _, height, width = logits.shape
        size = size or (width * self.factor, height * self.factor)
        masks = np.empty((count, size[1], size[0]), np.uint8)
        for mask, one in zip(masks, logits, strict=True):
            if one.min() > -_LARGEST and one.max() < _LARGEST:  # also false with a NaN in it
                _argmax_enlarged(one, self.classes, mask)
            else:
                mask[:] = NO_CLASS
        return masks

    def enlarges_to(self, logits: np.ndarray, size: tuple[int, int]) -> bool:
        """Whether `mask` accepts this size for logits (..., h, w)."""
        height, width = logits.shape[-2:]
        return size[0] >= 2 * width and size[1] >= 2 * height


class _Axis:
    """Maps the pixels along one axis of the mask to the logits along it.

    A cell is the run of pixels between two neighboring logits. With repeated edges there is one
    more cell than logits, and the outermost ones are half as long. Shorter cells repeat their last
    pixel, so that all cells have the same length.
    """

    def __init__(self, logits: int, pixels: int) -> None:
        at = (np.arange(pixels) + 0.5) * (logits / pixels) + 0.5
        #: (pixels,) the cell that each pixel is in.
        self.cell = np.floor(at).astype(np.intp)
        first = np.searchsorted(self.cell, np.arange(logits + 1))
        counts = np.diff(np.append(first, pixels))
        within = np.minimum(np.arange(counts.max()), counts[:, np.newaxis] - 1)
        #: (cells, longest) the pixels of each cell.
        self.pixel = first[:, np.newaxis] + within
        #: (longest, cells) float32, their position between the cell's two logits, 0..1.
        self.share = (at[self.pixel.T] - self.cell[self.pixel.T]).astype(np.float32)
        #: (2, cells) the logits at both ends of each cell.
        self.ends = np.clip([np.arange(logits + 1) - 1, np.arange(logits + 1)], 0, logits - 1)


_axis = functools.lru_cache(maxsize=32)(_Axis)


def _argmax_enlarged(logits: np.ndarray, classes: np.ndarray, out: np.ndarray) -> None:
    """Write the class of the largest channel into `out`, (H, W) uint8, from (C, h, w) float32."""
    # A cell of both axes is a rectangle of pixels with a logit at each corner.
    channels, height, width = logits.shape
    columns, rows = _axis(width, out.shape[1]), _axis(height, out.shape[0])
    top = np.pad(_argmax(logits), 1, mode="edge")
    first = top[:-1, :-1]
    seam = (first != top[:-1, 1:]) | (first != top[1:, :-1]) | (first != top[1:, 1:])
    np.take(
        classes[first][:, columns.cell], rows.cell, axis=0, out=out, mode="clip"
    )  # raise copies
    i, j = np.nonzero(seam)
    corner = (rows.ends[:, np.newaxis, i] * width + columns.ends[:, j]).reshape(4, -1)
    corners = np.take(logits.reshape(channels, -1), corner, axis=1)
    # Interpolated values lie between their corners, so most channels are smaller everywhere.
    alive = corners.max(1) >= corners.min(1).max(0)
    number = np.count_nonzero(alive, axis=0)
    two = number == 2  # most cells
    order = np.argsort(-number, kind="stable")
    pixels = out.reshape(-1)
    step = max(1, _PIXELS // (len(columns.share) * len(rows.share)))
    for largest, cells in ((_larger_of_two, order[two[order]]), (_largest, order[~two[order]])):
        for begin in range(0, len(cells), step):
            part = cells[begin : begin + step]
            row, column = i[part], j[part]
            right, down = np.take(columns.share, column, 1), np.take(rows.share, row, 1)
            channel = largest(corners, alive.T[part], part, right, down)
            # Cell by cell, because writing to neighbors in memory is several times as fast.
            place = (rows.pixel[row] * out.shape[1])[..., np.newaxis]
            place = place + columns.pixel[column][:, np.newaxis]
            pixels[place.reshape(-1)] = cv2.LUT(channel.transpose(2, 0, 1).reshape(1, -1), classes)


def _argmax(logits: np.ndarray) -> np.ndarray:
    """(H, W) uint8, the first of the largest channels of (C, H, W) float32; faster than NumPy's."""
    best = logits[0].copy()
    index = np.zeros(best.shape, np.uint8)
    for channel, values in enumerate(logits[1:], 1):
        larger = values > best
        np.maximum(values, best, out=best)
        # The channel where it is larger; it is the highest index so far.
        np.maximum(index, larger.view(np.uint8) * np.uint8(channel), out=index)
    return index


def _corners_of(corners: np.ndarray, channel: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """(4, n) float32, the corners of n channels and cells, from (C, 4, N) of all."""
    count = corners.shape[2]
    first = channel * (4 * count) + cell
    return np.take(corners.reshape(-1), first + count * np.arange(4)[:, np.newaxis])


def _larger_of_two(
    corners: np.ndarray, alive: np.ndarray, cell: np.ndarray, right: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Do `_largest` for cells with two channels.

    Along a row of pixels their difference is linear, so the larger one changes once, and one
    comparison per pixel decides.
    """
    low, high = np.nonzero(alive)[1].reshape(-1, 2).T
    a, b, c, d = _corners_of(corners, high, cell) - _corners_of(corners, low, cell)
    begin, end = a + down * (c - a), b + down * (d - b)  # (rows, n), at the ends of each row
    falls = end < begin
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = -begin / (end - begin)  # infinite, or NaN for equal channels: never larger
    np.nextafter(zero, np.float32(-np.inf), out=zero, where=falls)  # equal: the first channel
    low, high = low.astype(np.uint8), high.astype(np.uint8)
    other = low ^ high
    index = (right > zero[:, np.newaxis]).view(np.uint8)  # (rows, columns, n)
    index *= other
    index ^= np.where(falls, high, low)[:, np.newaxis]
    return index


def _largest(
    corners: np.ndarray, alive: np.ndarray, cell: np.ndarray, right: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """The largest channel of each pixel of n cells, (rows, columns, n) uint8.

    Args:
        corners: (C, 4, N) float32 of all cells: upper left, upper right, lower left, lower right.
        alive: (n, C) bool, the channels to compare; cells with the most of them come first.
            cell: (n,) the index of each in all cells.
        right: (columns, n) float32, where the pixels are between the corners, 0..1.
        down: (rows, n) float32.
    """
    number = np.count_nonzero(alive, axis=1)
    channel = np.nonzero(alive)[1]
    begins = np.cumsum(number) - number
    index = np.zeros((len(down), *right.shape), np.uint8)
    best = np.full(index.shape, -np.inf, np.float32)
    for nth in range(number[0]):
        n = np.count_nonzero(number > nth)
        channels = channel[begins[:n] + nth]
        a, b, c, d = _corners_of(corners, channels, cell[:n])
        upper = a + right[:, :n] * (b - a)  # (columns, n), from left to right
        lower = c + right[:, :n] * (d - c)
        value = down[:, np.newaxis, :n] * (lower - upper)
        value += upper
        larger = value > best[..., :n]
        np.maximum(value, best[..., :n], out=best[..., :n])
        # A channel that is larger than all before it: its index is larger too.
        larger = larger.view(np.uint8) * channels.astype(np.uint8)
        np.maximum(index[..., :n], larger, out=index[..., :n])
    return index


def find_tail(graph: onnx.GraphProto) -> Tail | None:
    """Find the tail of a model file; None if the graph does not end as `Tail.mask` computes."""
    try:
        return _read_tail(graph)
    except (LookupError, ValueError):
        return None


def _read_tail(graph: onnx.GraphProto) -> Tail:
    """Raise LookupError or ValueError if the graph ends differently."""
    from onnx import TensorProto, helper, numpy_helper

    makers = producers(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def made_by(kind: str, tensor: str, constant: dict[int, Any], **attributes: Any) -> Any:
        """The inputs of the node that makes `tensor`."""
        node = makers[tensor]
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        fits = node.op_type == kind
        fits = fits and all(values.get(name) == value for name, value in attributes.items())
        fits = fits and all(
            np.array_equal(constants[node.input[i]], value) for i, value in constant.items()
        )
        if not fits:
            raise ValueError(f"{tensor} comes from {node.op_type}, expected another {kind}")
        return node.input

    classes = np.arange(256, dtype=np.uint8)
    (tensor,) = made_by("Cast", MASK, {}, to=TensorProto.UINT8)
    while makers[tensor].op_type == "Gather":  # of `relabel`
        name, index = made_by("Gather", tensor, {})
        table = constants[name].astype(np.uint8)
        if table.shape != classes.shape or (table != constants[name]).any():
            raise ValueError(f"{name} is no table of classes")
        classes = classes[table]  # from the mask inwards: earlier tables apply later
        (tensor,) = made_by("Cast", index, {}, to=TensorProto.INT32)
    tensor, _ = made_by("Squeeze", tensor, {1: [1]})
    finite, number, _ = made_by("Where", tensor, {2: NO_CLASS})
    tested, _ = made_by("Less", finite, {1: np.float32(_LARGEST)})
    (index,) = made_by("Cast", number, {}, to=TensorProto.FLOAT)
    enlarged, _ = made_by("TopK", index, {1: [1]}, axis=1, largest=1)
    linear = {"mode": b"linear", "coordinate_transformation_mode": b"half_pixel"}
    inputs = made_by("Resize", enlarged, {}, **linear)
    scales = constants[inputs[2]]
    factor = int(scales[-1])
    if not np.array_equal(scales, [1, 1, factor, factor]) or factor < 2 or factor % 2:
        raise ValueError(f"logits are enlarged by {scales}, expected an even number")
    if list(makers[index].output) != [tested, index]:  # up to version 0.2, the maximum is tested
        magnitudes, _ = made_by("ReduceSum", tested, {1: [1, 2, 3]}, keepdims=1)
        (summed,) = made_by("Abs", magnitudes, {})
        if summed != inputs[0]:
            raise ValueError(f"{summed} is tested, expected {inputs[0]}")
    return Tail(inputs[0], factor, classes)


def sum_logits_for_nan(graph: onnx.GraphProto) -> None:
    """Rewrite a file of the old form, which tests the maximum of the logits for NaN.

    On a GPU a maximum may skip NaN; a sum cannot. Leaves other graphs unchanged.
    """
    from onnx import helper, numpy_helper

    tail = find_tail(graph)
    makers = producers(graph)
    tests = [node for node in graph.node if node.op_type == "Less"]
    if tail is None or len(tests) != 1 or makers[tests[0].input[0]].op_type != "TopK":
        return
    magnitude, axes, total = (f"{tail.logits}_{what}" for what in ("magnitude", "axes", "sum"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), axes))
    place = list(graph.node).index(tests[0])
    graph.node.insert(place, helper.make_node("Abs", [tail.logits], [magnitude]))
    graph.node.insert(
        place + 1, helper.make_node("ReduceSum", [magnitude, axes], [total], keepdims=1)
    )
    tests[0].input[0] = total


def enlarge_in_float16(model: onnx.ModelProto) -> None:
    """Make a float16 file's logits be enlarged and compared in float16, for a GPU.

    This halves the largest tensors of the graph and changes some pixels on the borders between
    classes. Leaves a graph unchanged if its network ends in float32, or if the enlarged logits are
    also used for something else than the mask, such as confidence, which needs more digits.
    """
    import onnx

    graph = model.graph
    tail = find_tail(graph)
    if tail is None:
        return
    users = consumers(graph)
    cast = producers(graph).get(tail.logits)
    resize = next(node for node in users[tail.logits] if node.op_type == "Resize")
    largest = users[resize.output[0]]
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    if (
        cast is None
        or cast.op_type != "Cast"
        or types.get(cast.input[0]) != onnx.TensorProto.FLOAT16
        or [node.op_type for node in largest] != ["TopK"]
        or largest[0].output[0] in users
    ):
        return
    resize.input[0] = cast.input[0]
    del graph.value_info[:]  # types may have changed
