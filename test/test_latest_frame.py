"""The hand-over: the newest frame wins, cameras take turns, closing wakes the consumer."""

from __future__ import annotations

import threading
import time

from patience import HANG

from bisenetv2_ros.node.intake import LatestFrame


def test_newest_frame_wins_and_the_replaced_one_is_reported():
    frames: LatestFrame[str] = LatestFrame(1)
    assert not frames.put(0, "old")
    assert frames.put(0, "new")
    assert frames.take() == [(0, "new")]
    assert not frames.put(0, "next"), "a frame that was taken is not replaced"


def test_cameras_with_a_fresh_frame_take_turns():
    frames: LatestFrame[str] = LatestFrame(3)
    served = []
    for turn in range(6):  # camera 0 always has a fresh frame, 2 has one at first, 1 never
        frames.put(0, f"fast {turn}")
        if turn == 0:
            frames.put(2, "slow")
        served += frames.take()
    assert served[:3] == [(0, "fast 0"), (2, "slow"), (0, "fast 2")]
    assert {camera for camera, _ in served[3:]} == {0}


def test_several_cameras_at_once_and_in_turn():
    frames: LatestFrame[str] = LatestFrame(3)

    def put(*cameras: int) -> None:
        for camera in cameras:
            frames.put(camera, f"from {camera}")

    put(0, 1, 2)
    assert frames.take(2) == [(0, "from 0"), (1, "from 1")]
    put(0, 1)
    assert frames.take(2) == [(2, "from 2"), (0, "from 0")], "behind the one served last"
    put(0)
    assert frames.take(5) == [(1, "from 1"), (0, "from 0")], "as many as there are"
    put(2)
    assert frames.take(5) == [(2, "from 2")], "and none is waited for"


def test_take_waits_for_a_frame():
    frames: LatestFrame[str] = LatestFrame(2)
    timer = threading.Timer(0.05, frames.put, (1, "late"))
    timer.start()
    assert frames.take() == [(1, "late")]
    timer.join()


def test_close_wakes_a_waiting_consumer_and_forgets_what_was_not_taken():
    frames: LatestFrame[str] = LatestFrame(1)
    answers: list[object] = ["nothing yet"]
    consumer = threading.Thread(target=lambda: answers.append(frames.take()), daemon=True)
    consumer.start()
    time.sleep(0.05)
    frames.close()
    consumer.join(timeout=HANG)
    assert not consumer.is_alive() and answers[-1] == []
    frames.put(0, "too late")
    assert frames.take() == []


def test_close_tells_whose_frames_it_forgets():
    frames: LatestFrame[str] = LatestFrame(3)
    for camera in range(3):
        frames.put(camera, "frame")
    frames.take()
    assert frames.close() == [1, 2]
    assert frames.close() == []


def test_under_overload_every_frame_is_either_taken_or_counted_as_replaced():
    """Two cameras far faster than the consumer: bounded age, nothing lost, both arrive.

    How often each is taken is the scheduler's doing; that they take turns is tested above.
    """
    frames: LatestFrame[int] = LatestFrame(2)
    count = 2000
    replaced = [0, 0]
    taken: list[list[int]] = [[], []]

    def produce(camera: int) -> None:
        for number in range(count):
            replaced[camera] += frames.put(camera, number)
            if number % 50 == 0:
                time.sleep(0.001)

    def consume() -> None:
        while batch := frames.take():
            for camera, number in batch:
                taken[camera].append(number)
            time.sleep(0.0005)

    producers = [threading.Thread(target=produce, args=(camera,)) for camera in (0, 1)]
    consumer = threading.Thread(target=consume, daemon=True)
    for thread in (*producers, consumer):
        thread.start()
    for thread in producers:
        thread.join()
    deadline = time.monotonic() + HANG
    while any(not t or t[-1] != count - 1 for t in taken) and time.monotonic() < deadline:
        time.sleep(0.01)
    frames.close()
    consumer.join(timeout=HANG)
    for camera in (0, 1):
        assert taken[camera] == sorted(taken[camera]), "a frame was overtaken by an older one"
        assert taken[camera][-1] == count - 1, "the last frame must arrive"
        assert len(taken[camera]) + replaced[camera] == count
        assert replaced[camera] > 0, "the test made no overload"
