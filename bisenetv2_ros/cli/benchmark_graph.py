"""`bisenetv2 benchmark --graph`: camera, node and listener over ROS."""

from __future__ import annotations

import argparse
import importlib

from bisenetv2_ros.cli import positive_float, positive_int, user_errors
from bisenetv2_ros.cli.options import (
    picture_size,
    plot,
    sample_frames,
    set_up_private_graph,
)
from bisenetv2_ros.files.paths import write_json

PICTURES = 4  # used in rotation
TRANSPORTS = ("raw", "compressed")


def add_options(graph: argparse._ArgumentGroup) -> None:
    """Declare the options."""
    graph.add_argument(
        "--graph",
        action="store_true",
        help="measure camera, node and listener, with the first model, mask only (needs ROS)",
    )
    graph.add_argument(
        "--sizes",
        nargs="+",
        type=picture_size,
        default=[(1280, 720)],
        metavar="WxH",
        help="image sizes of the camera (default: 1280x720)",
    )
    graph.add_argument(
        "--transports",
        nargs="+",
        choices=TRANSPORTS,
        default=["raw"],
        help="image transports (default: raw)",
    )
    graph.add_argument(
        "--cameras",
        nargs="+",
        type=positive_int,
        default=[1, 4],
        metavar="N",
        help="numbers of cameras (default: 1 4)",
    )
    graph.add_argument(
        "--rates",
        nargs="+",
        type=positive_float,
        default=[10.0, 30.0, 60.0],
        metavar="HZ",
        help="frame rates of one camera; several cameras run at the first (default: 10 30 60)",
    )
    graph.add_argument(
        "--seconds",
        type=positive_float,
        default=3.0,
        metavar="S",
        help="duration of each measurement (default: 3)",
    )
    graph.add_argument(
        "--runs",
        type=positive_int,
        default=1,
        metavar="N",
        help="repetitions; from 3 on, the best and the worst are left out (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from tqdm import tqdm

    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.benchmark.machine import machine_line
    from bisenetv2_ros.benchmark.ros_graph import GraphError, Plan, measure_graph
    from bisenetv2_ros.benchmark.ros_graph_report import as_json, overload_lines, table, write_plot
    from bisenetv2_ros.benchmark.worker import WorkerLost
    from bisenetv2_ros.model_file import model_path

    importlib.import_module("rclpy")  # fails here with a one-line error
    set_up_private_graph("benchmark")
    with user_errors(ValueError, GraphError, WorkerLost, TimeoutError, BackendUnavailable):
        plan = Plan(
            model_path(args.models[0] if args.models else ""),
            args.backend[0] if args.backend else "auto",
            args.device,
            args.threads,
            tuple(args.sizes),
            tuple(args.transports),
            tuple(args.cameras),
            tuple(args.rates),
            args.seconds,
            args.runs,
        )
        pictures = sample_frames(args.source, PICTURES, "--source")
        with tqdm(total=plan.measurements, leave=False, disable=None) as bar:
            report = measure_graph(plan, pictures, bar.update)
    print(machine_line())
    print(
        f"{plan.model.stem} on {report.runs_on}, mask only, frames of {args.source}; "
        f"first mask {report.first_mask:.2f} s after the node's start"
    )
    print(
        f"{plan.runs} x {plan.seconds:g} s each; medians and p99 in ms from stamp to mask, "
        "CPU in % of a core\n"
    )
    print(table(report), *overload_lines(report), sep="\n")
    write_json(args.json, as_json(report))
    plot(lambda path: write_plot(report, path), args.plot)
    return 0
