"""The end of a model file as a GPU may run it: its maximum skips NaN, as fmaxf does."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bisenetv2_ros.backends.subgraph import extract
from bisenetv2_ros.backends.tail import find_tail
from bisenetv2_ros.model_file import MASK


class TopK(OpRun):
    op_domain = ""

    def _run(self, x, k, axis=None, largest=None, sorted=None):  # type: ignore[no-untyped-def]
        filled = np.where(np.isnan(x), -np.inf, x)
        return filled.max(axis, keepdims=True), filled.argmax(axis)[:, np.newaxis]


class Resize(OpRun):
    """Linear, by whole factors. The evaluator's own goes pixel by pixel in onnx 1.17, which is the
    newest beside Humble's NumPy: half a minute for a small image."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        roi=None,
        scales=None,
        sizes=None,
        coordinate_transformation_mode=None,
        mode=None,
        **_,
    ):
        assert (mode, coordinate_transformation_mode) == ("linear", "half_pixel")
        for axis, factor in enumerate(scales):
            if factor != 1:
                last = x.shape[axis] - 1
                place = (np.arange(int(factor * x.shape[axis])) + 0.5) / factor - 0.5
                below = np.floor(place).astype(int)
                shape = [-1 if other == axis else 1 for other in range(x.ndim)]
                part = (place - below).astype(x.dtype).reshape(shape)
                before, after = (x.take(at.clip(0, last), axis) for at in (below, below + 1))
                x = (1 - part) * before + part * after
        return (x,)


def mask_of_logits(model: onnx.ModelProto, logits: np.ndarray) -> np.ndarray:
    """The mask of (N, C, h, w) float32 logits, (N, H, W) uint8."""
    found = find_tail(model.graph)
    assert found is not None
    model.graph.value_info.append(
        helper.make_tensor_value_info(found.logits, TensorProto.FLOAT, None)
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")  # the model's size
    end = extract(model, [found.logits], [MASK])
    return ReferenceEvaluator(end, new_ops=[Resize, TopK]).run(None, {found.logits: logits})[0]
