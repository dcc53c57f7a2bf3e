"""The command-line program `bisenetv2`: one module per verb; `verbs.py` has the table of verbs.

A verb module has two functions: `add_arguments(parser)` declares its options, `run(args)` does the
work and returns the exit code. This file has what all verbs share and imports nothing heavy.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class UserError(Exception):
    """Invalid user input; shown as `bisenetv2 VERB: error: MESSAGE`, exit code 2.

    The message is one line: what was received, what was expected, and where.
    """


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Raise errors of these kinds in the block as UserError, with the same message."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from error


def positive_int(text: str) -> int:
    """Convert an option's value, for argparse's `type`."""
    with suppress(ValueError):
        if (value := int(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected at least 1, a whole number")


def positive_float(text: str) -> float:
    """Convert an option's value, for argparse's `type`."""
    with suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"got {text}, expected a number above 0")
