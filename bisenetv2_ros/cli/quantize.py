"""`bisenetv2 quantize`: makes an int8 model file from a float32 one."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import UserError, positive_int
from bisenetv2_ros.cli.options import (
    add_conversion_options,
    calibration_frames,
    refuse_overwriting,
    renamed,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
Calibrates on the given frames. Use a few dozen that cover all scenes the model is meant for, but no
frames that you score it on. The float32 file's scores do not apply to the int8 file:
evaluate it, and pass its scores with --metric.

example:
  bisenetv2 quantize bisenetv2_camvid_640x480_float32.onnx --data data/camvid/train/images
"""
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="folder, video or 'glob' of frames"
    )
    parser.add_argument(
        "--frames",
        type=positive_int,
        default=48,
        metavar="N",
        help="number of frames, spread over the source (default: %(default)s)",
    )
    parser.add_argument(
        "--for-tensorrt",
        action="store_true",
        help="quantize for the layer fusion of TensorRT (not TensorRT for RTX) instead of CPUs",
    )
    add_conversion_options(
        parser,
        "float32 model file",
        "the model's name with int8 instead of float32, or with _int8 at its end; beside the "
        "model, or in the current folder for the package's models",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize, compare, and print how well int8 agrees with float32."""
    from bisenetv2_ros.convert.int8 import QuantizationError, quantize_model
    from bisenetv2_ros.model_file import model_path

    try:
        model = model_path(args.model)
        # The package's models are named without a folder; theirs is not written to.
        folder = model.parent if model == Path(args.model) else Path()
        path = args.output or folder / f"{renamed(model.stem, 'float32', 'int8')}.onnx"
        refuse_overwriting(path, model, Path(args.data))
        frames = calibration_frames(args.data, args.frames, "--data")
        agreement = quantize_model(
            model, path, frames, dict(args.metric), for_tensorrt=args.for_tensorrt
        )
    except (ValueError, QuantizationError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, measured on {len(frames)} frames")
    for backend, fraction in agreement.items():
        print(f"{backend}: {fraction:.2%} of the pixels have the float32 file's class")
    return 0
