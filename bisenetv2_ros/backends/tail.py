"""The tail of a model file, from coarse logits to the mask, done here and not by a runtime.

The network's logits have a fraction of the picture's size. The graph enlarges all of them linearly
and takes the argmax of each pixel; but between four logits of the same class every pixel has that
class, because what is interpolated lies between its corners. So only the seams between classes need
to be enlarged. The mask is the same: docs/performance.md says what that saves.

Works on graphs as `training/export.py` writes them, and finds none in others, which a runtime then
runs as a whole. Knows neither runtimes nor pictures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenetv2_ros.model_file import MASK, NO_CLASS

if TYPE_CHECKING:
    import onnx

_LARGEST = 1e30  # logits from here on are not finite, as in the graph
_PIXELS = 1 << 16  # enlarged at once: what is worked on stays in the second-level cache


@dataclass(frozen=True)
class Tail:
    """What is left to do behind the logits."""

    logits: str  #: the tensor's name in the file; float32 (N, classes, H / factor, W / factor)
    factor: int  #: even, and in both directions
    classes: np.ndarray  #: (256,) uint8, the mask's value for each channel of the logits

    def mask(self, logits: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """(N, C, h, w) float32 logits to (N, H, W) uint8 masks of `size` (width, height).

        By default the size is that of the graph's mask, (w * factor, h * factor); any other is at
        least twice that of the logits in both directions. As the graph says: bilinear with
        half-pixel centers and the edges repeated, the first of equal channels. An image with a
        logit that is not finite is NO_CLASS all over, where the graph may show it in some pixels
        only.
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
        """Whether `mask` takes this size for logits (..., h, w)."""
        height, width = logits.shape[-2:]
        return size[0] >= 2 * width and size[1] >= 2 * height


class _Axis:
    """How the pixels along one side of the mask lie between the logits along it.

    A cell is the pixels between two neighboring logits; with the edges repeated there is one more
    cell than logits, and the outermost ones are half as long. Where the cells have different
    numbers of pixels, the last pixel of a short one stands for those that it lacks.
    """

    def __init__(self, logits: int, pixels: int) -> None:
        at = (np.arange(pixels) + 0.5) * (logits / pixels) + 0.5
        #: (pixels,) the cell that each pixel is in.
        self.cell = np.floor(at).astype(np.intp)
        first = np.searchsorted(self.cell, np.arange(logits + 1))
        counts = np.diff(np.append(first, pixels))
        within = np.minimum(np.arange(counts.max()), counts[:, np.newaxis] - 1)
        #: (longest, cells) the pixels of each cell, and how far each is from one logit to the next.
        self.pixel = (first[:, np.newaxis] + within).T
        self.share = (at[self.pixel] - self.cell[self.pixel]).astype(np.float32)


_axis = functools.lru_cache(maxsize=32)(_Axis)


def _argmax_enlarged(logits: np.ndarray, classes: np.ndarray, out: np.ndarray) -> None:
    """Write the class of the largest channel into `out`, (H, W) uint8, from (C, h, w) float32."""
    # A cell of both axes is a rectangle of pixels with four logits as its corners.
    columns, rows = _axis(logits.shape[2], out.shape[1]), _axis(logits.shape[1], out.shape[0])
    padded = np.pad(logits, ((0, 0), (1, 1), (1, 1)), mode="edge")
    channels, _, width = padded.shape
    top = np.pad(_argmax(logits), 1, mode="edge")
    first = top[:-1, :-1]
    seam = (first != top[:-1, 1:]) | (first != top[1:, :-1]) | (first != top[1:, 1:])
    np.take(
        classes[first][:, columns.cell], rows.cell, axis=0, out=out, mode="clip"
    )  # raise copies
    i, j = np.nonzero(seam)
    corner = i * width + j
    corners = padded.reshape(channels, -1)[
        :, np.stack([corner, corner + 1, corner + width, corner + width + 1])
    ]
    # What is interpolated lies between its corners, so most channels are below another everywhere.
    alive = corners.max(1) >= corners.min(1).max(0)
    number = np.count_nonzero(alive, axis=0)
    order = np.argsort(-number, kind="stable")  # so that cells with an n-th one are the first
    channel = np.nonzero(alive.T[order])[1]
    begins = np.cumsum(number[order]) - number[order]
    pixels = out.reshape(-1)
    step = max(1, _PIXELS // (len(columns.share) * len(rows.share)))
    for begin in range(0, len(order), step):
        part = order[begin : begin + step]
        row, column = i[part], j[part]
        within = _Within(corners, columns.share[:, column], rows.share[:, row])
        for n in range(number[part[0]]):
            count = np.count_nonzero(number[part] > n)
            within.compare(channel[begins[begin : begin + count] + n], part[:count])
        place = rows.pixel[:, np.newaxis, row] * out.shape[1] + columns.pixel[:, column]
        pixels[place] = classes[within.index]


def _argmax(logits: np.ndarray) -> np.ndarray:
    """(H, W) uint8, the first of the largest channels of (C, H, W) float32; faster than NumPy's."""
    best = logits[0].copy()
    index = np.zeros(best.shape, np.uint8)
    for channel, values in enumerate(logits[1:], 1):
        larger = values > best
        np.maximum(values, best, out=best)
        # The channel where it is larger, and there it is the highest one so far.
        np.maximum(index, larger.view(np.uint8) * np.uint8(channel), out=index)
    return index


class _Within:
    """The largest channel of each pixel between corners, channel by channel.

    corners: (C, 4, N) of all cells: upper left, upper right, lower left, lower right. right, down:
    (columns, n) and (rows, n) float32, where the pixels of n of them are between the corners, 0..1.
    """

    def __init__(self, corners: np.ndarray, right: np.ndarray, down: np.ndarray) -> None:
        self._corners, self._cells = corners.reshape(-1), corners.shape[2]
        self._right, self._down = right, down[:, np.newaxis]
        #: (rows, columns, n) uint8
        self.index = np.empty((len(down), *right.shape), np.uint8)
        self._best = np.empty(self.index.shape, np.float32)
        self._empty = True

    def compare(self, channel: np.ndarray, cell: np.ndarray) -> None:
        """Take in a higher channel of each of the first cells; `cell` says which of all they are.

        Every cell has to have one the first time.
        """
        at = channel * (4 * self._cells) + cell
        a, b, c, d = (self._corners[at + n * self._cells] for n in range(4))
        n = len(cell)
        upper = a + self._right[:, :n] * (b - a)  # (columns, n), from left to right
        lower = c + self._right[:, :n] * (d - c)
        if self._empty:
            np.multiply(self._down, lower - upper, out=self._best)
            self._best += upper
            self.index[:] = channel
            self._empty = False
            return
        index, best = self.index[..., :n], self._best[..., :n]
        value = self._down[..., :n] * (lower - upper)
        value += upper
        larger = value > best
        np.maximum(value, best, out=best)
        np.maximum(index, larger.view(np.uint8) * channel.astype(np.uint8), out=index)


def find_tail(graph: onnx.GraphProto) -> Tail | None:
    """The tail of a model file; None where it is not the one that `Tail.mask` does."""
    try:
        return _read_tail(graph)
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
    tested, _ = made_by("Less", finite, {1: np.float32(_LARGEST)})
    (index,) = made_by("Cast", number, {}, to=TensorProto.FLOAT)
    enlarged, _ = made_by("TopK", index, {1: [1]}, axis=1, largest=1)
    linear = {"mode": b"linear", "coordinate_transformation_mode": b"half_pixel"}
    inputs = made_by("Resize", enlarged, {}, **linear)
    scales = constants[inputs[2]]
    factor = int(scales[-1])
    if not np.array_equal(scales, [1, 1, factor, factor]) or factor < 2 or factor % 2:
        raise ValueError(f"logits are enlarged by {scales}, expected an even number")
    if list(makers[index].output) != [tested, index]:  # as up to 0.2: the maximum is tested
        magnitudes, _ = made_by("ReduceSum", tested, {1: [1, 2, 3]}, keepdims=1)
        (summed,) = made_by("Abs", magnitudes, {})
        if summed != inputs[0]:
            raise ValueError(f"{summed} is tested, expected {inputs[0]}")
    return Tail(inputs[0], factor, classes)


def sum_logits_for_nan(graph: onnx.GraphProto) -> None:
    """Rewrite a file of the old form, which tests the maximum of the logits for NaN.

    A maximum may skip NaN on a GPU, a sum cannot. Leaves every other graph as it is.
    """
    from onnx import helper, numpy_helper

    tail = find_tail(graph)
    makers = {output: node for node in graph.node for output in node.output}
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
    """Let a float16 file's logits be enlarged and compared in float16, for a GPU.

    That halves the largest tensors of the graph and changes some pixels on the seams between
    classes. Leaves a graph as it is if its network ends in float32, or if something else than the
    mask is made of the enlarged logits, such as confidence: it would have too few digits.
    """
    import onnx

    graph = model.graph
    tail = find_tail(graph)
    if tail is None:
        return
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    cast = next((node for node in graph.node if tail.logits in node.output), None)
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
    del graph.value_info[:]  # of types that may be others now
