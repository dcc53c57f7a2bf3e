"""What the ROS graph benchmark measures, and the combination of several runs of the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bisenetv2_ros.benchmark.tables import median, percentile


@dataclass
class Measurement:
    """One rate of one configuration. Times in seconds, counts over all cameras."""

    size: tuple[int, int]
    transport: str
    cameras: int
    rate: float  #: requested of each camera, Hz
    overload: bool = False
    sent: int = 0
    seconds: float = 0.0
    masks: list[int] = field(default_factory=list)  #: of each camera
    latencies: list[float] = field(default_factory=list)
    jitters: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)  #: reported by the node, at overload only
    answers: list[float] = field(default_factory=list)  #: of the parameter service
    bare: list[float] = field(default_factory=list)  #: inference without ROS at this rate
    received: int = 0  #: by the node
    published: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  #: by the node, by cause
    cpu: dict[str, float] = field(default_factory=dict)  #: cores in use, by process
    memory: int = 0  #: bytes resident in the node

    @property
    def lost(self) -> float:
        """Fraction of the frames sent that gave no mask."""
        return 1 - sum(self.masks) / self.sent if self.sent else math.nan

    @property
    def added(self) -> float:
        """Median seconds from stamp to mask beyond inference alone."""
        return median(self.latencies) - median(self.bare)

    @property
    def uncounted(self) -> int:
        """Frames received by the node that are neither published nor counted as dropped."""
        return self.received - self.published - sum(self.dropped.values())

    @property
    def fair_share(self) -> float:
        """Masks of the camera with the fewest, relative to the mean of all."""
        return min(self.masks) / statistics.mean(self.masks) if any(self.masks) else math.nan

    @property
    def age(self) -> float:
        """99th percentile of the latency, in inference times."""
        return percentile(self.latencies, 0.99) / median(self.inference)


@dataclass
class Report:
    """All measurements."""

    runs_on: str = ""
    first_mask: float = math.nan  #: seconds from the start of the node's process
    measurements: list[Measurement] = field(default_factory=list)
    peaks: dict[tuple[tuple[int, int], str, int], float] = field(default_factory=dict)  #: Hz


def merged(runs: Sequence[Measurement]) -> Measurement:
    """Combine runs of the same; of three or more, leaves out the best and worst median latency."""
    kept = sorted(runs, key=lambda run: median(run.latencies))
    if len(kept) > 2:
        kept = kept[1:-1]
    whole = kept[0]
    for run in kept[1:]:
        whole.masks = [a + b for a, b in zip(whole.masks, run.masks, strict=True)]
        for name in ("sent", "seconds", "received", "published"):
            setattr(whole, name, getattr(whole, name) + getattr(run, name))
        for name in ("latencies", "jitters", "inference", "answers", "bare"):
            getattr(whole, name).extend(getattr(run, name))
        for cause, count in run.dropped.items():
            whole.dropped[cause] = whole.dropped.get(cause, 0) + count
        whole.memory = max(whole.memory, run.memory)
    whole.cpu = {
        name: statistics.mean(run.cpu[name] for run in kept) if len(kept) > 1 else value
        for name, value in whole.cpu.items()
    }
    return whole


def jitters(arrivals: Sequence[float]) -> list[float]:
    """Absolute differences between consecutive intervals; arrivals in order."""
    return [abs(float(change)) for change in np.diff(arrivals, 2)]
