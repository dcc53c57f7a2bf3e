"""How long a frame takes on this machine, stage by stage, on every backend and precision.

Each combination of model and backend is a `Case` in a process of its own, so that memory and CPU
time are its own too. The cases take turns, a few frames each, so that whatever else the machine
does falls on all of them. What they are compared with is measured in the same run. Knows nothing of
DDS: the time from camera to node is the demo's business.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import platform
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

STAGES = ("decode", "resize", "network", "message")
TORCH = "torch"  # the network of a checkpoint, eager: a reference, not a backend
TORCH_COMPILE = "torch.compile"  # the same, compiled
PART_RUNS = 200  # of the device's parts alone
TURN = 5  # frames in a row
WARM_UP = 5  # frames of each case before the clock starts


@dataclass(frozen=True)
class Case:
    """One way to run a network; of a TORCH one, `path` is a checkpoint."""

    path: Path
    backend: str
    device: str = ""
    threads: int = 0  #: 0: one per core


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
    runners: list[tuple[Result, Connection]] = []
    with ExitStack() as stack:
        for case in cases:
            connection = stack.enter_context(_process(context))
            with suppress(OSError):  # a process that is gone already shows at the next line
                connection.send((case, images))
            answer = _receive(connection)
            if isinstance(answer, BackendUnavailable):
                skipped.append(str(answer))
            elif isinstance(answer, Exception):
                raise answer
            else:
                runners.append((answer, connection))
        for done in range(0, frames, TURN):
            for result, connection in runners:
                connection.send(min(TURN, frames - done))
                seconds, cpu_seconds, result.peak_memory = _receive(connection)
                for name in STAGES:
                    result.seconds[name] += seconds[name]
                result.cpu_seconds += cpu_seconds
                on_turn()
    return [result for result, _ in runners], skipped


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


_Segment = Callable[[np.ndarray, str], tuple[np.ndarray, float, float]]  # -> mask, resize, network


def _load(case: Case) -> tuple[Result, _Segment]:
    if case.backend in (TORCH, TORCH_COMPILE):
        return _load_torch(case)
    from bisenetv2_ros.segmenter import Segmenter

    model = read_model_file(case.path)
    segmenter = Segmenter(model, backend=case.backend, device=case.device, threads=case.threads)
    clock = _Clock(segmenter.backend)
    segmenter.backend = clock  # type: ignore[assignment]

    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float]:
        begin = time.perf_counter()
        mask = segmenter(image, channel_order=order).mask  # type: ignore[arg-type]
        whole = time.perf_counter() - begin
        return mask, whole - clock.seconds, clock.seconds

    info = model.info
    runs_on = f"{clock.backend.name}, {clock.backend.device}"
    result = Result(case, model.name, info.precision, info.input_size, runs_on)
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

    def infer(self, images: np.ndarray, confidence: bool) -> tuple[np.ndarray, np.ndarray | None]:
        begin = time.perf_counter()
        answer = self.backend.infer(images, confidence)
        self.seconds = time.perf_counter() - begin
        return answer


def _load_torch(case: Case) -> tuple[Result, _Segment]:
    import torch

    from bisenetv2_ros.segmenter import resize_image
    from bisenetv2_ros.training.checkpoint import load_network
    from bisenetv2_ros.training.export import DeployedModel

    threads = case.threads or available_cores()
    torch.set_num_threads(threads)
    trained = load_network(case.path)
    size = trained.recipe.input_size
    deployed = DeployedModel(trained.network, trained.recipe.mean, trained.recipe.std).eval()
    device = torch.device(case.device.lower() or "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(f"{case.backend} sees no GPU: install a torch with CUDA")
    on_gpu = device.type == "cuda"
    if on_gpu:  # as one would run it there: an inference in float32 would be a poor reference
        deployed.network = _half_network(deployed.network)
    deployed.to(device)
    compiled = case.backend == TORCH_COMPILE
    run = torch.compile(deployed, mode="max-autotune") if compiled else deployed

    @torch.inference_mode()
    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float]:
        begin = time.perf_counter()
        small = np.ascontiguousarray(resize_image(image, size))
        resized = time.perf_counter()
        mask = run(torch.from_numpy(small[np.newaxis]).to(device))[0][0].cpu().numpy()
        return mask, resized - begin, time.perf_counter() - resized

    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU ({threads} threads)"
    how = "torch.compile" if compiled else "torch eager"
    precision = "float16" if on_gpu else "float32"
    return Result(case, case.path.name, precision, size, f"{how}, {where}"), segment


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
        mask, resize, network = segment(image, order)
        segmented = time.perf_counter()
        pack(mask)
        packed = time.perf_counter()
        return {
            "decode": decoded - begin,
            "resize": resize,
            "network": network,
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


def reference_of(result: Result, results: Iterable[Result]) -> Result | None:
    """The plain way with a network of that size: float32 in ONNX Runtime, None if not measured."""
    for other in results:
        if (other.case.backend, other.precision) == ("onnxruntime", "float32") and (
            other.input_size == result.input_size
        ):
            return other
    return None


def speed_up(result: Result, results: Iterable[Result]) -> float:
    """How many times as fast as its reference, by the medians of whole frames; NaN without one."""
    reference = reference_of(result, results)
    if reference is None:
        return float("nan")
    return statistics.median(reference.frames) / statistics.median(result.frames)


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
                "speed_up": None if np.isnan(ratio := speed_up(result, results)) else ratio,
            }
            for result in results
        ],
    }


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": 1e3 * statistics.median(seconds), "p99": 1e3 * percentile(seconds, 0.99)}


def table(results: Sequence[Result]) -> str:
    """Medians in milliseconds, one line a case, the fastest first."""
    head = ["model", "runs on", *STAGES, "frame", "p99", "CPU", "frames/s", "speed-up", "peak MB"]
    rows = [head]
    for result in sorted(results, key=lambda result: statistics.median(result.frames)):
        frame = statistics.median(result.frames)
        ratio = speed_up(result, results)
        rows.append(
            [
                result.model,
                result.runs_on,
                *(f"{1e3 * statistics.median(result.seconds[name]):.2f}" for name in STAGES),
                f"{1e3 * frame:.2f}",
                f"{1e3 * percentile(result.frames, 0.99):.2f}",
                f"{1e3 * result.cpu_per_frame:.2f}",
                f"{1 / frame:.1f}",
                "-" if np.isnan(ratio) else f"{ratio:.2f}",
                f"{result.peak_memory / 1e6:.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def device_table(results: Sequence[Result], floors: Mapping[Path, float]) -> str:
    """Upload, network and download alone, and the floor of the network, by model; '' for none.

    floors: seconds by model file (`gpu_floor`), for those that are known.
    """
    lines = []
    for result in results:
        if not result.device_seconds:
            continue
        parts = {k: 1e3 * statistics.median(v) for k, v in result.device_seconds.items()}
        line = f"{result.model} on the device, medians in ms: "
        line += ", ".join(f"{part} {value:.3f}" for part, value in parts.items())
        if result.case.path in floors:
            floor = 1e3 * floors[result.case.path]
            line += f"; floor of the network {floor:.3f}, ratio {parts['network'] / floor:.2f}"
        lines.append(line)
    return "\n".join(lines)


def write_plot(results: Sequence[Result], path: Path) -> None:
    """Stacked bars of the stages' medians, to a picture; ModuleNotFoundError without matplotlib."""
    import matplotlib.figure

    ordered = sorted(results, key=lambda result: -statistics.median(result.frames))
    names = [f"{result.model}\n{result.runs_on}" for result in ordered]
    figure = matplotlib.figure.Figure(figsize=(9, 1.2 + 0.7 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(ordered))
    for stage in STAGES:
        width = np.array([1e3 * statistics.median(result.seconds[stage]) for result in ordered])
        axes.barh(names, width, left=left, label=stage)
        left += width
    axes.set_xlabel("median time of a frame, ms")
    axes.legend()
    figure.savefig(path, dpi=120)
