"""`bisenetv2 benchmark`: every stage of a frame, for every model and backend."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError, positive_int, user_errors
from bisenetv2_ros.cli.options import OutputFile, picture_size, plot, sample_frames
from bisenetv2_ros.files.paths import write_json

if TYPE_CHECKING:
    from bisenetv2_ros.benchmark.case import Case, Result
    from bisenetv2_ros.model_file import ModelFile

PICTURES = 8  # used in rotation


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of frames; some of them apply to the other kinds, too."""
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


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
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
    from bisenetv2_ros.benchmark.worker import WorkerLost
    from bisenetv2_ros.resize import resize_image

    unknown = sorted(set(args.backend or ()) - set(BACKENDS))
    if unknown:
        raise UserError(f"backend '{unknown[0]}' is unknown, expected {', '.join(BACKENDS)}")
    with tempfile.TemporaryDirectory() as directory, user_errors(ValueError, WorkerLost):
        cases = _cases(args, Path(directory))
        images = sample_frames(args.source, PICTURES, "--source")
        if args.frame_size:
            images = [resize_image(image, args.frame_size) for image in images]
        turns = -(-args.frames // TURN) * len(cases)
        with tqdm(total=turns, unit="turn", leave=False, disable=None) as bar:
            results, skipped = measure(cases, images, args.frames, bar.update)
        rooflines, rates = _rooflines(results)
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
    write_json(args.json, content)
    plot(lambda path: write_plot(results, path), args.plot)
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
