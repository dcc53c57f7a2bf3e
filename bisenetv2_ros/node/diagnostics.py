"""How the node monitors itself: counts, rates, latencies, a watchdog, and their assessment.

`CameraStatistics` records what happens to the frames of one camera, `assess_camera` assesses it,
`diagnostic_array` makes the message for /diagnostics. All times are monotonic, in seconds, so jumps
of wall time or simulated time have no effect. Only `diagnostic_array` touches ROS messages; nothing
here knows how a frame is received or segmented.

Levels (REP-107, diagnostic_msgs/DiagnosticStatus):
OK     masks come as fast as frames do, or the user disabled them
WARN   masks come, but late or not for every frame
ERROR  frames come, masks do not
STALE  no frames come
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticArray

WINDOW = 10.0  #: seconds over which rates, percentiles and warnings are computed
MIN_STALE = 0.25  #: seconds of silence that are never called stale: a busy machine may pause
FIRST_FRAME = 1.0  #: seconds that the first frame may take after subscribing
SILENCE = 3.0  #: seconds without frames after which a cause is reported
ANOTHER_CLOCK = 60.0  #: seconds between stamp and now that mean another clock
AHEAD = 1.0  #: seconds that the clocks of two machines may differ
SINCE_BOOT = 1e8  #: seconds; a smaller stamp is not counted from 1970
ERROR_STREAK = 3  #: consecutive frames without a mask that are an error
_MAX_EVENTS = 4096  #: kept per camera and kind; bounds memory if messages flood in

#: Causes of frames without a mask that the user has chosen.
DISABLED = "disabled"
MAX_RATE = "max_rate"
NO_SUBSCRIBER = "no_subscriber"
DEACTIVATED = "deactivated"
#: Why a camera is not subscribed to.
IS_DISABLED = "disabled by parameter enabled"
IS_IDLE = "idle: nobody subscribes to the outputs"
WANTED_DROPS = frozenset({DISABLED, MAX_RATE, NO_SUBSCRIBER, DEACTIVATED})
REPLACED = "replaced"  #: cause of a drop: a newer frame came before it was taken


class Level(IntEnum):
    """DiagnosticStatus levels; messages store them as one byte."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Status:
    """One diagnostic_msgs/DiagnosticStatus."""

    name: str
    level: Level
    message: str
    hardware_id: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class CameraReport:
    """A snapshot of `CameraStatistics`. Rates in Hz, times in seconds.

    Rates, percentiles and `recent_drops` are over the last WINDOW seconds and NaN if nothing
    was measured; the counts are since the start.
    """

    received: int
    published: int
    dropped: Mapping[str, int]  #: by cause
    recent_drops: Mapping[str, int]  #: by cause
    failures_in_row: int  #: frames since the last mask that failed, not counting chosen causes
    last_failure: str  #: cause and reason of the newest frame without a mask; '' if none
    input_rate: float
    output_rate: float
    latency_p50: float
    latency_p99: float
    inference_p50: float
    age: float  #: since the newest frame arrived; infinite before the first
    waiting: float | None  #: since frames were requested again; None once one has come
    period: float  #: median time between the last frames
    stamp: float  #: of the newest frame
    stamp_age: float  #: median time from stamp to arrival; NaN if no frame is stamped


class CameraStatistics:
    """Counts and times of one camera; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._received = 0
        self._published = 0
        self._dropped: Counter[str] = Counter()
        self._failures_in_row = 0
        self._last_failure = ""
        self._resumed: float | None = None
        self._stamp = math.nan
        self._arrivals: deque[float] = deque(maxlen=_MAX_EVENTS)
        self._stamp_ages: deque[float] = deque(maxlen=30)
        self._drops: deque[tuple[float, str]] = deque(maxlen=_MAX_EVENTS)
        self._masks: deque[tuple[float, float, float]] = deque(maxlen=_MAX_EVENTS)

    def resumed(self) -> None:
        """Record that frames are requested again; earlier times no longer describe the camera."""
        with self._lock:
            self._resumed = self._clock()
            self._failures_in_row = 0
            self._arrivals.clear()
            self._stamp_ages.clear()

    def received(self, stamp: float = math.nan, now: float = math.nan) -> None:
        """Record a frame with that stamp; `now` is of the node's clock, both in seconds."""
        with self._lock:
            self._received += 1
            self._stamp = stamp
            self._stamp_ages.append(now - stamp if stamp else math.nan)
            self._resumed = None
            self._arrivals.append(self._clock())

    def dropped(self, cause: str, why: str = "") -> None:
        """Record a frame without a mask, under a short fixed `cause`; `why` is the full reason."""
        with self._lock:
            self._dropped[cause] += 1
            self._drops.append((self._clock(), cause))
            if cause in (DISABLED, NO_SUBSCRIBER):
                self._failures_in_row = 0  # nothing is attempted now, so nothing fails
            elif cause not in WANTED_DROPS and cause != REPLACED:
                self._failures_in_row += 1
                self._last_failure = f"{cause}: {why}" if why else cause

    def published(self, latency: float, inference: float) -> None:
        """Record the publishing of a frame's outputs.

        latency: seconds from the camera's stamp; NaN if the stamp is not usable.
        inference: seconds of resize and network.
        """
        with self._lock:
            self._published += 1
            self._failures_in_row = 0
            self._masks.append((self._clock(), latency, inference))

    def report(self) -> CameraReport:
        """Return a snapshot."""
        with self._lock:
            now = self._clock()
            age = now - self._arrivals[-1] if self._arrivals else float("inf")
            intervals = np.diff(list(self._arrivals)[-30:])
            arrivals = [t for t in self._arrivals if now - t <= WINDOW]
            masks = [mask for mask in self._masks if now - mask[0] <= WINDOW]
            return CameraReport(
                received=self._received,
                published=self._published,
                dropped=dict(self._dropped),
                recent_drops=Counter(cause for t, cause in self._drops if now - t <= WINDOW),
                failures_in_row=self._failures_in_row,
                last_failure=self._last_failure,
                input_rate=_rate(arrivals, now),
                output_rate=_rate([t for t, _, _ in masks], now),
                latency_p50=_percentile([latency for _, latency, _ in masks], 50),
                latency_p99=_percentile([latency for _, latency, _ in masks], 99),
                inference_p50=_percentile([inference for _, _, inference in masks], 50),
                age=age,
                waiting=None if self._resumed is None else now - self._resumed,
                period=float(np.median(intervals)) if intervals.size else float("nan"),
                stamp=self._stamp,
                stamp_age=_percentile(list(self._stamp_ages), 50),
            )


def assess_camera(
    report: CameraReport,
    *,
    enabled: bool,
    latency_budget: float,
    stale_periods: float,
    is_simulated: bool = False,
) -> tuple[Level, str]:
    """Assess a camera of an active node: level and a one-line reason.

    Args:
        report: its statistics.
        enabled: whether its frames are to be segmented.
        latency_budget: limit of the 99th percentile in seconds; 0 for no limit.
        stale_periods: how many of the camera's own periods without a frame make it stale.
        is_simulated: whether the node uses simulated time.
    """
    if report.waiting is not None and report.waiting <= FIRST_FRAME:
        return Level.OK, "waiting for the first frame"
    if report.received == 0:
        return Level.STALE, "no frame received yet"
    if report.waiting is not None:
        return Level.STALE, f"no frame for {report.waiting:.1f} s"
    # One frame has no period: a camera slower than WINDOW is called stale.
    period = WINDOW / stale_periods if math.isnan(report.period) else report.period
    if report.age > max(stale_periods * period, MIN_STALE):
        return Level.STALE, f"no frame for {report.age:.1f} s"
    if not enabled:
        return Level.OK, IS_DISABLED
    if report.failures_in_row >= ERROR_STREAK:
        return Level.ERROR, (
            f"no mask from the last {report.failures_in_row} frames tried: {report.last_failure}"
        )
    unwanted = {k: n for k, n in report.recent_drops.items() if k not in WANTED_DROPS}
    if unwanted:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(unwanted.items()))
        return Level.WARN, f"dropped in the last {WINDOW:.0f} s: {causes}"
    if latency_budget and (problem := stamp_problem(report, is_simulated)):
        return Level.WARN, problem
    if latency_budget and report.latency_p99 > latency_budget:
        old = f"; frames are {report.stamp_age:.1f} s old when they arrive"
        return Level.WARN, (
            f"latency p99 {report.latency_p99:.3f} s is over the budget of {latency_budget} s"
            + (old if report.stamp_age > latency_budget else "")
        )
    if report.recent_drops.get(NO_SUBSCRIBER):
        return Level.OK, IS_IDLE
    unset = "; stamps are 0: the driver does not set them" if report.stamp == 0 else ""
    return Level.OK, f"{report.output_rate:.1f} Hz{unset}"


def stamp_problem(report: CameraReport, is_simulated: bool) -> str:
    """One line if the stamps are of another clock than the node's, else ''."""
    age = report.stamp_age
    if age > ANOTHER_CLOCK and report.stamp < SINCE_BOOT:
        return (
            f"stamps are of another clock: the newest is {report.stamp:.1f} s, as if counted from "
            "the start of the camera or its computer; expected seconds since 1970"
        )
    if age > ANOTHER_CLOCK or age < -ANOTHER_CLOCK:
        away = f"{abs(age):.0f} s {'before' if age > 0 else 'after'} the node's time"
        cause = (
            "the node has use_sim_time, the camera has not, or nobody publishes /clock"
            if is_simulated
            else "for a bag or a simulation set use_sim_time and publish /clock (ros2 bag play "
            "--clock)"
        )
        return f"stamps are of another clock, {away}: {cause}"
    if age < -AHEAD:
        return (
            f"stamps are {-age:.1f} s ahead of the node's time: synchronize the clocks of the "
            "camera's computer and this one"
        )
    return ""


_DROPPED = "dropped: "


def camera_values(report: CameraReport) -> dict[str, str]:
    """The key-value pairs of a camera's status."""
    values = {
        "frames received": str(report.received),
        "frames published": str(report.published),
        "input rate [Hz]": f"{report.input_rate:.2f}",
        "output rate [Hz]": f"{report.output_rate:.2f}",
        "latency p50 [s]": f"{report.latency_p50:.4f}",
        "latency p99 [s]": f"{report.latency_p99:.4f}",
        "inference p50 [s]": f"{report.inference_p50:.4f}",
        "stamp age p50 [s]": f"{report.stamp_age:.4f}",
    }
    values |= {f"{_DROPPED}{cause}": str(n) for cause, n in sorted(report.dropped.items())}
    return values


def drops_in(values: Mapping[str, str]) -> dict[str, int]:
    """Frames without a mask by cause, from the values of `camera_values`."""
    return {
        key.removeprefix(_DROPPED): int(value)
        for key, value in values.items()
        if key.startswith(_DROPPED)
    }


class Watchdog:
    """Measures how long the inference thread has been at its current frame; thread-safe.

    with watchdog: ...   around the work on one frame
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = self._clock()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def busy(self) -> float:
        """Seconds since the work on the current frame began; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else self._clock() - since


def diagnostic_array(stamp: Time, statuses: Iterable[Status]) -> DiagnosticArray:
    """Make the message for /diagnostics."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=bytes([status.level]),
            name=status.name,
            message=status.message,
            hardware_id=status.hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return message


def _rate(times: list[float], now: float) -> float:
    """Events per second; decreases after the last event, as it should when a camera stops."""
    return (len(times) - 1) / (now - times[0]) if len(times) > 1 and now > times[0] else 0.0


def _percentile(values: list[float], percent: float) -> float:
    known = np.array(values)
    known = known[~np.isnan(known)]
    return float(np.percentile(known, percent)) if known.size else float("nan")
