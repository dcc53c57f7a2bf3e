"""The command-line program `bisenetv2`: one module a verb, table of verbs in `main.py`.

A verb module has two functions: `add_arguments(parser)` declares its options, `run(args)` does the
work and returns the exit code. This file holds what all verbs share and imports nothing heavy.
"""

from __future__ import annotations


class UserError(Exception):
    """What the user gave cannot be used; shown as `bisenetv2 VERB: error: MESSAGE`, exit code 2.

    The message is one line: what was received, what was expected, and where.
    """
