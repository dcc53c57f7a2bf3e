"""How long a frame takes on this machine, stage by stage, on every backend and precision.

Each combination of model and backend is a `Case` in a process of its own, so that memory and CPU
time are its own too. The cases take turns, a few frames each, so that whatever else the machine
does falls on all of them. What they are compared with is measured in the same run: the same weights
as networks are usually exported and run (PLAIN), and torch (TORCH). Knows nothing of ROS, whose
cost is `graph_benchmark`'s business.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenetv2_ros.backends import BackendUnavailable, available_cores
from bisenetv2_ros.model_file import read_model_file

if TYPE_CHECKING:
    from bisenetv2_ros.backends import Backend
    from bisenetv2_ros.backends.base import Masks

STAGES = ("decode", "resize", "network", "tail", "message")
# References, not backends.
PLAIN = "plain"  # float32 in ONNX Runtime; the caller normalises, and takes the argmax at full size
TORCH = "torch"  # torch eager, of a checkpoint, or random weights of a model file's shape
TORCH_COMPILE = "torch.compile"  # the same, compiled
REFERENCES = (PLAIN, TORCH, TORCH_COMPILE)
PART_RUNS = 200  # of the device's parts alone
TURN = 5  # frames in a row
#: What makes frames quicker and can be left out: backend, module, and its constant.
LEVERS = {
    "bfloat16": ("openvino", "bisenetv2_ros.backends.openvino", "BFLOAT16"),
    "depthwise": ("openvino", "bisenetv2_ros.backends.depthwise", "ENABLED"),
    "sparse-tail": ("openvino", "bisenetv2_ros.backends.tail", "ENABLED"),
    "unsigned": ("onnxruntime", "bisenetv2_ros.backends.onnxruntime", "UNSIGNED"),
    "unpinned": ("openvino", "bisenetv2_ros.backends.openvino", "UNPINNED"),
}
MUST_HOLD = {PLAIN: 3.0, TORCH: 8.0}  # times as fast as these, on two cores, for MUST_HOLD_SIZE
MUST_HOLD_SIZE = (1024, 512)
WARM_UP = 5  # frames of each case before the clock starts


@dataclass(frozen=True)
class Case:
    """One way to run a network.

    `backend` may be PLAIN, then `path` is a float32 model file, or TORCH or TORCH_COMPILE, then it
    is one, too, or a checkpoint.
    """

    path: Path
    backend: str
    device: str = ""
    threads: int = 0  #: 0: one per core
    network_only: Path | None = None  #: the model without its tail, to tell the tail's time apart
    without: str = ""  #: key of LEVERS, or '' for all of them


@dataclass
class Result:
    """What a case took. `seconds` holds one value a frame and stage, over all of its turns."""

    case: Case
    model: str
    precision: str
    input_size: tuple[int, int]  #: (width, height)
    runs_on: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})
    cpu_seconds: float = 0.0  #: of all threads, over all frames
    peak_memory: int = 0  #: bytes resident at most, Python and libraries included
    mean_iou: float = float("nan")  #: on CamVid val, as the model file states it
    #: Seconds of upload, network and download on the device, of a backend that can tell.
    device_seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def frames(self) -> list[float]:
        """Seconds of each whole frame, all stages."""
        return [sum(stages) for stages in zip(*self.seconds.values(), strict=True)]

    @property
    def cpu_per_frame(self) -> float:
        """CPU seconds of a frame."""
        return self.cpu_seconds / len(self.frames)


def measure(
    cases: Sequence[Case],
    images: Sequence[np.ndarray],
    frames: int,
    on_turn: Callable[[], object] = lambda: None,
) -> tuple[list[Result], list[str]]:
    """Time `frames` frames of every case, in turns of TURN.

    images: (H, W, 3) uint8 RGB, taken in circles. on_turn: called after each turn of each case.
    Returns the results, and why the other cases could not run. ModelFileError or CheckpointError
    when a file is none.
    """
    context = multiprocessing.get_context("spawn")
    skipped = []
    runners: list[tuple[Result, Connection, Connection | None]] = []
    with ExitStack() as stack:
        started = []  # all at once: loading takes longer than measuring
        for case in cases:
            connection = _start(stack, context, case, images)
            shorter = None
            if case.network_only:
                shorter_case = dataclasses.replace(case, path=case.network_only, network_only=None)
                shorter = _start(stack, context, shorter_case, images)
            started.append((connection, shorter))
        for connection, shorter in started:
            answer = _receive(connection)
            if shorter is not None:
                _receive(shorter)  # what it may have to say against it is said by the whole model
            if isinstance(answer, BackendUnavailable):
                skipped.append(str(answer))
            elif isinstance(answer, Exception):
                raise answer
            else:
                runners.append((answer, connection, shorter))
        for done in range(0, frames, TURN):
            count = min(TURN, frames - done)
            for result, connection, shorter in runners:
                connection.send(count)
                seconds, cpu_seconds, result.peak_memory = _receive(connection)
                if shorter is not None:
                    shorter.send(count)
                    network = _receive(shorter)[0]["network"]
                    whole = seconds["network"]
                    seconds["tail"] = [w - n for w, n in zip(whole, network, strict=True)]
                    seconds["network"] = network
                for name in STAGES:
                    result.seconds[name] += seconds[name]
                result.cpu_seconds += cpu_seconds
                on_turn()
    return [result for result, _, _ in runners], skipped


def _start(stack: ExitStack, context: Any, case: Case, images: Sequence[np.ndarray]) -> Connection:
    """A process for the case, whose first answer is its empty Result, or the error."""
    connection = stack.enter_context(_process(context))
    with suppress(OSError):  # a process that is gone already shows when its answer is waited for
        connection.send((case, images))
    return connection


@contextmanager
def _process(context: Any) -> Iterator[Connection]:
    ours, theirs = context.Pipe()
    # Its work comes over the pipe: `start` would wait for ever for a process that ends while it is
    # being given megabytes of arguments.
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()  # the end of its loop
        process.join()


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError("a process of the benchmark ended before its answer") from None


def _serve(connection: Connection) -> None:
    """A case's process: load, then for each number received time as many frames."""
    case, images = connection.recv()
    try:
        result, segment = _load(case)
        run = _frame_runner(segment, images)
        for _ in range(WARM_UP):
            run()
    except Exception as error:
        connection.send(error)
        return
    connection.send(result)
    while True:
        try:
            count = connection.recv()
        except EOFError:
            return
        cpu = time.process_time()
        turns = [run() for _ in range(count)]
        cpu = time.process_time() - cpu
        seconds = {name: [turn[name] for turn in turns] for name in STAGES}
        connection.send((seconds, cpu, _peak_memory()))


# -> mask, seconds of resize, network, tail
_Segment = Callable[[np.ndarray, str], tuple[np.ndarray, float, float, float]]


def _load(case: Case) -> tuple[Result, _Segment]:
    if case.backend == PLAIN:
        return _load_plain(case)
    if case.backend in (TORCH, TORCH_COMPILE):
        return _load_torch(case)
    from bisenetv2_ros.segmenter import Segmenter

    if case.without:
        _, module, constant = LEVERS[case.without]
        setattr(importlib.import_module(module), constant, False)
    model = read_model_file(case.path)
    segmenter = Segmenter(model, backend=case.backend, device=case.device, threads=case.threads)
    clock = _Clock(segmenter.backend)
    segmenter.backend = clock  # type: ignore[assignment]

    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        mask = segmenter(image, channel_order=order).mask  # type: ignore[arg-type]
        whole = time.perf_counter() - begin
        return mask, whole - clock.seconds, clock.seconds, 0.0

    info = model.info
    runs_on = f"{clock.backend.name}, {clock.backend.device}"
    if case.without:
        runs_on += f", without {case.without}"
    result = Result(case, model.name, info.precision, info.input_size, runs_on)
    result.mean_iou = info.metrics.get("camvid_val_miou", float("nan"))
    result.device_seconds = _device_seconds(clock.backend, info.input_size)
    return result, segment


def _device_seconds(backend: Backend, size: tuple[int, int]) -> dict[str, list[float]]:
    """The parts alone, of a backend that knows them; none of others."""
    measure_parts = getattr(backend, "device_seconds", None)
    if measure_parts is None:
        return {}
    image = np.zeros((1, size[1], size[0], 3), np.uint8)
    runs = [measure_parts(image) for _ in range(WARM_UP + PART_RUNS)][WARM_UP:]
    return {part: [run[part] for run in runs] for part in runs[0]}


class _Clock:
    """A backend that remembers how long its last inference took."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.seconds = 0.0

    def input_memory(self, count: int) -> np.ndarray:
        return self.backend.input_memory(count)

    def infer(self, images: np.ndarray, confidence: bool) -> tuple[Masks, Masks | None]:
        begin = time.perf_counter()
        answer = self.backend.infer(images, confidence)
        self.seconds = time.perf_counter() - begin
        return answer


def _load_plain(case: Case) -> tuple[Result, _Segment]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "no plain reference: onnxruntime is not installed: run `pip install onnxruntime`"
        ) from error

    from bisenetv2_ros.benchmark_models import PLAIN_INPUT, plain
    from bisenetv2_ros.segmenter import resize_image

    model = read_model_file(case.path)
    graph = plain(model)
    if graph is None:
        raise BackendUnavailable(f"{model.path.name} has no plain form: no upsampling before TopK")
    threads = case.threads or available_cores()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    size = model.info.input_size
    # Of any training: the time is the same.
    mean, scale = np.full(3, 127.5, np.float32), np.full(3, 1 / 127.5, np.float32)

    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        small = resize_image(image, size)
        resized = time.perf_counter()
        pixels = (small.astype(np.float32) - mean) * scale
        logits = session.run(None, {PLAIN_INPUT: pixels.transpose(2, 0, 1)[np.newaxis]})[0]
        ran = time.perf_counter()
        mask = logits.argmax(axis=1)[0].astype(np.uint8)
        return mask, resized - begin, ran - resized, time.perf_counter() - ran

    runs_on = f"plain onnxruntime, CPU ({threads} threads)"
    return Result(case, model.name, "float32", size, runs_on), segment


def _load_torch(case: Case) -> tuple[Result, _Segment]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise BackendUnavailable("no torch reference: torch is not installed") from error

    from bisenetv2_ros.segmenter import resize_image
    from bisenetv2_ros.training.export import DeployedModel

    threads = case.threads or available_cores()
    torch.set_num_threads(threads)
    device = torch.device(case.device.lower() or "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"{case.backend} sees no GPU: install a torch with CUDA")
    network, mean, std, size, name = _torch_network(case.path)
    on_gpu = device.type == "cuda"
    compiled = case.backend == TORCH_COMPILE
    if on_gpu:  # as one would run it there: an inference in float32 would be a poor reference
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
    """Network, mean, std, (width, height) and name of a checkpoint, or of a model file's shape."""
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
    """The network in float16, channels last, between float32 images and float32 logits."""
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


def _frame_runner(
    segment: _Segment, images: Sequence[np.ndarray]
) -> Callable[[], dict[str, float]]:
    """A function that takes the next image all the way and returns the seconds of each stage."""
    from bisenetv2_ros.image_conversion import decode_image

    messages = itertools.cycle([_image_message(image) for image in images])
    pack = _message_packer()

    def run() -> dict[str, float]:
        begin = time.perf_counter()
        image, order = decode_image(next(messages))
        decoded = time.perf_counter()
        mask, resize, network, tail = segment(image, order)
        segmented = time.perf_counter()
        pack(mask)
        packed = time.perf_counter()
        return {
            "decode": decoded - begin,
            "resize": resize,
            "network": network,
            "tail": tail,
            "message": packed - segmented,
        }

    return run


def _image_message(image: np.ndarray) -> Any:
    """What a camera sends, as an object with the fields of sensor_msgs/Image."""
    height, width = image.shape[:2]
    return SimpleNamespace(
        encoding="rgb8",
        width=width,
        height=height,
        step=3 * width,
        is_bigendian=0,
        data=image.tobytes(),
    )


def _message_packer() -> Callable[[np.ndarray], Any]:
    """Mask to message, as the node does it; without ROS a mere copy stands for it."""
    try:
        from std_msgs.msg import Header

        from bisenetv2_ros.messages import ImageBuffer
    except ImportError:
        return np.copy
    buffer, header = ImageBuffer(), Header()
    return lambda mask: buffer.fill(header, mask, "mono8")


def _peak_memory() -> int:
    """Bytes; of this program alone, where getrusage would count its parent before exec too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def reference_of(result: Result, results: Iterable[Result], kind: str) -> Result | None:
    """The reference of that kind (PLAIN, TORCH) for that network, None without one.

    Of the references of its size the one whose file has the same name but for the precision, or
    else the only one.
    """
    same_size = [
        other
        for other in results
        if other.case.backend == kind and other.input_size == result.input_size
    ]
    for other in same_size:
        if _network_name(other) == _network_name(result):
            return other
    return same_size[0] if len(same_size) == 1 else None


def _network_name(result: Result) -> str:
    """Name of a model file without its precision; of a checkpoint, of its folder."""
    return re.sub("_?(float32|float16|int8)", "", result.case.path.stem)


def speed_up(result: Result, results: Iterable[Result], kind: str) -> float:
    """How many times as fast as that reference, by the medians of whole frames; NaN without it."""
    reference = reference_of(result, results, kind)
    if reference is None:
        return float("nan")
    return statistics.median(reference.frames) / statistics.median(result.frames)


def verdicts(results: Sequence[Result]) -> list[tuple[bool, str]]:
    """What must hold of the fastest case at MUST_HOLD_SIZE: whether it does, and a line on it."""
    ours = [
        result
        for result in results
        if result.input_size == MUST_HOLD_SIZE
        and result.case.backend not in REFERENCES
        and not result.case.without
    ]
    if not ours:
        return []
    best = min(ours, key=lambda result: statistics.median(result.frames))
    lines = []
    for kind, least in MUST_HOLD.items():
        ratio = speed_up(best, results, kind)
        if not np.isnan(ratio):
            where = f"{best.model} on {best.runs_on}"
            lines.append((ratio >= least, f"{where}: {ratio:.2f} x {kind}, at least {least:.1f}"))
    return lines


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share (0..1) of the values does not exceed."""
    return float(np.quantile(values, share))


def machine() -> dict[str, Any]:
    """What the figures were measured on, as JSON values."""
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {
            name: version
            for name in (
                *("numpy", "openvino", "onnxruntime", "torch"),
                *("tensorrt", "tensorrt-rtx-cu13-bindings", "cuda-bindings"),
            )
            if (version := _version(name))
        },
    }


def machine_line() -> str:
    """The machine in one line, for people."""
    facts = machine()
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_average']}, {packages}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def as_json(results: Sequence[Result], skipped: Sequence[str]) -> dict[str, Any]:
    """Everything measured, as JSON values; times in milliseconds."""
    return {
        "machine": machine(),
        "skipped": list(skipped),
        "results": [
            {
                "model": result.model,
                "precision": result.precision,
                "input_size": list(result.input_size),
                "runs_on": result.runs_on,
                "frames": len(result.frames),
                "stages_ms": {name: _summary(result.seconds[name]) for name in STAGES},
                "frame_ms": _summary(result.frames),
                "device_ms": {k: _summary(v) for k, v in result.device_seconds.items()},
                "cpu_ms_per_frame": 1e3 * result.cpu_per_frame,
                "peak_memory_bytes": result.peak_memory,
                "mean_iou": number_or_none(result.mean_iou),
                "speed_up": {
                    kind: number_or_none(speed_up(result, results, kind)) for kind in MUST_HOLD
                },
            }
            for result in results
        ],
        "verdicts": [{"holds": holds, "what": what} for holds, what in verdicts(results)],
    }


def number_or_none(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if np.isnan(value) else value


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": 1e3 * statistics.median(seconds), "p99": 1e3 * percentile(seconds, 0.99)}


def table(results: Sequence[Result]) -> str:
    """Medians in milliseconds, one line a case, the fastest first."""
    head = ["model", "runs on", *STAGES, "frame", "p99", "CPU", "frames/s"]
    head += [f"x {kind}" for kind in MUST_HOLD] + ["mIoU", "peak MB"]
    rows = [head]
    for result in sorted(results, key=lambda result: statistics.median(result.frames)):
        frame = statistics.median(result.frames)
        ratios = [speed_up(result, results, kind) for kind in MUST_HOLD]
        rows.append(
            [
                result.model,
                result.runs_on,
                *(f"{1e3 * statistics.median(result.seconds[name]):.2f}" for name in STAGES),
                f"{1e3 * frame:.2f}",
                f"{1e3 * percentile(result.frames, 0.99):.2f}",
                f"{1e3 * result.cpu_per_frame:.2f}",
                f"{1 / frame:.1f}",
                *("-" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios),
                "-" if np.isnan(result.mean_iou) else f"{100 * result.mean_iou:.1f}",
                f"{result.peak_memory / 1e6:.0f}",
            ]
        )
    return "\n".join(aligned(rows, texts=2))


def aligned(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Lines of a table: the first `texts` columns flush left, the numbers after them right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def floor_table(results: Sequence[Result], floors: Mapping[tuple[Path, str], float]) -> str:
    """The network beside its floor, and the device's parts where they are known; '' for none.

    floors: seconds by model file and backend (`floor`), for those that are known.
    """
    lines = []
    for result in results:
        floor = floors.get((result.case.path, result.case.backend))
        if result.case.without or not (result.device_seconds or floor):
            continue
        seconds = result.device_seconds or {"network": result.seconds["network"]}
        parts = {k: 1e3 * statistics.median(v) for k, v in seconds.items()}
        line = f"{result.model} on {result.runs_on}, medians in ms: "
        line += ", ".join(f"{k} {v:.3f}" for k, v in parts.items())
        if floor:
            floor *= 1e3
            line += f"; floor of the network {floor:.3f}, ratio {parts['network'] / floor:.2f}"
        lines.append(line)
    return "\n".join(lines)


def write_plot(results: Sequence[Result], path: Path) -> None:
    """Stacked bars of the stages' medians, to a picture; ModuleNotFoundError without matplotlib.

    Where files of several mean IoUs were measured, accuracy against latency beside it.
    """
    import matplotlib.figure

    ordered = sorted(results, key=lambda result: -statistics.median(result.frames))
    names = [f"{result.model}\n{result.runs_on}" for result in ordered]
    height = 1.2 + 0.7 * len(ordered)
    scored = [result for result in ordered if not np.isnan(result.mean_iou)]
    if len({result.mean_iou for result in scored}) > 1:
        figure = matplotlib.figure.Figure(figsize=(16, max(6, height)), layout="constrained")
        axes, scatter = figure.subplots(1, 2)
        _draw_accuracy(scatter, scored)
    else:
        figure = matplotlib.figure.Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots()
    left = np.zeros(len(ordered))
    for stage in STAGES:
        width = np.array([1e3 * statistics.median(result.seconds[stage]) for result in ordered])
        axes.barh(names, width, left=left, label=stage)
        left += width
    axes.set_xlabel("median time of a frame, ms")
    axes.legend()
    figure.savefig(path, dpi=120)


def undominated(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (time, score) that none beats in both, the quickest first."""
    front: list[tuple[float, float]] = []
    for time_, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((time_, score))
    return front


def _draw_accuracy(axes: Any, results: Sequence[Result]) -> None:
    """Mean IoU over latency, and a line through the undominated."""
    points = [(1e3 * statistics.median(r.frames), 100 * r.mean_iou) for r in results]
    for runs_on in sorted({result.runs_on for result in results}):
        mine = [p for p, result in zip(points, results, strict=True) if result.runs_on == runs_on]
        axes.scatter(*zip(*mine, strict=True), label=runs_on)
    for point, result in zip(points, results, strict=True):
        text = f"{result.input_size[0]}x{result.input_size[1]} {result.precision}"
        axes.annotate(text, point, (4, 4), textcoords="offset points", fontsize=8)
    axes.plot(*zip(*undominated(points), strict=True), color="grey", linewidth=0.8, zorder=0)
    axes.set_xlabel("median time of a frame, ms")
    axes.set_ylabel("mean IoU on CamVid val, as the files state it, %")
    axes.grid(alpha=0.3)
    axes.legend()
