"""The end of a model file as a GPU may run it: its maximum skips NaN, as fmaxf does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.utils
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bisenetv2_ros.backends.tail import find_tail
from bisenetv2_ros.model_file import MASK


class TopK(OpRun):
    op_domain = ""

    def _run(self, x, k, axis=None, largest=None, sorted=None):  # type: ignore[no-untyped-def]
        filled = np.where(np.isnan(x), -np.inf, x)
        return filled.max(axis, keepdims=True), filled.argmax(axis)[:, np.newaxis]


def mask_of_logits(model: onnx.ModelProto, logits: np.ndarray) -> np.ndarray:
    """The mask of (N, C, h, w) float32 logits, (N, H, W) uint8."""
    found = find_tail(model.graph)
    assert found is not None
    model.graph.value_info.append(
        helper.make_tensor_value_info(found.logits, TensorProto.FLOAT, None)
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")  # the model's size
    end = onnx.utils.Extractor(model).extract_model([found.logits], [MASK])
    return ReferenceEvaluator(end, new_ops=[TopK]).run(None, {found.logits: logits})[0]
