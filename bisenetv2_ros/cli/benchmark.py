"""`bisenetv2 benchmark`: times a frame, the ROS graph, or a training step on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bisenetv2_ros.cli import UserError, positive_float, positive_int
from bisenetv2_ros.cli.options import (
    OutputFile,
    picture_size,
    refuse_overwriting,
    sample_frames,
    set_up_private_graph,
)
from bisenetv2_ros.files.paths import naming, replacing

if TYPE_CHECKING:
    from bisenetv2_ros.benchmark.case import Case, Result
    from bisenetv2_ros.model_file import ModelFile

PICTURES = 8  # used in rotation
GRAPH_PICTURES = 4
TRANSPORTS = ("raw", "compressed")

EPILOG = """\
Runs every model on every backend, each in its own process; the processes take turns, a few frames
at a time. Three references run the same way for each network that has a float32 file:
  plain    a common export of the same weights: float32 in ONNX Runtime; the caller normalizes
           the frame and takes the argmax of the full-size logits
  nncf     the plain model, quantized by NNCF and run by OpenVINO (if NNCF is installed)
  torch    the network in torch eager, with random weights, which take the same time

A model file is compared with the references of the float32 file of the same name (except for the
precision), or if there is none, of the only float32 file of its input size.

Times are medians in milliseconds. CPU is the time of all threads together, peak MB that of the
whole process. mIoU is on CamVid val, as stated in the model file; if val was trained on, none is.
  decode   camera message to pixels
  resize   to the network's size, and the class counts
  network  the backend, from normalization to logits
  tail     upsampling and argmax: the difference to the same graph without them, run in turn
  message  mask to message (without ROS, a copy)

examples:
  bisenetv2 benchmark                                    the package's models, every backend
  bisenetv2 benchmark street.onnx --backend openvino --threads 2 --json street.json
  bisenetv2 benchmark --size 1024x512                    the same weights at another size
  bisenetv2 benchmark --backend openvino --frame-size 1280x720 --camera-size
  bisenetv2 benchmark --checkpoint runs/camvid_cpu       torch with a run's weights
  bisenetv2 benchmark my_float16.onnx my_float32.onnx --device cuda --frames 5000 \\
      --checkpoint runs/mine                             on a GPU, as the BiSeNetV2 paper measures
  bisenetv2 benchmark --training --config camvid_cpu     a training step and its baseline
  bisenetv2 benchmark --graph                            camera, node and listener over ROS
  bisenetv2 benchmark --graph --sizes 640x480 1920x1080 --cameras 1 2 4 --seconds 5 --runs 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    _add_frame_options(parser)
    _add_graph_options(parser.add_argument_group("the ROS graph instead of frames alone"))
    _add_training_options(parser.add_argument_group("training steps instead of frames"))


def _add_frame_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", help="model files or names (default: all in the package's models/)"
    )
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="inference runtime, may be repeated (default: all that are installed)",
    )
    parser.add_argument("--device", default="", help="device as the backend names it")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads (default: one per core)"
    )
    parser.add_argument(
        "--size",
        type=picture_size,
        metavar="WxH",
        help="input size of the networks, multiples of 32 (default: each model's own)",
    )
    parser.add_argument(
        "--camera-size",
        action="store_true",
        help="also measure masks at the frames' size, the node's default",
    )
    parser.add_argument(
        "--source",
        default="synthetic",
        help="frames: folder, 'glob', video or synthetic (default: %(default)s)",
    )
    parser.add_argument(
        "--frame-size",
        type=picture_size,
        metavar="WxH",
        help="resize the frames to this size (default: their own)",
    )
    parser.add_argument(
        "--frames",
        type=positive_int,
        default=100,
        metavar="N",
        help="frames per model and backend (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="also measure this run in torch: eager, and on a GPU also compiled, both in float16",
    )
    parser.add_argument(
        "--json", action=OutputFile, metavar="FILE", help="write all figures to FILE"
    )
    parser.add_argument(
        "--plot",
        action=OutputFile,
        suffixes=(".png", ".jpg", ".svg", ".pdf"),
        metavar="FILE",
        help="plot the stages, and accuracy over latency if the models state it",
    )


def _add_graph_options(graph: argparse._ArgumentGroup) -> None:
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


def _add_training_options(training: argparse._ArgumentGroup) -> None:
    training.add_argument(
        "--training", action="store_true", help="measure a training step (needs torch)"
    )
    training.add_argument("--config", default="camvid_cpu", help="recipe (default: %(default)s)")
    training.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the recipe, such as batch_size=4 (may be repeated)",
    )
    training.add_argument(
        "--rounds", type=positive_int, default=5, metavar="N", help="timed steps (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    for path in filter(None, (args.json, args.plot)):
        refuse_overwriting(path, *map(Path, args.models), Path(args.source))
    if args.graph:
        return _graph(args)
    return _training(args) if args.training else _frames(args)


def _frames(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from bisenetv2_ros.backends import BACKENDS
    from bisenetv2_ros.benchmark.case import REFERENCES
    from bisenetv2_ros.benchmark.frames import TURN, measure
    from bisenetv2_ros.benchmark.frames_report import (
        as_json,
        roofline_table,
        table,
        write_plot,
    )
    from bisenetv2_ros.benchmark.machine import machine_line
    from bisenetv2_ros.resize import resize_image

    unknown = sorted(set(args.backend or ()) - set(BACKENDS))
    if unknown:
        raise UserError(f"backend '{unknown[0]}' is unknown, expected {', '.join(BACKENDS)}")
    with tempfile.TemporaryDirectory() as directory:
        try:
            cases = _cases(args, Path(directory))
            images = sample_frames(args.source, PICTURES, "--source")
            if args.frame_size:
                images = [resize_image(image, args.frame_size) for image in images]
            turns = -(-args.frames // TURN) * len(cases)
            with tqdm(total=turns, unit="turn", leave=False, disable=None) as bar:
                results, skipped = measure(cases, images, args.frames, bar.update)
            rooflines, rates = _rooflines(results)
        except ValueError as error:
            raise UserError(str(error)) from error
    if all(result.case.backend in REFERENCES for result in results):
        raise UserError("; ".join(dict.fromkeys(skipped)))

    height, width = images[0].shape[:2]
    print(machine_line())
    print(f"{args.frames} frames of {width}x{height}, medians in ms\n")
    print(table(results))
    if lines := roofline_table(results, rooflines):
        print(f"\n{lines}")
        for rate in rates:
            print(f"roofline: {rate}")
    for reason in dict.fromkeys(skipped):
        print(f"skipped: {reason}")
    content = as_json(results, skipped)
    content["roofline_ms"] = {
        f"{path.stem} on {backend}": 1e3 * roofline
        for (path, backend), roofline in rooflines.items()
    }
    _write_json(args.json, content)
    if args.plot:
        _plot(lambda path: write_plot(results, path), args.plot)
    return 0


def _cases(args: argparse.Namespace, directory: Path) -> list[Case]:
    """Every model on every backend, then the references; writes model variants to `directory`."""
    from bisenetv2_ros.backends import BACKENDS
    from bisenetv2_ros.benchmark.case import NNCF, PLAIN, TORCH, TORCH_COMPILE, Case
    from bisenetv2_ros.benchmark.model_variants import resized, without_tail

    cases, float32 = [], []
    for number, model in enumerate(_models(args.models)):
        folder = directory / str(number)  # models may have the same name
        folder.mkdir()
        if args.size:
            model = resized(model, args.size, folder)
        shorter = without_tail(model, folder)
        end = shorter.path if shorter else None
        cases += [
            Case(model.path, backend, args.device, args.threads, end)
            for backend in args.backend or BACKENDS
        ]
        if model.info.precision == "float32" and shorter:
            float32.append(model.path)
    if args.camera_size:
        cases += [dataclasses.replace(case, camera_size=True) for case in cases]
    cases += [Case(path, way, threads=args.threads) for path in float32 for way in (PLAIN, NNCF)]
    on_gpu = args.device.lower().startswith("cuda")
    return cases + [
        Case(path, way, args.device if on_gpu else "", args.threads)
        for path in ([args.checkpoint] if args.checkpoint else float32)
        for way in ((TORCH, TORCH_COMPILE) if on_gpu else (TORCH,))
    ]


def _graph(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.benchmark.machine import machine_line
    from bisenetv2_ros.benchmark.ros_graph import GraphError, Plan, measure_graph
    from bisenetv2_ros.benchmark.ros_graph_report import as_json, overload_lines, table, write_plot
    from bisenetv2_ros.model_file import model_path

    importlib.import_module("rclpy")  # fails here with a one-line error
    set_up_private_graph("benchmark")
    try:
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
        pictures = sample_frames(args.source, GRAPH_PICTURES, "--source")
        with tqdm(total=plan.measurements, leave=False, disable=None) as bar:
            report = measure_graph(plan, pictures, bar.update)
    except (ValueError, GraphError, BackendUnavailable) as error:
        raise UserError(str(error)) from error
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
    _write_json(args.json, as_json(report))
    if args.plot:
        _plot(lambda path: write_plot(report, path), args.plot)
    return 0


def _plot(draw: Callable[[Path], None], path: Path) -> None:
    try:
        with naming(path), replacing(path) as partial:
            draw(partial)
    except ModuleNotFoundError as error:
        raise UserError(f"--plot needs {error.name}: run `pip install matplotlib`") from error


def _rooflines(results: list[Result]) -> tuple[dict[tuple[Path, str], float], list[str]]:
    """The roofline of each model on each backend, and the measured rates."""
    from bisenetv2_ros.backends.base import available_cores
    from bisenetv2_ros.benchmark.case import REFERENCES
    from bisenetv2_ros.benchmark.roofline import (
        Rates,
        measure_cpu,
        measure_gpu,
        roofline_seconds,
        work_of,
    )

    rates: dict[str, Rates | None] = {}
    rooflines = {}
    for result in results:
        case = result.case
        on_cpu = case.device.upper() in ("", "CPU") and not result.device_seconds
        if case.backend in REFERENCES or not (on_cpu or result.device_seconds):
            continue
        work = work_of(case.path)
        if on_cpu and not work.multiply_adds:
            continue  # a CPU's roofline is that of multiply-adds alone
        kind = "GPU" if not on_cpu else "int8" if result.precision == "int8" else "float32"
        if kind not in rates:
            threads = case.threads or available_cores()
            rates[kind] = measure_cpu(kind, threads) if on_cpu else measure_gpu()
        if rate := rates[kind]:
            rooflines[case.path, case.backend] = roofline_seconds(work, rate)
    needed = {"GPU": "a torch that sees the GPU"}
    return rooflines, [
        str(rate) if rate else f"not measured: it takes {needed.get(kind, 'openvino')}"
        for kind, rate in rates.items()
    ]


def _models(names: list[str]) -> list[ModelFile]:
    from bisenetv2_ros.model_file import model_path, models_directory, read_model_file

    if names:
        return [read_model_file(model_path(name)) for name in names]
    paths = sorted(models_directory().glob("*.onnx"))
    if not paths:
        raise UserError(f"no models in {models_directory()}, expected *.onnx: name some")
    return [read_model_file(path) for path in paths]


def _training(args: argparse.Namespace) -> int:
    from bisenetv2_ros.benchmark import training_step as benchmark

    try:
        facts = benchmark.run(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    width, height = facts["crop"]
    print(
        f"{facts['recipe']}, batch {facts['batch_size']} of {width}x{height}, "
        f"{facts['precision']}, {facts['device']}, {facts['rounds']} rounds"
    )
    print(f"ours   {facts['images_per_second']:.2f} images/s")
    print(f"plain  {facts['plain_images_per_second']:.2f} images/s (float32, channels first)")
    print(f"ratio  {facts['ratio']:.2f}")
    _write_json(args.json, facts)
    return 0


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path:
        with naming(path), replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
