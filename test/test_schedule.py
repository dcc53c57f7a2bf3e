"""How far a run is: by steps alone, or by the clock with `minutes`."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from bisenetv2_ros.training import schedule
from bisenetv2_ros.training.recipe import load_recipe
from bisenetv2_ros.training.schedule import Schedule


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    return now


def recipe(minutes: float, iterations: int = 300, every: int = 0):
    words = [f"minutes={minutes}", f"iterations={iterations}", f"validate_every={every}"]
    return load_recipe("finetune", words)


def run(plan: Schedule, clock: list[float], seconds) -> list[float]:
    """Take all steps; `seconds` tells how long each is. Returns the progress before each."""
    before = []
    while not plan.over:
        before.append(plan.progress)
        clock[0] += seconds(plan.done)
        plan.advance()
    return before


def test_without_minutes_progress_is_steps_over_iterations(clock):
    plan = Schedule(recipe(0, 7))
    assert run(plan, clock, lambda _: 1e6) == [step / 7 for step in range(7)]
    assert (plan.done, plan.progress, plan.capture()) == (7, 1.0, {})


@pytest.mark.parametrize("pace", [0.1, 2.0], ids=["all steps fit", "exactly so many"])
def test_no_more_steps_than_the_recipe_has(clock, pace):
    plan = Schedule(recipe(10))
    before = run(plan, clock, lambda _: pace)
    assert plan.done == 300
    assert before == pytest.approx([step / 300 for step in range(300)])


def test_a_slow_machine_ends_in_time_and_so_does_the_rate(clock):
    plan = Schedule(recipe(10))
    before = run(plan, clock, lambda _: 6.0)
    assert plan.done == 100 and clock[0] == 1600
    assert before == pytest.approx([step / 100 for step in range(100)], abs=0.01)
    rates = [recipe(10).learning_rate_at(i, progress) for i, progress in enumerate(before)]
    assert rates[-1] < 0.02 * recipe(10).learning_rate


def test_a_machine_that_becomes_busy_half_way(clock):
    plan = Schedule(recipe(10))
    before = run(plan, clock, lambda step: 2.0 if step < 150 else 8.0)
    assert 1580 <= clock[0] <= 1600
    steps = [after - now for now, after in zip(before, [*before[1:], 1.0], strict=True)]
    assert min(steps) > 0 and max(steps) < 0.05, "the rate falls by no leap"


def test_a_machine_that_becomes_idle_makes_all_steps(clock):
    plan = Schedule(recipe(10))
    run(plan, clock, lambda step: 6.0 if step < 50 else 0.5)
    assert plan.done == 300 and clock[0] < 1600


def test_validations_count(clock):
    """A validation of 60 s every 30 steps; it falls between two steps."""
    plan = Schedule(recipe(10, every=30))
    run(plan, clock, lambda step: 3.0 + 60.0 * (step > 0 and step % 30 == 0))
    assert 1580 <= clock[0] <= 1663, "at most one step and its validation late"


def test_a_resumed_run_has_the_rest_of_the_time(clock):
    whole = Schedule(recipe(10))
    for _ in range(40):
        clock[0] += 6.0
        whole.advance()
    kept = whole.capture()
    clock[0] += 5000.0  # nobody trained
    resumed = Schedule(recipe(10), 40, kept)
    assert (resumed.progress, resumed.seconds_left()) == (whole.progress, 360.0)
    run(resumed, clock, lambda _: 6.0)
    assert resumed.done == 100
    assert Schedule(recipe(10), 100, resumed.capture()).over, "although 300 steps were allowed"


def test_one_step_that_is_longer_than_the_time_is_the_last(clock):
    plan = Schedule(recipe(1))
    assert run(plan, clock, lambda _: 61.0) == [0.0]
