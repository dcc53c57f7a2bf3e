"""Exports a trained network as the model file that every backend runs.

`DeployedModel` is the graph of the model file as a torch module; training scores that graph, too.
`export_model` writes it as ONNX and accepts the result only if the CPU runtimes reproduce torch's
masks on real frames. Knows nothing of datasets or checkpoints.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bisenetv2_ros.backends import load_on_cpu
from bisenetv2_ros.backends.float16 import cast_to_half
from bisenetv2_ros.files.paths import naming, replacing
from bisenetv2_ros.model_file import (
    INPUT,
    NO_CLASS,
    OUTPUTS,
    ModelFile,
    ModelInfo,
    read_model_file,
    write_metadata,
)
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.training.model import BiSeNetV2

OPSET = 17  # the newest that TensorRT 8.6 to 11, OpenVINO and ONNX Runtime all support

#: Fraction of pixels on which a runtime must give torch's class, by the precision of the file.
REQUIRED_AGREEMENT = {"float32": 0.999, "float16": 0.99}


class ExportError(RuntimeError):
    """The network cannot be written, or the file does not reproduce its masks."""


class DeployedModel(nn.Module):
    """The complete graph: (N, H, W, 3) uint8 RGB to mask and confidence, (N, H, W) uint8.

    The logits are upsampled to the frame's size, as in training, before the argmax.
    Confidence is the largest softmax probability, 255 = 1.0, rounded.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: BiSeNetV2, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a network; mean and std of the RGB channels over 255 are those of its training."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)), persistent=False
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network in its current mode, which must be evaluation.

        image: (N, H, W, 3) uint8, H and W multiples of 8.
        """
        coarse = self.coarse_logits(image)
        logits = self.network.enlarge(coarse)
        # TopK instead of ArgMax: a third of its time in OpenVINO, and it also gives the maximum.
        top, index = logits.topk(1, dim=1)
        # A sum that is not finite, as of a broken network, makes the comparison false, and the
        # whole frame is no class. The maximum would not work: on GPUs it may skip NaN. (Nor would
        # "greater", which OpenVINO computes as "not less or equal".)
        finite = coarse.abs().sum((1, 2, 3), keepdim=True) < 1e30
        mask = torch.where(finite, index.float(), float(NO_CLASS))
        confidence = 255 / (logits - top).exp().sum(1)
        return mask.squeeze(1).to(torch.uint8), confidence.round().to(torch.uint8)

    def logits(self, image: Tensor) -> Tensor:
        """Compute the logits at the image's size, (N, C, H, W) float32."""
        return self.network.enlarge(self.coarse_logits(image))

    def coarse_logits(self, image: Tensor) -> Tensor:
        """Compute the logits at the network's own resolution, (N, C, h, w)."""
        # To float before the transpose: TensorRT accepts uint8 only as an input.
        x = image.float().permute(0, 3, 1, 2)
        return self.network((x - self.mean) * self.scale)


def export_model(
    deployed: DeployedModel, info: ModelInfo, path: Path, frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """Write the model file at `path` and check it against `deployed` on `frames`.

    info: `input_size` in multiples of 8; `precision` 'float32', or 'float16', which casts the
    network inside the graph (`convert.int8` makes int8 from a float32 file). frames: (H, W, 3)
    uint8 RGB of any size, at least one. Returns the fraction of pixels with torch's class, by
    backend. Raises ExportError, and leaves no file, if it is below REQUIRED_AGREEMENT or a weight
    is not finite; BackendUnavailable if no CPU runtime is installed.
    """
    if info.precision not in REQUIRED_AGREEMENT:
        raise ExportError(
            f"precision is {info.precision}, expected {' or '.join(REQUIRED_AGREEMENT)}"
        )
    if not frames:
        raise ExportError("no frames to compare torch and the runtimes on, expected at least one")
    width, height = info.input_size
    if width % 8 or height % 8:
        raise ExportError(f"input size is {width}x{height}, expected multiples of 8")
    for name, tensor in deployed.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ExportError(f"weight '{name}' is not finite")
    deployed = deployed.eval().cpu()
    model = _trace(deployed, width, height)
    if info.precision == "float16":
        cast_to_half(model)
    write_metadata(model, info)
    with replacing(path) as partial:
        with naming(path):
            onnx.save(model, partial)
        agreement = compare(deployed, read_model_file(partial), frames)
        required = REQUIRED_AGREEMENT[info.precision]
        for backend, fraction in agreement.items():
            if fraction < required:
                raise ExportError(
                    f"{path.name} under {backend} gives torch's class on {fraction:.3%} of the "
                    f"pixels, expected at least {required:.1%}"
                )
    return agreement


@torch.inference_mode()
def compare(
    deployed: DeployedModel, model: ModelFile, frames: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return the fraction of pixels on which each CPU runtime gives torch's class, 0..1.

    Raises BackendUnavailable if none is installed.
    """
    images = [np.ascontiguousarray(resize_image(f, model.info.input_size)) for f in frames]
    expected = [deployed(torch.from_numpy(image[None]))[0].numpy() for image in images]
    agreement = {}
    for backend in load_on_cpu(model):
        pairs = zip(images, expected, strict=True)
        equal = [backend.infer(image[None])[0][0] == mask for image, mask in pairs]
        agreement[backend.name] = float(np.mean(equal))
    return agreement


def _write_equal_weights_each(graph: onnx.GraphProto) -> None:
    """Undo the exporter's sharing of equal weights, which leaves Identity nodes in the graph."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        if shared := tensors.get(node.input[0]):
            tensor = graph.initializer.add()
            tensor.CopyFrom(shared)
            tensor.name = node.output[0]
            graph.node.remove(node)


def _trace(deployed: DeployedModel, width: int, height: int) -> onnx.ModelProto:
    """Trace the float32 graph, with a dynamic batch size and batch norms folded.

    By the TorchScript exporter: torch.export's needs onnxscript, and writes opset 18 and up.
    """
    example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    free = {name: {0: "N"} for name in (INPUT, *OUTPUTS)}
    with (
        tempfile.TemporaryDirectory() as directory,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        # It warns of its age, and that the network's check of the input size is not traced.
        warnings.simplefilter("ignore")
        path = Path(directory) / "traced.onnx"
        torch.onnx.export(
            deployed,
            (example,),
            path,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    _write_equal_weights_each(model.graph)
    for output in model.graph.output:  # the exporter loses their shapes after the resize
        shape = output.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add(dim_param="N")
        shape.dim.add(dim_value=height)
        shape.dim.add(dim_value=width)
    onnx.checker.check_model(model, full_check=True)
    return model
