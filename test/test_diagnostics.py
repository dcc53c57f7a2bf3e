"""Statistics of a camera, what they are judged to mean, the watchdog, and the message."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bisenetv2_ros.node.diagnostics import (
    ERROR_STREAK,
    WINDOW,
    CameraStatistics,
    Level,
    Status,
    Watchdog,
    assess_camera,
    camera_values,
    diagnostic_array,
)


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(statistics: CameraStatistics, clock: Clock, *, seconds: float, rate: float = 10.0) -> None:
    """A healthy camera: every frame published 20 ms after its stamp."""
    for _ in range(round(seconds * rate)):
        clock.now += 1 / rate
        statistics.received()
        statistics.published(latency=0.02, inference=0.01)


def judge(statistics: CameraStatistics, **overrides) -> tuple[Level, str]:
    settings = {"enabled": True, "latency_budget": 0.2, "stale_periods": 3.0} | overrides
    return assess_camera(statistics.report(), **settings)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def statistics(clock: Clock) -> CameraStatistics:
    return CameraStatistics(clock)


def test_healthy_camera_is_ok_with_its_rates_and_times(statistics, clock):
    run(statistics, clock, seconds=30)
    report = statistics.report()
    assert (report.received, report.published) == (300, 300)
    assert report.input_rate == pytest.approx(10, rel=0.02)
    assert report.output_rate == pytest.approx(10, rel=0.02)
    assert report.latency_p50 == pytest.approx(0.02)
    assert report.inference_p50 == pytest.approx(0.01)
    assert report.period == pytest.approx(0.1)
    assert judge(statistics) == (Level.OK, "10.0 Hz")


def test_percentiles_are_those_of_the_latencies_that_mean_something(statistics):
    for latency in [*range(1, 101), math.nan]:  # NaN: a stamp of 0
        statistics.published(latency, inference=0.0)
    report = statistics.report()
    assert report.latency_p50 == pytest.approx(50.5)
    assert report.latency_p99 == pytest.approx(99.01)


def test_before_the_first_frame_it_is_stale_and_nothing_divides_by_zero(statistics):
    report = statistics.report()
    assert report.input_rate == 0 and math.isinf(report.age) and math.isnan(report.latency_p99)
    assert judge(statistics) == (Level.STALE, "no frame received yet")


def test_silence_of_three_periods_is_stale_and_the_next_frames_recover(statistics, clock):
    run(statistics, clock, seconds=5)
    clock.now += 0.29
    assert judge(statistics)[0] is Level.OK
    clock.now += 0.02
    assert judge(statistics) == (Level.STALE, "no frame for 0.3 s")
    clock.now += 60
    assert judge(statistics) == (Level.STALE, "no frame for 60.3 s")
    run(statistics, clock, seconds=1)
    assert judge(statistics)[0] is Level.OK


def test_fast_camera_is_not_stale_over_a_hiccup(statistics, clock):
    run(statistics, clock, seconds=1, rate=100)
    clock.now += 0.2  # 20 periods
    assert judge(statistics)[0] is Level.OK


def test_latency_over_the_budget_warns_unless_there_is_none(statistics, clock):
    run(statistics, clock, seconds=2)
    level, message = judge(statistics, latency_budget=0.015)
    assert level is Level.WARN and "0.020 s" in message and "0.015 s" in message
    assert judge(statistics, latency_budget=0.0)[0] is Level.OK


NOW = 1.7e9  # seconds since 1970


def test_frames_that_arrive_old_are_said_to_be(statistics, clock):
    for _ in range(20):
        clock.now += 0.1
        statistics.received(NOW, NOW + 20.0)
        statistics.published(latency=20.02, inference=0.01)
    level, message = judge(statistics)
    assert level is Level.WARN and "20.020 s is over the budget" in message
    assert message.endswith("frames are 20.0 s old when they arrive")


def test_why_frames_give_no_mask_is_said(statistics, clock):
    for _ in range(ERROR_STREAK):
        clock.now += 0.1
        statistics.received()
        statistics.dropped("step", "step is 50 bytes")
    level, message = judge(statistics)
    assert level is Level.ERROR
    assert message == f"no mask from the last {ERROR_STREAK} frames tried: step: step is 50 bytes"
    assert dict(statistics.report().dropped) == {"step": ERROR_STREAK}


@pytest.mark.parametrize(
    ("stamp", "is_simulated", "expected"),
    [
        (NOW - 0.05, False, None),
        (NOW - 20.0, False, None),  # slow, but the budget says so
        (NOW + 0.5, False, None),
        (NOW - 96043066, False, "of another clock, 96043066 s before the node's time: for a bag"),
        (NOW - 600, True, "600 s before the node's time: the node has use_sim_time, the camera"),
        (NOW + 600, True, "600 s after the node's time: the node has use_sim_time"),
        (12345.6, False, "newest is 12345.6 s, as if counted from the start of the camera"),
        (NOW + 3.0, False, "3.0 s ahead of the node's time: synchronize"),
    ],
)
def test_stamps_of_another_clock_are_called_that(statistics, clock, stamp, is_simulated, expected):
    for _ in range(30):
        clock.now += 0.1
        statistics.received(stamp, NOW)
        statistics.published(latency=max(NOW - stamp, 0.0) or math.nan, inference=0.01)
    level, message = judge(statistics, is_simulated=is_simulated)
    if expected is None:
        assert "clock" not in message and "stamps" not in message
    else:
        assert level is Level.WARN and expected in message and "budget" not in message
        assert judge(statistics, latency_budget=0.0)[0] is Level.OK, "nobody wants to know"


def test_stamps_that_are_not_set_are_said_and_no_fault_of_the_node(statistics, clock):
    for _ in range(30):
        clock.now += 0.1
        statistics.received(0.0, NOW)
        statistics.published(latency=math.nan, inference=0.01)
    assert judge(statistics) == (Level.OK, "10.0 Hz; stamps are 0: the driver does not set them")


def test_one_stamp_that_jumps_is_no_other_clock(statistics, clock):
    for jump in [0.0] * 15 + [1e6] + [0.0] * 14:
        clock.now += 0.1
        statistics.received(NOW - jump, NOW)
        statistics.published(latency=0.02, inference=0.01)
    assert judge(statistics)[0] is Level.OK


def test_what_was_before_a_rest_tells_nothing_about_the_camera(statistics, clock):
    run(statistics, clock, seconds=3)
    clock.now += 600
    statistics.resumed()
    clock.now += 0.5
    assert judge(statistics) == (Level.OK, "waiting for the first frame")
    clock.now += 1.0
    assert judge(statistics) == (Level.STALE, "no frame for 1.5 s")
    run(statistics, clock, seconds=1)
    assert judge(statistics)[0] is Level.OK


def test_drops_warn_by_cause_until_they_are_past(statistics, clock):
    run(statistics, clock, seconds=1)
    statistics.dropped("replaced")
    statistics.dropped("replaced")
    statistics.dropped("encoding")
    assert judge(statistics) == (
        Level.WARN,
        "dropped in the last 10 s: encoding 1, replaced 2",
    )
    run(statistics, clock, seconds=WINDOW + 1)
    assert judge(statistics)[0] is Level.OK
    assert statistics.report().dropped == {"replaced": 2, "encoding": 1}, "totals stay"


@pytest.mark.parametrize("cause", ["disabled", "max_rate", "no_subscriber"])
def test_drops_that_the_user_wants_do_not_warn(statistics, clock, cause):
    run(statistics, clock, seconds=1)
    for _ in range(50):
        statistics.dropped(cause)
    assert judge(statistics)[0] is Level.OK


def test_frames_that_give_no_mask_in_a_row_are_an_error_until_one_does(statistics, clock):
    run(statistics, clock, seconds=1)
    for _ in range(ERROR_STREAK):
        statistics.received()
        statistics.dropped("decode")
        statistics.dropped("max_rate")  # does not end the streak: nothing was tried
    level, message = judge(statistics)
    assert level is Level.ERROR and "decode" in message and "last 3 frames" in message
    run(statistics, clock, seconds=0.1)
    assert judge(statistics)[0] is Level.WARN


def test_an_error_is_forgotten_while_nothing_is_asked_for(statistics, clock):
    run(statistics, clock, seconds=1)
    for _ in range(ERROR_STREAK):
        statistics.dropped("inference")
    statistics.dropped("no_subscriber")
    assert judge(statistics)[0] is Level.WARN


def test_disabled_is_ok_and_says_so(statistics, clock):
    run(statistics, clock, seconds=1)
    assert judge(statistics, enabled=False) == (Level.OK, "disabled by parameter enabled")


def test_memory_is_bounded_when_messages_flood_in(statistics):
    for _ in range(20_000):
        statistics.received()
        statistics.dropped("encoding")
    assert max(len(statistics._arrivals), len(statistics._drops)) <= 4096
    assert statistics.report().dropped == {"encoding": 20_000}


def test_watchdog_tells_how_long_the_present_frame_takes(clock):
    watchdog = Watchdog(clock)
    assert watchdog.busy() == 0
    with watchdog:
        clock.now += 7
        assert watchdog.busy() == 7
    assert watchdog.busy() == 0


def test_message_holds_the_level_as_a_byte_and_the_values_as_text(statistics, clock):
    time_message = pytest.importorskip("builtin_interfaces.msg", reason="needs ROS messages").Time
    run(statistics, clock, seconds=1)
    statistics.dropped("step")
    status = Status(
        "segment: /image_raw",
        Level.STALE,
        "no frame",
        "CPU",
        camera_values(dataclasses.replace(statistics.report(), received=12)),
    )
    message = diagnostic_array(time_message(sec=5), [status])
    assert message.header.stamp.sec == 5
    (made,) = message.status
    assert (made.level, made.name, made.message) == (b"\x03", "segment: /image_raw", "no frame")
    assert made.hardware_id == "CPU"
    values = {pair.key: pair.value for pair in made.values}
    assert values["frames received"] == "12"
    assert values["dropped: step"] == "1"
    assert values["latency p50 [s]"] == "0.0200"
