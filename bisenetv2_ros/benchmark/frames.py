"""Times a frame on this machine, stage by stage, on every backend and precision.

Each combination of model and backend is a `Case` in a process of its own, so that its memory and
CPU time are separate. The cases take turns of a few frames each, so that other load on the machine
affects all of them. The references are measured in the same run: the same weights as networks are
usually exported and run (PLAIN), and torch (TORCH). Knows nothing of ROS, which `ros_graph`
measures.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenetv2_ros.backends import BackendUnavailable
from bisenetv2_ros.benchmark.case import (
    NNCF,
    PLAIN,
    STAGES,
    TORCH,
    TORCH_COMPILE,
    Case,
    Result,
    Segment,
)
from bisenetv2_ros.benchmark.machine import peak_memory
from bisenetv2_ros.benchmark.references import load_nncf, load_plain, load_torch
from bisenetv2_ros.model_file import read_model_file

if TYPE_CHECKING:
    from bisenetv2_ros.backends import Backend
    from bisenetv2_ros.backends.base import Masks

PART_RUNS = 200  # for timing the device's parts
TURN = 5  # frames in a row
WARM_UP = 5  # frames of each case before timing starts


def measure(
    cases: Sequence[Case],
    images: Sequence[np.ndarray],
    frames: int,
    on_turn: Callable[[], object] = lambda: None,
) -> tuple[list[Result], list[str]]:
    """Time `frames` frames of every case, in turns of TURN.

    images: (H, W, 3) uint8 RGB, taken in circles. on_turn: called after each turn of each case.
    Returns the results, and why the other cases could not run. Raises ModelFileError or
    CheckpointError if a file is invalid.
    """
    context = multiprocessing.get_context("spawn")
    skipped = []
    runners: list[tuple[Result, Connection, Connection | None]] = []
    with ExitStack() as stack:
        started = []  # in parallel: loading takes longer than measuring
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
                _receive(shorter)  # any problem of it is reported by the whole model
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
    """Start a process for the case; its first answer is its empty Result, or the error."""
    connection = stack.enter_context(_process(context))
    with suppress(OSError):  # an ended process shows when its answer is awaited
        connection.send((case, images))
    return connection


@contextmanager
def _process(context: Any) -> Iterator[Connection]:
    ours, theirs = context.Pipe()
    # Its work comes over the pipe: `start` would block forever if the process ended while it
    # receives megabytes of arguments.
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()  # ends its loop
        process.join()


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError("a process of the benchmark ended before its answer") from None


def _serve(connection: Connection) -> None:
    """Run a case's process: load, then time as many frames as each request says."""
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
        connection.send((seconds, cpu, peak_memory()))


def _load(case: Case) -> tuple[Result, Segment]:
    if case.backend == PLAIN:
        return load_plain(case)
    if case.backend == NNCF:
        return load_nncf(case)
    if case.backend in (TORCH, TORCH_COMPILE):
        return load_torch(case)
    from bisenetv2_ros.segmenter import Segmenter

    model = read_model_file(case.path)
    segmenter = Segmenter(model, backend=case.backend, device=case.device, threads=case.threads)
    clock = _Clock(segmenter.backend)
    segmenter.backend = clock  # type: ignore[assignment]

    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        size = (image.shape[1], image.shape[0]) if case.camera_size else None
        mask = segmenter(image, channel_order=order, size=size).mask  # type: ignore[arg-type]
        whole = time.perf_counter() - begin
        return mask, whole - clock.seconds, clock.seconds, 0.0

    info = model.info
    runs_on = f"{clock.backend.name}, {clock.backend.device}"
    if case.camera_size:
        runs_on += ", camera-size masks"
    result = Result(case, model.name, info.precision, info.input_size, runs_on)
    result.mean_iou = info.metrics.get("camvid_val_miou", float("nan"))
    result.device_seconds = _device_seconds(clock.backend, info.input_size)
    return result, segment


def _device_seconds(backend: Backend, size: tuple[int, int]) -> dict[str, list[float]]:
    """Times of the parts on the device, empty if the backend cannot measure them."""
    measure_parts = getattr(backend, "device_seconds", None)
    if measure_parts is None:
        return {}
    image = np.zeros((1, size[1], size[0], 3), np.uint8)
    runs = [measure_parts(image) for _ in range(WARM_UP + PART_RUNS)][WARM_UP:]
    return {part: [run[part] for run in runs] for part in runs[0]}


class _Clock:
    """A backend that stores how long its last inference took."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.seconds = 0.0

    def input_memory(self, count: int) -> np.ndarray:
        return self.backend.input_memory(count)

    def lay(self, image: np.ndarray, order: Any, place: np.ndarray) -> None:
        self.backend.lay(image, order, place)

    def infer(
        self, images: np.ndarray, confidence: bool, sizes: Any = None
    ) -> tuple[Masks, Masks | None]:
        begin = time.perf_counter()
        answer = self.backend.infer(images, confidence, sizes)
        self.seconds = time.perf_counter() - begin
        return answer


def _frame_runner(segment: Segment, images: Sequence[np.ndarray]) -> Callable[[], dict[str, float]]:
    """A function that processes the next image and returns the seconds of each stage."""
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
    """A camera message: an object with the fields of sensor_msgs/Image."""
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
    """Mask to message, as in the node; without ROS, a copy instead."""
    try:
        from std_msgs.msg import Header

        from bisenetv2_ros.node.messages import ImageBuffer
    except ImportError:
        return np.copy
    buffer, header = ImageBuffer(), Header()
    return lambda mask: buffer.fill(header, mask, "mono8")
