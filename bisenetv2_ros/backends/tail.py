"""The tail of a model file, from coarse logits to the mask, done here and not by a runtime.

The network's logits have a fraction of the picture's size. The graph enlarges all of them linearly
and takes the argmax of each pixel; but between four logits of the same class every pixel has that
class, because what is interpolated lies between its corners. So only the seams between classes need
to be enlarged. The mask is the same: docs/performance.md says what that saves.

Works on graphs as `training/export.py` writes them, and finds none in others, which a runtime then
runs as a whole. Knows neither runtimes nor pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bisenetv2_ros.model_file import MASK, NO_CLASS

if TYPE_CHECKING:
    import onnx

ENABLED = True  #: what the benchmark can do without, to measure what it is worth
_LARGEST = 1e30  # logits from here on are not finite, as in the graph
_CELLS = 1024  # enlarged at once: what is worked on stays in the second-level cache


@dataclass(frozen=True)
class Tail:
    """What is left to do behind the logits."""

    logits: str  #: the tensor's name in the file; float32 (N, classes, H / factor, W / factor)
    factor: int  #: even, and in both directions
    classes: np.ndarray  #: (256,) uint8, the mask's value for each channel of the logits

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """(N, C, h, w) float32 logits to (N, h * factor, w * factor) uint8 masks.

        As the graph says: bilinear with half-pixel centres and the edges repeated, the first of
        equal channels. A picture with a logit that is not finite is NO_CLASS all over, where the
        graph may show it in some pixels only.
        """
        count, _, height, width = logits.shape
        masks = np.empty((count, height * self.factor, width * self.factor), np.uint8)
        for mask, one in zip(masks, logits, strict=True):
            if one.min() > -_LARGEST and one.max() < _LARGEST:  # also false with a NaN in it
                cv2.LUT(_argmax_enlarged(one, self.factor), self.classes, dst=mask)
            else:
                mask[:] = NO_CLASS
        return masks


def _argmax_enlarged(logits: np.ndarray, factor: int) -> np.ndarray:
    """(C, h, w) float32 to the (h * factor, w * factor) uint8 channel that is largest."""
    # A cell is the square of pixels between four neighbouring logits, whose centres are its
    # corners; with the edges repeated, cells reach half a cell beyond the picture on all sides.
    padded = np.pad(logits, ((0, 0), (1, 1), (1, 1)), mode="edge")
    channels, height, width = padded.shape
    top = padded.argmax(0).astype(np.uint8)
    first = top[:-1, :-1]
    seam = (first != top[:-1, 1:]) | (first != top[1:, :-1]) | (first != top[1:, 1:])
    whole = cv2.resize(
        first, ((width - 1) * factor, (height - 1) * factor), interpolation=cv2.INTER_NEAREST
    )
    rows, columns = np.nonzero(seam)
    cells = whole.reshape(height - 1, factor, width - 1, factor).swapaxes(1, 2)
    flat = padded.reshape(channels, -1)
    for begin in range(0, len(rows), _CELLS):
        i, j = rows[begin : begin + _CELLS], columns[begin : begin + _CELLS]
        corner = i * width + j
        corners = flat[:, np.stack([corner, corner + 1, corner + width, corner + width + 1])]
        cells[i, j] = _argmax_within(corners, factor)
    margin = factor // 2
    return whole[margin:-margin, margin:-margin]


def _argmax_within(corners: np.ndarray, factor: int) -> np.ndarray:
    """The largest channel of each pixel between corners: (C, 4, n) to (n, factor, factor) uint8.

    corners: upper left, upper right, lower left, lower right of n cells.
    """
    at = ((np.arange(factor, dtype=np.float32) + 0.5) / factor)[:, np.newaxis]
    shape = (factor, factor, corners.shape[2])
    best = np.full(shape, -np.inf, np.float32)
    index = np.zeros(shape, np.uint8)
    value = np.empty(shape, np.float32)
    larger = np.empty(shape, bool)
    as_number = larger.view(np.uint8)
    for channel, (a, b, c, d) in enumerate(corners):
        upper = a + at * (b - a)  # (factor, n), from left to right
        lower = c + at * (d - c)
        np.multiply(at[:, np.newaxis], lower - upper, out=value)
        value += upper
        np.greater(value, best, out=larger)
        np.maximum(value, best, out=best)
        # The channel where it is larger, and there it is the highest one so far.
        np.multiply(as_number, np.uint8(channel), out=as_number)
        np.maximum(index, as_number, out=index)
    return index.transpose(2, 0, 1)


def find_tail(graph: onnx.GraphProto) -> Tail | None:
    """The tail of a model file; None where it is not the one that `Tail.mask` does."""
    try:
        return _read_tail(graph) if ENABLED else None
    except (LookupError, ValueError):
        return None


def _read_tail(graph: onnx.GraphProto) -> Tail:
    """LookupError or ValueError where the graph ends in another way."""
    from onnx import TensorProto, helper, numpy_helper

    makers = {output: node for node in graph.node for output in node.output}
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
        classes = classes[table]  # from the mask inwards: what was found before is looked up later
        (tensor,) = made_by("Cast", index, {}, to=TensorProto.INT32)
    tensor, _ = made_by("Squeeze", tensor, {1: [1]})
    finite, number, _ = made_by("Where", tensor, {2: NO_CLASS})
    top, _ = made_by("Less", finite, {1: np.float32(_LARGEST)})
    (index,) = made_by("Cast", number, {}, to=TensorProto.FLOAT)
    if list(makers[index].output) != [top, index]:
        raise ValueError(f"{top} and {index} come from different nodes")
    enlarged, _ = made_by("TopK", index, {1: [1]}, axis=1, largest=1)
    linear = {"mode": b"linear", "coordinate_transformation_mode": b"half_pixel"}
    inputs = made_by("Resize", enlarged, {}, **linear)
    scales = constants[inputs[2]]
    factor = int(scales[-1])
    if not np.array_equal(scales, [1, 1, factor, factor]) or factor < 2 or factor % 2:
        raise ValueError(f"logits are enlarged by {scales}, expected an even number")
    return Tail(inputs[0], factor, classes)
