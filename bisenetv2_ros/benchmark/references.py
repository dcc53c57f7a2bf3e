"""Reference runtimes that the backends are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.backends import BackendUnavailable, available_cores
from bisenetv2_ros.benchmark.case import TORCH_COMPILE, Case, Result, Segment
from bisenetv2_ros.benchmark.model_variants import PLAIN_INPUT, plain
from bisenetv2_ros.model_file import ModelFile, read_model_file
from bisenetv2_ros.resize import resize_image


def load_plain(case: Case) -> tuple[Result, Segment]:
    """The baseline: the float32 file in ONNX Runtime with default settings."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "no plain reference: onnxruntime is not installed: run `pip install onnxruntime`"
        ) from error

    graph, model = _plain_graph(case.path)
    threads = case.threads or available_cores()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def logits_of(pixels: np.ndarray) -> np.ndarray:
        return session.run(None, {PLAIN_INPUT: pixels})[0]

    runs_on = f"plain onnxruntime, CPU ({threads} threads)"
    size = model.info.input_size
    return Result(case, model.name, "float32", size, runs_on), _segment_with(logits_of, size)


def load_nncf(case: Case) -> tuple[Result, Segment]:
    """A user's alternative for the float32 file: quantized by NNCF, run by OpenVINO."""
    try:
        import nncf

        from bisenetv2_ros.backends.openvino_runtime import CORE  # before NNCF imports it
    except ImportError as error:
        raise BackendUnavailable(
            f"no nncf reference: {error.name} is not installed: run `pip install nncf openvino`"
        ) from error
    from bisenetv2_ros.street.scene import StreetScene

    graph, model = _plain_graph(case.path)
    size = model.info.input_size
    frames = [_plain_pixels(StreetScene(seed, size).render(0.0)[0]) for seed in range(8)]
    quantized = nncf.quantize(CORE.read_model(graph), nncf.Dataset(frames), subset_size=len(frames))
    threads = case.threads or available_cores()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    request = CORE.compile_model(quantized, "CPU", options).create_infer_request()

    def logits_of(pixels: np.ndarray) -> np.ndarray:
        return request.infer([pixels], share_inputs=True, share_outputs=True)[0]

    runs_on = f"nncf in openvino, CPU ({threads} threads)"
    return Result(case, model.name, "int8", size, runs_on), _segment_with(logits_of, size)


def _plain_graph(path: Path) -> tuple[bytes, ModelFile]:
    """The network as it is usually exported, and its file."""
    model = read_model_file(path)
    graph = plain(model)
    if graph is None:
        raise BackendUnavailable(f"{path.name} has no plain form: no upsampling before TopK")
    return graph, model


def _plain_pixels(small: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, normalized by the mean and scale of any training."""
    pixels = (small.astype(np.float32) - np.float32(127.5)) * np.float32(1 / 127.5)
    return pixels.transpose(2, 0, 1)[np.newaxis]


def _segment_with(logits_of: Callable[[np.ndarray], np.ndarray], size: tuple[int, int]) -> Segment:
    """A network with pre- and postprocessing in NumPy, as users write it."""

    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        small = resize_image(image, size)
        resized = time.perf_counter()
        logits = logits_of(_plain_pixels(small))
        ran = time.perf_counter()
        mask = logits.argmax(axis=1)[0].astype(np.uint8)
        return mask, resized - begin, ran - resized, time.perf_counter() - ran

    return segment


def load_torch(case: Case) -> tuple[Result, Segment]:
    """The same network in torch, eager or compiled."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise BackendUnavailable("no torch reference: torch is not installed") from error

    from bisenetv2_ros.training.export import DeployedModel

    threads = case.threads or available_cores()
    torch.set_num_threads(threads)
    device = torch.device(case.device.lower() or "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"{case.backend} sees no GPU: install a torch with CUDA")
    network, mean, std, size, name = _torch_network(case.path)
    on_gpu = device.type == "cuda"
    compiled = case.backend == TORCH_COMPILE
    if on_gpu:  # as users would run it there: float32 would be a poor reference
        network = _half_network(network)
    network = network.to(device)
    deployed = DeployedModel(network, mean, std).eval().to(device)
    run = torch.compile(deployed, mode="max-autotune") if compiled else deployed

    @torch.inference_mode()
    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        small = np.ascontiguousarray(resize_image(image, size))
        resized = time.perf_counter()
        pixels = torch.from_numpy(small[np.newaxis]).to(device)
        if on_gpu or compiled:
            mask = run(pixels)[0][0].cpu().numpy()
            return mask, resized - begin, time.perf_counter() - resized, 0.0
        logits = network((pixels.float().permute(0, 3, 1, 2) - deployed.mean) * deployed.scale)
        ran = time.perf_counter()
        mask = network.enlarge(logits).argmax(1)[0].to(torch.uint8).numpy()
        return mask, resized - begin, ran - resized, time.perf_counter() - ran

    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU ({threads} threads)"
    how = "torch.compile" if compiled else "torch eager"
    precision = "float16" if on_gpu else "float32"
    return Result(case, name, precision, size, f"{how}, {where}"), segment


def _torch_network(path: Path) -> tuple[Any, Sequence[float], Sequence[float], Any, str]:
    """Network, mean, std, (width, height) and name, from a checkpoint or a model file's shape."""
    if path.is_dir():
        from bisenetv2_ros.training.checkpoint import load_network

        trained = load_network(path)
        recipe = trained.recipe
        return trained.network.eval(), recipe.mean, recipe.std, recipe.input_size, path.name

    from bisenetv2_ros.training.model import BiSeNetV2
    from bisenetv2_ros.training.model_config import ModelConfig
    from bisenetv2_ros.training.starting_weights import read_folded_weights

    model = read_model_file(path)
    try:
        layers = read_folded_weights(path)
        head = {"num_classes": "head.2.weight", "head_channels": "head.0.0.weight"}
        widths = {key: int(layers[layer].shape[0]) for key, layer in head.items()}
    except (KeyError, ValueError) as error:
        raise BackendUnavailable(f"no torch reference: {path.name}: {error}") from error
    network = BiSeNetV2(ModelConfig(**widths, boosters=()))  # type: ignore[arg-type]
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    if any(shapes.get(key, value.shape) != value.shape for key, value in layers.items()):
        raise BackendUnavailable(
            f"no torch reference: {path.name} has other widths than the paper's"
        )
    half = (0.5, 0.5, 0.5)
    return network.eval(), half, half, model.info.input_size, f"{model.name}, random weights"


def _half_network(network: Any) -> Any:
    """The network in float16, channels last, with float32 images in and float32 logits out."""
    import torch
    from torch import nn

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network.half().to(memory_format=torch.channels_last)
            self.enlarge = network.enlarge

        def forward(self, image: Any) -> Any:
            image = image.half().contiguous(memory_format=torch.channels_last)
            return self.network(image).float()

    return Half()
