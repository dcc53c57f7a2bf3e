"""`bisenetv2 build-engine`: builds the TensorRT engines of a model in advance."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli.options import renamed

if TYPE_CHECKING:
    from bisenetv2_ros.backends import BatchProfile
    from bisenetv2_ros.backends.engine_target import Target
    from bisenetv2_ros.model_file import ModelFile

_SHOWN = "8.9"  # compute capability whose kernels a report lists, of several


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
The node builds its engines itself if they are missing, and caches them below $XDG_CACHE_HOME or
~/.cache, in bisenetv2_ros/engines. Build them in advance on the machine that will run them: engines
are specific to its GPU and TensorRT version. Ctrl-C stops immediately and leaves nothing.

Without a GPU, TensorRT for RTX still builds, which only shows that it accepts the model.

examples:
  bisenetv2 build-engine my_model.onnx
  bisenetv2 build-engine my_model.onnx --batch 1,4,4        for a node with four cameras
  bisenetv2 build-engine bisenetv2_camvid_640x480_float32 --precision float16
  bisenetv2 build-engine --report                           kernels of the package's models
"""
    parser.add_argument(
        "model",
        nargs="?",
        default="",
        help="model file, folder or name, as in the node's parameter (default: the package's)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        help="precision to build (default: the one the node uses). float16 of a float32 model "
        "first writes the float16 file beside it; run the node with that file",
    )
    parser.add_argument(
        "--batch",
        type=_batch,
        metavar="MIN,OPT,MAX",
        default="1,1,1",
        help="batch sizes (default: %(default)s, for one camera; for N cameras, up to 8, the node "
        "needs 1,N,N)",
    )
    parser.add_argument("--device", default="", help="cuda:N (default: the first GPU)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="print tables of the kernels and keep no engine: each precision of the model, for "
        "this GPU, or without a GPU for all those that TensorRT for RTX supports",
    )


def _batch(text: str) -> BatchProfile:
    from bisenetv2_ros.backends.base import BatchProfile

    try:
        minimum, optimum, maximum = map(int, text.split(","))
        return BatchProfile(minimum, optimum, maximum)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected three numbers MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX"
        ) from None


def run(args: argparse.Namespace) -> int:
    """Build the missing engines and print where they are."""
    from bisenetv2_ros.backends import BackendUnavailable

    signal.signal(signal.SIGTERM, _end)
    try:
        return _report(args) if args.report else _build(args)
    except (BackendUnavailable, ValueError) as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        print(f"bisenetv2 build-engine: error: {error}", file=sys.stderr)
        return 1


def _build(args: argparse.Namespace) -> int:
    from bisenetv2_ros.backends.engine_builder import build_engines
    from bisenetv2_ros.backends.engine_cache import obtain

    target = _target(args.device)
    model = _model(args.model, args.precision)
    started = time.monotonic()
    built = False
    with _progress() as show:

        def build() -> dict[str, bytes]:
            nonlocal built
            built = True
            return build_engines(model, target, args.batch, show)

        engines, file = obtain(target.key(model, args.batch), build, show)
    print(
        f"{model.name} ({model.info.precision}) for {target.library} {target.version}, "
        f"{target.gpu or 'no GPU'}"
    )
    for name, engine in engines.items():
        print(f"  {name}: {len(engine) / 1e6:.1f} MB")
    how = f"built in {time.monotonic() - started:.1f} s" if built else "already there"
    print(f"{how}: {file or 'not kept'}")
    if not target.gpu:
        print("no GPU here: where there is one, the node builds for that")
    return 0


def _report(args: argparse.Namespace) -> int:
    from bisenetv2_ros.backends.engine_builder import describe_engines
    from bisenetv2_ros.backends.engine_layers import HEAD, layer_table, read_layers, summary_row
    from bisenetv2_ros.backends.engine_target import load_library
    from bisenetv2_ros.backends.engine_target import supported_compute_capabilities as supported

    target = _target(args.device)
    capabilities = [target.compute_capability] if target.gpu else supported(load_library())
    tables = []
    batch = ",".join(map(str, dataclasses.astuple(args.batch)))
    print(
        f"Engines for masks alone, built by {target.library} {target.version} for "
        f"{target.gpu or 'no GPU in particular'}, batch {batch}:\n"
    )
    print(HEAD)
    for model in _models(args.model, args.precision):
        for capability in capabilities:
            wanted = dataclasses.replace(target, compute_capability=capability)
            with _progress() as show:
                texts = describe_engines(model, wanted, args.batch, show)
            layers = read_layers(texts["mask"])
            print(summary_row(model.info.precision, capability, layers))
            if capability == (_SHOWN if _SHOWN in capabilities else capabilities[-1]):
                title = f"{model.name} ({model.info.precision}), compute capability {capability}"
                tables.append(f"{title}:\n\n{layer_table(layers)}")
    print("", *tables, sep="\n\n")
    return 0


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _target(device: str) -> Target:
    """The target for this GPU, or without one if the library allows."""
    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.backends.cuda import Gpu
    from bisenetv2_ros.backends.engine_target import Target, library_name, load_library, target_of

    library = load_library()
    try:
        gpu = Gpu(device)
    except BackendUnavailable:
        if device or library_name(library) != "tensorrt_rtx":
            raise
        return Target(library_name(library), library.__version__)
    return target_of(library, gpu)


def _model(name: str, precision: str | None) -> ModelFile:
    """The file that the node would use, or the one of a given precision."""
    from bisenetv2_ros.backends import model_for
    from bisenetv2_ros.model_file import model_files, model_path, read_model_file

    files = model_files(name)
    if precision in files:
        return read_model_file(files[precision])
    suiting = model_for(name, "tensorrt")
    if precision is None or suiting.info.precision == precision:
        return suiting
    return _in_precision(read_model_file(model_path(name, "tensorrt")), precision)


def _models(name: str, precision: str | None) -> Iterator[ModelFile]:
    """The models of a report: all precisions, unless a file or a precision is named."""
    from bisenetv2_ros.model_file import PRECISIONS, model_files

    files = model_files(name)
    if precision or "" in files:
        yield _model(name, precision)
        return
    for one in PRECISIONS:
        if one in files or (one == "float16" and "float32" in files):
            yield _model(name, one)


def _in_precision(model: ModelFile, precision: str) -> ModelFile:
    """The model file of that precision; float16 is made from float32 if needed."""
    if (model.info.precision, precision) != ("float32", "float16"):
        how = "make one by `bisenetv2 quantize`" if precision == "int8" else "name a float32 file"
        raise UserError(f"{model.path} is {model.info.precision}, not {precision}: {how}")
    from bisenetv2_ros.convert.float16 import write_half_model
    from bisenetv2_ros.model_file import read_model_file

    path = model.path.with_stem(renamed(model.name, "float32", "float16"))
    if path.exists():
        raise UserError(f"{path} is there already: build that one, or move it away")
    write_half_model(model, path)
    print(f"{path}: written, {path.stat().st_size / 1e6:.1f} MB; give this file to the node")
    return read_model_file(path)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A status line for progress; nothing if the output is not a terminal."""
    from tqdm import tqdm

    with tqdm(total=0, bar_format="{desc}", leave=False, disable=None) as bar:
        yield bar.set_description_str
