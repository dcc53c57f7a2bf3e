"""The demo: runs camera and node as processes, measures them, and scores the model offline."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from bisenetv2_ros.demo import DemoError
from bisenetv2_ros.demo.results import Results, score
from bisenetv2_ros.files.paths import refuse_overwriting, write_json
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.model_file import ModelFile
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.sources.frame_source import SYNTHETIC, is_endless, open_source
from bisenetv2_ros.system.child_process import Child, end_all
from bisenetv2_ros.system.signals import asked_to_stop, interrupt_once

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from bisenetv2_ros.demo.observer import Measurements, Observer


NAMESPACE = "/demo"
SCENE_SIZE = (640, 480)  # of the synthetic street; drawing a larger one would slow small machines
ENDLESS_FRAMES = 100  # shown of a source without end ...
ENDLESS_SECONDS = 8.0  # ... unless this time after the first mask comes first
FIRST_MASK_TIMEOUT = 60.0  # seconds from launch; a slow disk has to load the model in it
REPLAY_AFTER = 5.0  # seconds without any mask after the camera has ended
SILENCE_TIMEOUT = 20.0  # seconds without a mask while the camera runs
LAST_MASK_TIMEOUT = 2.0  # seconds without another mask after the camera has ended
SKIPPED = 1  # exit code of a camera that has skipped images
DIAGNOSTICS_TIMEOUT = 10.0  # seconds, for a busy machine; the node reports once a second


def run_demo(args: argparse.Namespace, model: ModelFile, total: int | None) -> int:
    """Run camera and node until the last frame has its mask, then score; return the exit code."""
    results = Results(args.output, model.info.labels, args.rate)
    print(f"camera and node on ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}, topics in {NAMESPACE}/")
    interrupted = False
    children: list[Child] = []
    earlier = 0  # frames sent before the camera was last started

    def play() -> Child:
        nonlocal earlier
        if children[1:]:
            earlier += _frames_sent(children[-1]) or 0
        command = _camera_command(args, total)
        children.append(Child("camera", command, os.environ, args.output / "camera.log"))
        return children[-1]

    try:
        node = Child("node", _segment_command(args), os.environ, args.output / "segment.log")
        children.append(node)
        with _observer(results) as (observer, executor), asked_to_stop() as signals:
            try:
                seconds = ENDLESS_SECONDS if is_endless(args.source) and not args.frames else None
                _watch(node, play, observer, executor, total, seconds, signals)
                if observer.measured.received:
                    _wait_for_the_rest(observer, executor, results)
            except KeyboardInterrupt:  # the second Ctrl-C
                pass
            interrupted = bool(signals)
            memory = node.peak_memory()
    finally:
        # Every process now ends within seconds; another signal would leave some behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_all(children)
        files = results.close()
    measured = observer.measured
    if not measured.received:
        return 130
    camera = children[-1]
    frames = _frames_sent(camera) or measured.sent - earlier
    measured.sent = earlier + frames
    summary = _summary(args, model, measured, results, memory)
    try:
        summary["scores"] = None if interrupted else _score(args, measured, frames)
    except KeyboardInterrupt:
        summary["scores"], interrupted = None, True
    summary["time_to_first_mask_s"] = round(measured.mask_times[0] - node.started, 3)
    summary["interrupted"] = interrupted
    summary["files"] = [str(path) for path in files]
    path = args.output / "summary.json"
    write_json(path, summary)
    _print_summary(summary, path)
    if missing := measured.received - results.frames:
        print(f"  {missing} masks are not shown: their camera images did not arrive here")
    if results.note:
        print(f"  {results.note}")
    if interrupted:
        return 130
    if camera.exit_code():
        print(f"bisenetv2 demo: error: {_ended_early(camera)}", file=sys.stderr)
        return 1
    return 0


def _score(args: argparse.Namespace, measured: Measurements, count: int) -> dict[str, Any] | None:
    """Score the node's model on the first `count` frames of the source, dropped ones included.

    None if the frames have no labels of the model's classes.
    """
    synthetic = args.source == SYNTHETIC
    if not (args.labels or synthetic):
        return None
    interrupt_once(signal.SIGINT, signal.SIGTERM)
    backend = measured.node_values.get("backend", "auto")
    with Segmenter(args.model, backend=backend) as segmenter:
        names = segmenter.model.info.labels.names
        if synthetic and names != CAMVID.names:
            return None
        source = open_source(
            args.source,
            labels=args.labels,
            size=SCENE_SIZE if synthetic else None,
            on_damaged=lambda _: None,  # the camera has named it
        )
        frames = itertools.islice(source, count)
        with tqdm(total=count, desc="scoring", leave=False, disable=None) as bar:
            scored = score(frames, segmenter, bar.update)
    if scored is None:
        return None
    scores, labelled = scored
    return {
        "frames": labelled,
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": {
            name: None if math.isnan(value) else value
            for name, value in zip(names, scores.iou.tolist(), strict=True)
        },
    }


def frame_count(args: argparse.Namespace) -> int | None:
    """The number of frames to expect, None if it is unknown.

    Raises ValueError if the source cannot be used or the results would overwrite it.
    """
    if is_endless(args.source):  # the camera opens it; a device opens only once
        return args.frames or ENDLESS_FRAMES
    source = open_source(
        args.source, labels=args.labels, topics=args.topic, encodings=args.image_encoding
    )
    if len(source.cameras) > 1:
        raise ValueError(f"the demo shows one camera, expected one --topic, got {args.topic}")
    names = ("video.mp4", "summary.json", "segment.log", "camera.log")
    outputs = [*(args.output / name for name in names), *args.output.glob("frame_*.png")]
    refuse_overwriting(outputs, source.inputs)
    count = source.count
    if args.frames is None or count is None:
        return args.frames or count
    return min(args.frames, count)


def _segment_command(args: argparse.Namespace) -> list[str]:
    parameters = {"model": args.model, "backend": args.backend}
    ros_args = ["-r", f"__ns:={NAMESPACE}"]
    for name, value in parameters.items():
        ros_args += ["-p", f"{name}:={json.dumps(value)}"]  # JSON strings are YAML strings
    return [*_program("segment"), "--ros-args", *ros_args]


def _camera_command(args: argparse.Namespace, total: int | None) -> list[str]:
    command = [*_program("camera"), args.source]
    command += ["--rate", str(args.rate)]
    if args.source == SYNTHETIC:
        command += ["--size", "{}x{}".format(*SCENE_SIZE)]
    command += ["--wait-for-subscribers", "2"]
    for topic in args.topic:
        command += ["--topic", topic]
    for topic, encoding in args.image_encoding.items():
        command += ["--image-encoding", f"{topic}={encoding}"]
    if total is not None:
        command += ["--frames", str(total)]
    return [*command, "--ros-args", "-r", f"__ns:={NAMESPACE}"]


def _program(verb: str) -> list[str]:
    return [sys.executable, "-m", "bisenetv2_ros.cli.main", verb]


@contextlib.contextmanager
def _observer(results: Results) -> Iterator[tuple[Observer, Executor]]:
    """The demo's own ROS node."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from bisenetv2_ros.demo.observer import Observer

    # Ctrl-C stays Python's: it must not take the context away while results are being completed.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("demo", namespace=NAMESPACE)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        yield Observer(node, results.add), executor
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


def _watch(
    node: Child,
    play: Callable[[], Child],
    observer: Observer,
    executor: Executor,
    total: int | None,
    seconds: float | None,
    signals: list[int],
) -> None:
    """Spin until the camera's last frame has its mask, or `signals` is no longer empty.

    If a busy node misses all frames of a short source, the camera starts over.

    Args:
        play: starts the camera.
        total: number of frames expected.
        seconds: from the first mask until the camera is stopped; None lets it run.

    Raises DemoError if a process fails or masks stay away.
    """
    measured = observer.measured
    camera = play()
    camera_ended: float | None = None
    shown = 0  # masks
    with tqdm(total=total, unit="frame", disable=None) as bar:
        while not signals:
            executor.spin_once(timeout_sec=0.05)
            if measured.received and not shown:
                bar.write(f"first mask {measured.mask_times[0] - node.started:.1f} s after start")
            if measured.received > shown:
                bar.set_postfix_str(_figures(measured), refresh=False)
                bar.update(measured.received - shown)
                shown = measured.received
            now = time.monotonic()
            if node.exit_code() is not None:
                raise DemoError(_ended_early(node))
            if camera_ended is None and camera.exit_code() is not None:
                if camera.exit_code() not in (0, SKIPPED):
                    raise DemoError(_ended_early(camera))
                camera_ended = now
            if seconds and measured.received and now > measured.mask_times[0] + seconds:
                camera.interrupt()
            last_sign = measured.mask_times[-1] if measured.mask_times else node.started
            if camera_ended is not None:
                finished = measured.received > 0 and not observer.waiting
                patience = LAST_MASK_TIMEOUT if measured.received else SILENCE_TIMEOUT
                if finished or now - max(last_sign, camera_ended) > patience:
                    break
                in_time = now - node.started < FIRST_MASK_TIMEOUT
                if not measured.received and in_time and now - camera_ended > REPLAY_AFTER:
                    bar.write(f"no mask for {measured.sent} frames: the camera starts over")
                    camera, camera_ended = play(), None
            elif now - last_sign > (SILENCE_TIMEOUT if measured.mask_times else FIRST_MASK_TIMEOUT):
                break
    if signals:
        return
    if camera.exit_code() and not measured.received:
        raise DemoError(_ended_early(camera))
    if camera_ended is None or not measured.received:
        raise DemoError(
            f"{measured.sent} camera frames came, {measured.received} masks, then none for "
            f"{now - last_sign:.0f} s\n  last lines of {node.log}:\n{node.last_lines()}\n"
            f"  last lines of {camera.log}:\n{camera.last_lines()}"
        )


def _figures(measured: Measurements) -> str:
    p50, p99 = _percentiles(measured.latencies, (50, 99))
    dropped = sum(measured.dropped.values())
    return f"latency p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms, dropped {dropped}"


def _ended_early(child: Child) -> str:
    return (
        f"the {child.name} ended with exit code {child.exit_code()}; last lines of {child.log}:\n"
        f"{child.last_lines()}"
    )


def _frames_sent(camera: Child) -> int | None:
    """Return the camera's own count, because some of its frames may not arrive here."""
    said = re.search(r"^ *camera: (\d+) frames sent", camera.last_lines(), re.MULTILINE)
    return int(said[1]) if said else None


def _wait_for_the_rest(observer: Observer, executor: Executor, results: Results) -> None:
    """Spin until one frame is complete and diagnostics newer than the last mask have the drops."""
    measured = observer.measured
    give_up = time.monotonic() + DIAGNOSTICS_TIMEOUT
    while time.monotonic() < give_up and not (
        results.frames and measured.node_values_time > measured.mask_times[-1]
    ):
        executor.spin_once(timeout_sec=0.05)


def _percentiles(values: list[float], percents: tuple[float, ...]) -> list[float]:
    return np.percentile(values or [math.nan], percents).tolist()


def _summary(
    args: argparse.Namespace,
    model: ModelFile,
    measured: Measurements,
    results: Results,
    memory: float | None,
) -> dict[str, Any]:
    """The contents of summary.json except the scores."""
    percents = (50, 90, 99, 100)

    def milliseconds(values: list[float]) -> dict[str, float]:
        named = zip(("p50", "p90", "p99", "max"), _percentiles(values, percents), strict=True)
        return {name: round(1000 * value, 2) for name, value in named}

    return {
        "source": args.source,
        "labels": args.labels or None,
        "model": measured.model,
        "model_file": str(model.path),
        "model_sha256": model.sha256,
        "backend": measured.node_values.get("backend"),
        "device": measured.node_values.get("device"),
        "frames": {
            "sent": measured.sent,
            "received": measured.received,
            "shown": results.frames,
            "dropped": measured.dropped,
        },
        "rate_hz": round(measured.rate, 2),
        "rate_limit_hz": args.rate,
        "latency_ms": milliseconds(measured.latencies),  # camera stamp to mask in this process
        "inference_ms": milliseconds(measured.inference_times),
        "node_peak_memory_mib": None if memory is None else round(memory, 1),
        "fractions": {name: round(value, 6) for name, value in results.mean_fractions.items()},
        "ros_domain_id": int(os.environ["ROS_DOMAIN_ID"]),
    }


def _print_summary(summary: dict[str, Any], path: Path) -> None:
    frames, latency, inference = summary["frames"], summary["latency_ms"], summary["inference_ms"]
    causes = ", ".join(f"{cause} {count}" for cause, count in frames["dropped"].items())
    print(f"""
  model      {summary["model"]} on {summary["backend"]}, {summary["device"]}
  frames     {frames["sent"]} sent, {frames["received"]} segmented, dropped: {causes or "none"}
  rate       {summary["rate_hz"]} Hz (the camera sends {summary["rate_limit_hz"]} Hz)
  latency    p50 {latency["p50"]} ms, p99 {latency["p99"]} ms, camera to mask; \
inference p50 {inference["p50"]} ms
  first mask {summary["time_to_first_mask_s"]} s after the node's start; \
node memory {summary["node_peak_memory_mib"]} MiB""")
    if summary["scores"]:
        scores = summary["scores"]
        print(
            f"  mIoU       {scores['mean_iou']:.4f} over {scores['frames']} frames, "
            f"pixel accuracy {scores['pixel_accuracy']:.4f}"
        )
    print("  files      " + "\n             ".join([*summary["files"], str(path)]))
