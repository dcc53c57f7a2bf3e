"""Progress of a run, by its steps, or with `minutes` also by the clock.

Without `minutes`, progress is exactly steps / `iterations`. With it, the number of steps left is
estimated from the time left and the duration of recent steps, and each step advances by an equal
fraction of the progress left. If the machine becomes slower, the run still ends in time, with the
learning rate decayed to its end.
"""

from __future__ import annotations

import collections
import time
from typing import Any

from bisenetv2_ros.training.recipe import Recipe

WINDOW = 20  # minimum number of recent steps that the duration of a step is estimated from


class Schedule:
    """Tracks the progress of a run, 0..1, and whether it is over.

    Args:
        recipe: its `iterations` are the maximum number of steps.
        done: steps done before the run was resumed.
        kept: what `capture` returned before.
    """

    def __init__(self, recipe: Recipe, done: int = 0, kept: dict[str, Any] | None = None) -> None:
        kept = kept or {}
        self._recipe = recipe
        self.done = done
        self.progress = float(kept.get("progress", done / recipe.iterations))
        self._before = float(kept.get("seconds", 0.0))
        self._began = time.monotonic()
        # long enough to include the time of a validation
        self._ends = collections.deque([self._began], max(WINDOW, recipe.validate_every) + 1)

    @property
    def over(self) -> bool:
        """Whether no steps are left."""
        return self.progress >= 1

    def steps_left(self) -> int:
        """Return an estimate of the steps left."""
        left = self._recipe.iterations - self.done
        if self.over or not self._recipe.minutes:
            return 0 if self.over else left
        steps = len(self._ends) - 1
        if not steps:
            return left
        pace = (self._ends[-1] - self._ends[0]) / steps
        return max(0, min(left, int(self.seconds_left() / max(pace, 1e-9))))

    def seconds_left(self) -> float:
        """Return the time left of the recipe's minutes; negative if they are over."""
        used = self._before + self._ends[-1] - self._began
        return 60 * self._recipe.minutes - used

    def advance(self) -> None:
        """Record the end of a step."""
        self.done += 1
        self._ends.append(time.monotonic())
        if not self._recipe.minutes:
            self.progress = self.done / self._recipe.iterations
        elif left := self.steps_left():
            self.progress += (1 - self.progress) / (1 + left)
        else:
            self.progress = 1.0

    def capture(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON values."""
        if not self._recipe.minutes:
            return {}
        used = self._before + self._ends[-1] - self._began
        return {"progress": self.progress, "seconds": used}
