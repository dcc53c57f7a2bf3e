"""Tables, JSON and plots of the ROS graph benchmark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.benchmark.graph_results import Measurement, Report
from bisenetv2_ros.benchmark.machine import machine
from bisenetv2_ros.benchmark.tables import aligned, median, number_or_none, percentile, summary


def overload_lines(report: Report) -> list[str]:
    """Results of several cameras and of overload: fairness, age, answers, and losses."""
    lines = []
    for m in report.measurements:
        where = f"{_name(m)}, {m.rate:.0f} Hz{' (overload)' if m.overload else ''}"
        if m.cameras > 1:
            lines.append(f"{where}: least share {m.fair_share:.0%} of the fair one")
        if m.overload:
            drops = ", ".join(f"{cause} {count}" for cause, count in m.dropped.items()) or "none"
            answer = 1e3 * max(m.answers, default=math.nan)
            lines += [
                f"{where}: age p99 {m.age:.2f} inference times",
                f"{where}: slowest of {len(m.answers)} parameter requests {answer:.1f} ms",
                f"{where}: {m.received} frames in, {m.published} masks out, dropped {drops}; "
                f"{m.uncounted} not accounted for",
            ]
    return lines


def _name(m: Measurement) -> str:
    cameras = f", {m.cameras} cameras" if m.cameras > 1 else ""
    return f"{m.size[0]}x{m.size[1]} {m.transport}{cameras}"


def table(report: Report) -> str:
    """One line per measurement, times in milliseconds as median and p99, CPU in % of one core."""
    head = ["camera", "Hz", "lost", "latency", "p99", "jitter", "p99", "bare", "adds"]
    head += ["CPU camera", "node", "listener", "MB"]
    rows = [head]
    rows += [
        [
            _name(m),
            f"{m.rate:.0f}",
            f"{m.lost:.1%}",
            *(
                _ms(percentile(values, fraction))
                for values in (m.latencies, m.jitters)
                for fraction in (0.5, 0.99)
            ),
            _ms(median(m.bare)),
            _ms(m.added),
            *(f"{100 * m.cpu[name]:.0f}" for name in ("camera", "node", "listener")),
            f"{m.memory / 1e6:.0f}",
        ]
        for m in report.measurements
    ]
    lines = aligned(rows, texts=1)
    lines += ["", "peak rate with less than 5 % lost, of each camera:"]
    lines += [
        f"  {_name(Measurement(*key, peak))}: {peak:.1f} Hz" for key, peak in report.peaks.items()
    ]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{1e3 * seconds:.2f}"


def as_json(report: Report) -> dict[str, Any]:
    """All measurements as JSON values; times in milliseconds, None for no value."""
    return {
        "machine": machine(),
        "runs_on": report.runs_on,
        "first_mask_s": number_or_none(report.first_mask),
        "measurements": [
            {
                "size": list(m.size),
                "transport": m.transport,
                "cameras": m.cameras,
                "rate_hz": m.rate,
                "overload": m.overload,
                "sent": m.sent,
                "masks": m.masks,
                "lost": number_or_none(m.lost),
                "latency_ms": summary(m.latencies),
                "jitter_ms": summary(m.jitters),
                "bare_inference_ms": summary(m.bare),
                "added_ms": number_or_none(1e3 * m.added),
                "node_inference_ms": summary(m.inference),
                "uncounted": m.uncounted,
                "age_p99_inference_times": number_or_none(m.age),
                "parameter_answer_ms": summary(m.answers),
                "fair_share": number_or_none(m.fair_share),
                "node": {"received": m.received, "published": m.published, "dropped": m.dropped},
                "cpu_cores": m.cpu,
                "node_memory_bytes": m.memory,
            }
            for m in report.measurements
        ],
        "peaks_hz": [
            {"size": list(size), "transport": transport, "cameras": cameras, "rate_hz": rate}
            for (size, transport, cameras), rate in report.peaks.items()
        ],
    }


def write_plot(report: Report, path: Path) -> None:
    """Plot median latency with its p99 over the rate. Raises ModuleNotFoundError without
    matplotlib."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[Measurement]] = {}
    for m in report.measurements:
        if m.latencies:
            groups.setdefault(_name(m), []).append(m)
    for name, group in groups.items():
        group.sort(key=lambda m: m.rate)
        medians = np.array([1e3 * median(m.latencies) for m in group])
        highest = np.array([1e3 * percentile(m.latencies, 0.99) for m in group])
        rates = [m.rate * m.cameras for m in group]
        axes.errorbar(
            rates, medians, [np.zeros_like(medians), highest - medians], label=name, capsize=3
        )
    axes.set_xlabel("frames a second, all cameras")
    axes.set_ylabel("stamp to mask, median and p99, ms")
    axes.legend()
    figure.savefig(path, dpi=120)
