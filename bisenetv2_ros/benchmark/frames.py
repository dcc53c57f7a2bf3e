"""Times a frame on this machine, stage by stage, on every backend and precision.

Each combination of model and backend is a `Case` in a process of its own, so that its memory and
CPU time are separate. The cases take turns of a few frames each, so that other load on the machine
affects all of them. The references are measured in the same run: the same weights as networks are
usually exported and run (PLAIN), and torch (TORCH). Knows nothing of ROS, which `ros_graph`
measures.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenetv2_ros.backends import BackendUnavailable
from bisenetv2_ros.benchmark.case import NNCF, PLAIN, STAGES, TORCH, Case, Result, Segment
from bisenetv2_ros.benchmark.references import load_nncf, load_plain, load_torch
from bisenetv2_ros.benchmark.worker import Worker, worker
from bisenetv2_ros.model_file import read_model_file
from bisenetv2_ros.system.process_usage import peak_memory

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
    CheckpointError if a file is invalid, and WorkerLost if a process ends early.
    """
    skipped = []
    runners: list[tuple[Result, Worker, Worker | None]] = []
    with ExitStack() as stack:

        def start(case: Case) -> Worker:
            return stack.enter_context(worker(case.backend, _Runner, case, images))

        started = []  # in parallel: loading takes longer than measuring
        for case in cases:
            runner, shorter = start(case), None
            if case.network_only:
                shorter = start(replace(case, path=case.network_only, network_only=None))
            started.append((runner, shorter))
        for runner, shorter in started:
            try:
                runner.answer()
                if shorter:
                    shorter.answer()
            except BackendUnavailable as error:
                skipped.append(str(error))
                continue
            runners.append((runner.ask("result"), runner, shorter))
        for done in range(0, frames, TURN):
            count = min(TURN, frames - done)
            for result, runner, shorter in runners:
                seconds, cpu_seconds, result.peak_memory = runner.ask("turn", count)
                if shorter:
                    network = shorter.ask("turn", count)[0]["network"]
                    whole = seconds["network"]
                    seconds["tail"] = [w - n for w, n in zip(whole, network, strict=True)]
                    seconds["network"] = network
                for name in STAGES:
                    result.seconds[name] += seconds[name]
                result.cpu_seconds += cpu_seconds
                on_turn()
    return [result for result, _, _ in runners], skipped


class _Runner:
    """A loaded case, in its process."""

    def __init__(self, case: Case, images: Sequence[np.ndarray]) -> None:
        self._result, segment = _load(case)
        self._run = _frame_runner(segment, images)
        self.turn(WARM_UP)

    def result(self) -> Result:
        """The case without measurements."""
        return self._result

    def turn(self, count: int) -> tuple[dict[str, list[float]], float, int]:
        """Time frames; return the seconds of each by stage, CPU seconds, peak memory in bytes."""
        cpu = time.process_time()
        frames = [self._run() for _ in range(count)]
        cpu = time.process_time() - cpu
        seconds = {name: [frame[name] for frame in frames] for name in STAGES}
        return seconds, cpu, peak_memory() or 0


def _load(case: Case) -> tuple[Result, Segment]:
    if case.backend == PLAIN:
        return load_plain(case)
    if case.backend == NNCF:
        return load_nncf(case)
    if case.backend.startswith(TORCH):  # also compiled
        return load_torch(case)
    from bisenetv2_ros.segmenter import Segmenter

    model = read_model_file(case.path)
    segmenter = Segmenter(model, backend=case.backend, device=case.device, threads=case.threads)
    infer, inference = segmenter.backend.infer, 0.0

    def timed_infer(*arguments: Any) -> tuple[Masks, Masks | None]:
        nonlocal inference
        begin = time.perf_counter()
        answer = infer(*arguments)
        inference = time.perf_counter() - begin
        return answer

    segmenter.backend.infer = timed_infer  # type: ignore[assignment, method-assign]

    def segment(image: np.ndarray, order: str) -> tuple[np.ndarray, float, float, float]:
        begin = time.perf_counter()
        size = (image.shape[1], image.shape[0]) if case.camera_size else None
        mask = segmenter(image, channel_order=order, size=size).mask  # type: ignore[arg-type]
        whole = time.perf_counter() - begin
        return mask, whole - inference, inference, 0.0

    info = model.info
    runs_on = f"{segmenter.backend.name}, {segmenter.backend.device}"
    if case.camera_size:
        runs_on += ", camera-size masks"
    result = Result(case, model.name, info.precision, info.input_size, runs_on)
    result.mean_iou = info.metrics.get("camvid_val_miou", float("nan"))
    result.device_seconds = _device_seconds(segmenter.backend, info.input_size)
    return result, segment


def _device_seconds(backend: Backend, size: tuple[int, int]) -> dict[str, list[float]]:
    """Times of the parts on the device, empty if the backend cannot measure them."""
    measure_parts = getattr(backend, "device_seconds", None)
    if measure_parts is None:
        return {}
    image = np.zeros((1, size[1], size[0], 3), np.uint8)
    runs = [measure_parts(image) for _ in range(WARM_UP + PART_RUNS)][WARM_UP:]
    return {part: [run[part] for run in runs] for part in runs[0]}


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
