"""`bisenetv2 build-engine`: TensorRT's engines of a model, ahead of the node's first start."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from bisenetv2_ros.backends import BatchProfile
    from bisenetv2_ros.backends.engine_builder import Target
    from bisenetv2_ros.model_file import ModelFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
The node builds its engines itself where they are missing, and keeps them below $XDG_CACHE_HOME or
~/.cache, in bisenetv2_ros/engines. Build them ahead on the machine that will run them: they are for
its GPU and its version of TensorRT. Ctrl-C stops at once and leaves nothing.

Without a GPU, TensorRT for RTX still builds: that shows that it takes the model, and no more.

examples:
  bisenetv2 build-engine my_model.onnx
  bisenetv2 build-engine my_model.onnx --batch 1,4,4        for a node with four cameras
  bisenetv2 build-engine bisenetv2_camvid_640x480_float32 --precision float16
"""
    parser.add_argument(
        "model", nargs="?", default="", help="model file or name (default: the package's)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        help="(default: the file's) float16 of a float32 file: first writes the float16 file "
        "beside it, which is then the one to run",
    )
    parser.add_argument(
        "--batch",
        type=_batch,
        metavar="MIN,OPT,MAX",
        default="1,1,1",
        help="images at once (default: %(default)s, for one camera; the node with N of them, up to "
        "8, asks for 1,N,N)",
    )
    parser.add_argument("--device", default="", help="cuda:N (default: the first GPU)")


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
    """Build what is not there yet, and say where it is."""
    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.backends.engine_builder import build_engines
    from bisenetv2_ros.backends.engine_cache import obtain
    from bisenetv2_ros.model_file import model_path, read_model_file

    signal.signal(signal.SIGTERM, _end)
    line = _Line()
    try:
        target = _target(args.device)
        model = _in_precision(read_model_file(model_path(args.model)), args.precision)
        started = time.monotonic()
        built = False

        def build() -> dict[str, bytes]:
            nonlocal built
            built = True
            return build_engines(model, target, args.batch, line.show)

        engines, file = obtain(target.key(model, args.batch), build, line.show)
    except (BackendUnavailable, ValueError) as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        line.clear()
        print(f"bisenetv2 build-engine: error: {error}", file=sys.stderr)
        return 1
    finally:
        line.clear()
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


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _target(device: str) -> Target:
    """For this GPU, or for none where the library can do without."""
    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.backends.cuda import Gpu
    from bisenetv2_ros.backends.engine_builder import Target, library_name, load_library

    library = load_library()
    name, version = library_name(library), library.__version__
    try:
        gpu = Gpu(device)
    except BackendUnavailable:
        if device or name != "tensorrt_rtx":
            raise
        return Target(name, version)
    return Target(name, version, gpu.name, gpu.compute_capability, gpu.multiprocessors, gpu.index)


def _in_precision(model: ModelFile, precision: str | None) -> ModelFile:
    """The model file of that precision, made if it is float16 of a float32 one."""
    if precision in (None, model.info.precision):
        return model
    if (model.info.precision, precision) != ("float32", "float16"):
        how = "make one by `bisenetv2 quantize`" if precision == "int8" else "name a float32 file"
        raise UserError(f"{model.path} is {model.info.precision}, not {precision}: {how}")
    from bisenetv2_ros.convert.float16 import write_half_model
    from bisenetv2_ros.model_file import read_model_file

    path = _half_path(model.path)
    if path.exists():
        raise UserError(f"{path} is there already: build that one, or move it away")
    write_half_model(model, path)
    print(f"{path}: written, {path.stat().st_size / 1e6:.1f} MB; give this file to the node")
    return read_model_file(path)


def _half_path(path: Path) -> Path:
    if "float32" in path.stem:
        return path.with_name(path.name.replace("float32", "float16"))
    return path.with_name(f"{path.stem}_float16{path.suffix}")


class _Line:
    """Progress on stderr: one line that changes in a terminal, elsewhere one every few seconds."""

    PERIOD = 5.0

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = -self.PERIOD if self._terminal else time.monotonic()
        self._text = ""

    def show(self, text: str) -> None:
        now = time.monotonic()
        if text == self._text or (not self._terminal and now - self._shown < self.PERIOD):
            return
        self._text, self._shown = text, now
        end = "" if self._terminal else "\n"
        print(f"\r\033[K{text}" if self._terminal else text, end=end, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal and self._text:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
