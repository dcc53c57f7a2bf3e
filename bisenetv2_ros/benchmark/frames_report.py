"""Tables, JSON and plots of the frame benchmark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.benchmark.case import COMPARED, STAGES, Result
from bisenetv2_ros.benchmark.machine import machine
from bisenetv2_ros.benchmark.tables import aligned, median, number_or_none, percentile, summary


def reference_of(result: Result, results: Iterable[Result], kind: str) -> Result | None:
    """The reference of that kind (PLAIN, TORCH) for that network, None without one.

    Among references of its size it is the one whose file has the same name except for the
    precision, or the only one.
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
    """Name of a model file without its precision; for a checkpoint, of its folder."""
    return re.sub("_?(float32|float16|int8)", "", result.case.path.stem)


def speed_up(result: Result, results: Iterable[Result], kind: str) -> float:
    """The speed-up over that reference, by the medians of whole frames; NaN without it."""
    reference = reference_of(result, results, kind)
    if reference is None:
        return float("nan")
    return median(reference.frames) / median(result.frames)


def as_json(results: Sequence[Result], skipped: Sequence[str]) -> dict[str, Any]:
    """All measurements as JSON values; times in milliseconds."""
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
                "stages_ms": {name: summary(result.seconds[name]) for name in STAGES},
                "frame_ms": summary(result.frames),
                "device_ms": {k: summary(v) for k, v in result.device_seconds.items()},
                "cpu_ms_per_frame": 1e3 * result.cpu_per_frame,
                "peak_memory_bytes": result.peak_memory,
                "mean_iou": number_or_none(result.mean_iou),
                "speed_up": {
                    kind: number_or_none(speed_up(result, results, kind)) for kind in COMPARED
                },
            }
            for result in results
        ],
    }


def table(results: Sequence[Result]) -> str:
    """Medians in milliseconds, one line per case, fastest first."""
    head = ["model", "runs on", *STAGES, "frame", "p99", "CPU", "frames/s"]
    head += [f"x {kind}" for kind in COMPARED] + ["mIoU", "peak MB"]
    rows = [head]
    for result in sorted(results, key=lambda result: median(result.frames)):
        frame = median(result.frames)
        ratios = [speed_up(result, results, kind) for kind in COMPARED]
        rows.append(
            [
                result.model,
                result.runs_on,
                *(f"{1e3 * median(result.seconds[name]):.2f}" for name in STAGES),
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


def roofline_table(results: Sequence[Result], rooflines: Mapping[tuple[Path, str], float]) -> str:
    """The network beside its roofline, and the device's parts if known; '' without either.

    rooflines: seconds by model file and backend, if known.
    """
    lines = []
    for result in results:
        roofline = rooflines.get((result.case.path, result.case.backend))
        if not (result.device_seconds or roofline):
            continue
        seconds = result.device_seconds or {"network": result.seconds["network"]}
        parts = {k: 1e3 * median(v) for k, v in seconds.items()}
        line = f"{result.model} on {result.runs_on}, medians in ms: "
        line += ", ".join(f"{k} {v:.3f}" for k, v in parts.items())
        if roofline:
            roofline *= 1e3
            line += f"; roofline of the network {roofline:.3f}, "
            line += f"ratio {parts['network'] / roofline:.2f}"
        lines.append(line)
    return "\n".join(lines)


def write_plot(results: Sequence[Result], path: Path) -> None:
    """Plot the stages' medians as stacked bars. Raises ModuleNotFoundError without matplotlib.

    If files with several mean IoUs were measured, adds a plot of accuracy against latency.
    """
    import matplotlib.figure

    ordered = sorted(results, key=lambda result: -median(result.frames))
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
        width = np.array([1e3 * median(result.seconds[stage]) for result in ordered])
        axes.barh(names, width, left=left, label=stage)
        left += width
    axes.set_xlabel("median time of a frame, ms")
    axes.legend()
    figure.savefig(path, dpi=120)


def undominated(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (time, score) pairs that no other beats in both, fastest first."""
    front: list[tuple[float, float]] = []
    for time_, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((time_, score))
    return front


def _draw_accuracy(axes: Any, results: Sequence[Result]) -> None:
    """Plot mean IoU over latency, with a line through the undominated."""
    points = [(1e3 * median(r.frames), 100 * r.mean_iou) for r in results]
    for runs_on in sorted({result.runs_on for result in results}):
        mine = [p for p, result in zip(points, results, strict=True) if result.runs_on == runs_on]
        axes.scatter(*zip(*mine, strict=True), label=runs_on)
    for point, result in zip(points, results, strict=True):
        text = f"{result.model}\n{result.input_size[0]}x{result.input_size[1]} {result.precision}"
        right = point[0] > (points[0][0] + max(time_ for time_, _ in points)) / 2
        axes.annotate(
            text,
            point,
            (-4 if right else 4, 4),
            textcoords="offset points",
            fontsize=7,
            ha="right" if right else "left",
        )
    axes.margins(0.15)
    axes.plot(*zip(*undominated(points), strict=True), color="grey", linewidth=0.8, zorder=0)
    axes.set_xlabel("median time of a frame, ms")
    axes.set_ylabel("mean IoU on CamVid val, as the files state it, %")
    axes.grid(alpha=0.3)
    axes.legend()
