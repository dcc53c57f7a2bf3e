"""Converts a float32 model file to one whose heavy convolutions run in int8.

The form is the one that TensorRT, OpenVINO and ONNX Runtime all take: quantize/dequantize pairs,
symmetric int8 with zero point 0, a scale per output channel of the weights, biases left in float.
Input, upsampling and argmax stay float32, and of the convolutions (measured on a CamVid network at
480x352, one thread; agreement is the fraction of pixels with the float32 class):

- depthwise ones: they are limited by memory; int8 costs ONNX Runtime 9 ms of 57;
- the stem's: OpenVINO rescales its two branches where they join; 1.1 % of the pixels change;
- the last, which makes the logits: 0.2 % of the pixels, and no time saved.

By default the outputs of those convolutions are quantized too, before their ReLU or addition. That
suits OpenVINO, which adds in int8, and ONNX Runtime. TensorRT fuses a convolution with the ReLU or
addition behind it only if nothing stands between, so for it (`for_tensorrt`) inputs alone are
quantized. NVIDIA's documents confirm that (github.com/NVIDIA/TensorRT,
tools/tensorflow-quantization/docs/source/docs/add_custom_qdq_cases.md): pairs belong on the other
input of such an addition, and not behind its convolution. Of an addition of two convolutions, as in
the first block of a stage, they quantize one; here both stay float. TensorRT for RTX (1.7) fuses
neither form: it computes 35 convolutions from int8 to float32 with elementwise kernels between
them, and moves twice the bytes of a float16 file (`bisenetv2 build-engine --report`).

The result takes 40 ms instead of 105 under OpenVINO, with an agreement of 99.4 % and the same mIoU.
Works on model files; does not use torch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from bisenetv2_ros.backends import create_backend, load_on_cpu
from bisenetv2_ros.files.paths import naming, replacing
from bisenetv2_ros.model_file import INPUT, read_model_file, write_metadata
from bisenetv2_ros.resize import resize_image

OLDEST = (1, 16)  #: ONNX Runtime that can leave biases in float
REQUIRED_AGREEMENT = 0.95  #: fraction of pixels with float32's class; less is a broken file


class QuantizationError(RuntimeError):
    """The file cannot be quantized, or the result differs too much from it."""


def can_quantize() -> bool:
    """Return whether the installed ONNX Runtime can write the graph described at the top."""
    return tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= OLDEST


def quantize_model(
    path_float32: Path,
    path_out: Path,
    frames: Sequence[np.ndarray],
    metrics: dict[str, float] | None = None,
    for_tensorrt: bool = False,
) -> dict[str, float]:
    """Write an int8 model file, with activation ranges measured on `frames`.

    Args:
        frames: (H, W, 3) uint8 RGB of any size, some dozens, of all scenes that the model is for.
        metrics: scores of the int8 file, for its metadata; those of the float32 file do not apply.
        for_tensorrt: keep the outputs of convolutions in float, so that TensorRT fuses the next
            layer.

    Returns:
        By backend, the fraction of the pixels of `frames` with the class of the float32 file.

    Raises:
        ModelFileError: if the file is not a model.
        QuantizationError: if it is not float32, or the agreement is below REQUIRED_AGREEMENT; no
            file is left then.
    """
    source = read_model_file(path_float32)
    if source.info.precision != "float32":
        raise QuantizationError(
            f"{path_float32}: precision is {source.info.precision}, expected float32"
        )
    if not can_quantize():
        raise QuantizationError(
            f"int8 takes ONNX Runtime {OLDEST[0]}.{OLDEST[1]} or newer, found "
            f"{onnxruntime.__version__} (newer ones take NumPy 1.21.6: use a virtual environment)"
        )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not frames:
        raise QuantizationError("no frames to measure activations on, expected some dozens")
    images = [np.ascontiguousarray(resize_image(f, source.info.input_size)) for f in frames]
    with replacing(path_out) as partial:
        with tempfile.TemporaryDirectory() as directory:
            shaped = Path(directory) / "shaped.onnx"
            quant_pre_process(
                str(path_float32), str(shaped), skip_optimization=True, skip_symbolic_shape=True
            )
            quantize_static(
                str(shaped),
                str(partial),
                _Frames(images),
                quant_format=QuantFormat.QDQ,
                nodes_to_quantize=_heavy_convolutions(onnx.load(shaped)),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    # mean of the frames' extremes, not the extreme of all: 0.4 % more agreement
                    "CalibMovingAverage": True,
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": ["Conv"] if for_tensorrt else [],
                },
            )
        model = onnx.load(partial)
        info = dataclasses.replace(source.info, precision="int8", metrics=metrics or {})
        write_metadata(model, info)
        with naming(path_out):
            onnx.save(model, partial)
        agreement = _compare(path_float32, partial, images)
        for backend, fraction in agreement.items():
            if fraction < REQUIRED_AGREEMENT:
                raise QuantizationError(
                    f"{path_out.name} under {backend} gives the float32 file's class on "
                    f"{fraction:.2%} of the pixels, expected at least {REQUIRED_AGREEMENT:.0%}"
                )
    return agreement


def _heavy_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions worth quantizing, for the reasons in the module docstring."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [
        node.name
        for node in convolutions[:-1]
        if "/semantic/stem/" not in node.name
        and all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
    ]


class _Frames(CalibrationDataReader):
    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(
            {INPUT: image[np.newaxis]} for image in images
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next frame as the model's input, None after the last."""
        return next(self._feeds, None)


def _compare(expected: Path, received: Path, images: Sequence[np.ndarray]) -> dict[str, float]:
    """Fraction of pixels on which `received`, by backend, gives the class of `expected`, 0..1."""
    reference = create_backend(read_model_file(expected), "onnxruntime")
    masks = [reference.infer(image[np.newaxis])[0][0].copy() for image in images]
    reference.close()
    agreement = {}
    for backend in load_on_cpu(read_model_file(received)):
        equal = [
            np.mean(backend.infer(image[np.newaxis])[0][0] == mask)
            for image, mask in zip(images, masks, strict=True)
        ]
        agreement[backend.name] = float(np.mean(equal))
    return agreement
