"""The long versions of some tests: `make soak` asks for them with BISENETV2_SOAK=1.

Tests that have one are marked `long_run`, which is what `make soak` selects.
"""

from __future__ import annotations

import os
from typing import TypeVar

Value = TypeVar("Value")

SOAK = os.environ.get("BISENETV2_SOAK") == "1"


def long_or_short(long: Value, short: Value) -> Value:
    """`long` under `make soak`, `short` under `make test`."""
    return long if SOAK else short
