"""How far a run is: by its steps, or with `minutes` by the clock as well.

Without `minutes`, progress after a step is steps over `iterations`, to the last bit. With it, each
step advances by an equal share of what is left, and how many steps are left follows from the time
left and the pace of the last ones. So a machine that becomes busy ends the run in time, with a
learning rate that has fallen to the end.
"""

from __future__ import annotations

import collections
import time
from typing import Any

from bisenetv2_ros.training.recipe import Recipe

WINDOW = 20  # steps, at least, whose pace is taken for that of the steps to come


class Schedule:
    """Progress of a run, 0..1; tells when it is over.

    Args:
        recipe: its `iterations` are the most steps that are taken.
        done: steps done before, of a run that is resumed.
        kept: what `capture` returned then.
    """

    def __init__(self, recipe: Recipe, done: int = 0, kept: dict[str, Any] | None = None) -> None:
        kept = kept or {}
        self._recipe = recipe
        self.done = done
        self.progress = float(kept.get("progress", done / recipe.iterations))
        self._before = float(kept.get("seconds", 0.0))
        self._began = time.monotonic()
        # a validation falls into the pace too
        self._ends = collections.deque([self._began], max(WINDOW, recipe.validate_every) + 1)

    @property
    def over(self) -> bool:
        """Whether no step is left."""
        return self.progress >= 1

    def steps_left(self) -> int:
        """Steps to come, as far as is known now."""
        left = self._recipe.iterations - self.done
        if self.over or not self._recipe.minutes:
            return 0 if self.over else left
        steps = len(self._ends) - 1
        if not steps:
            return left
        pace = (self._ends[-1] - self._ends[0]) / steps
        return max(0, min(left, int(self.seconds_left() / max(pace, 1e-9))))

    def seconds_left(self) -> float:
        """Time left of the recipe's minutes; negative after them."""
        used = self._before + self._ends[-1] - self._began
        return 60 * self._recipe.minutes - used

    def advance(self) -> None:
        """Count a step that has ended now."""
        self.done += 1
        self._ends.append(time.monotonic())
        if not self._recipe.minutes:
            self.progress = self.done / self._recipe.iterations
        elif left := self.steps_left():
            self.progress += (1 - self.progress) / (1 + left)
        else:
            self.progress = 1.0

    def capture(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values."""
        if not self._recipe.minutes:
            return {}
        used = self._before + self._ends[-1] - self._began
        return {"progress": self.progress, "seconds": used}
