"""`bisenetv2 benchmark`: times a frame, the ROS graph, or a training step on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import benchmark_frames, benchmark_graph, benchmark_training
from bisenetv2_ros.cli.options import refuse_overwriting

EPILOG = """\
Runs every model on every backend, each in its own process; the processes take turns, a few frames
at a time. Three references run the same way for each network that has a float32 file:
  plain    a common export of the same weights: float32 in ONNX Runtime; the caller normalizes
           the frame and takes the argmax of the full-size logits
  nncf     the plain model, quantized by NNCF and run by OpenVINO (if NNCF is installed)
  torch    the network in torch eager; its weights are random, which does not change the time

The int8 and float16 files of a network share the references of its float32 file: NAME_float32, or
else the only float32 file with the same input size.

Times are medians in milliseconds. CPU is the time of all threads together, peak MB that of the
process. mIoU is on CamVid val, as stated in the model file ('-' if it was trained on val).
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
    benchmark_frames.add_options(parser)
    benchmark_graph.add_options(parser.add_argument_group("the ROS graph instead of frames alone"))
    benchmark_training.add_options(parser.add_argument_group("training steps instead of frames"))


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    for path in filter(None, (args.json, args.plot)):
        refuse_overwriting(path, *map(Path, args.models), Path(args.source))
    if args.graph:
        return benchmark_graph.run(args)
    return benchmark_training.run(args) if args.training else benchmark_frames.run(args)
