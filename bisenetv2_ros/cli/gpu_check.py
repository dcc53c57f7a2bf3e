"""`bisenetv2 gpu-check`: runs every check that needs a GPU, in one command."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli.options import OutputFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
Checks the GPU, its driver and TensorRT with the package's models, one line of PASS or FAIL each, in
less than eight minutes. Attach the report to an issue; it names the machine's hardware. Exit code 0
if everything passed, otherwise 1.
"""
    parser.add_argument(
        "-o",
        "--output",
        action=OutputFile,
        default=Path("gpu_check.txt"),
        metavar="FILE",
        help="file for the report (default: %(default)s)",
    )
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="NAME",
        help="run only this part (may be repeated; default: all)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the parts; 0 if all checks passed."""
    import os

    from bisenetv2_ros.benchmark.gpu_check import ENVIRONMENT, PARTS, run_all, run_part

    for name in args.part:
        if name not in PARTS:
            raise UserError(f"part '{name}' is unknown, expected one of {', '.join(PARTS)}")
    if ENVIRONMENT in os.environ:  # the process of a part
        return min(1, sum(run_part(name) for name in args.part))
    return 0 if run_all(args.output, args.part or list(PARTS)) else 1
