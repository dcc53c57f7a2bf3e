"""What others read of the node: the example for Nav2's semantic layer, the Foxglove layout.

The layer (kiwicampus/semantic_segmentation_layer, src/segmentation_buffer.cpp and
src/semantic_segmentation_layer.cpp) reads data[v * width + u] of mask and confidence whatever step
and encoding say, drops a mask without as many pixels as the cloud has points, pairs by equal
stamps, and wants every class of label_info in its parameters.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_model import tiny_answer, tiny_info, write_tiny_model

from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.model_file import model_path, read_model_file
from bisenetv2_ros.node.parameters import FIELDS, problem
from bisenetv2_ros.outputs import output_topic

CONFIG = Path(__file__).resolve().parent.parent / "config"
NAV2 = CONFIG / "nav2_semantic_layer.yaml"


class TestNav2:
    document = yaml.safe_load(NAV2.read_text())
    node = document["/**/segment"]["ros__parameters"]
    layer = document["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_layer"]
    source = layer[layer["observation_sources"]]

    def test_the_node_s_part_has_parameters_of_the_node(self):
        assert [problem(FIELDS[name], value) for name, value in self.node.items()] == [None, None]

    def test_topics_are_the_node_s(self):
        (camera,) = self.node["cameras"]
        assert self.source["segmentation_topic"] == output_topic(camera, "mask")
        assert self.source["confidence_topic"] == output_topic(camera, "confidence")
        assert self.source["labels_topic"] == output_topic(camera, "label_info")

    def test_every_class_of_the_default_model_has_its_cost_once(self):
        named = [
            name for kind in self.source["class_types"] for name in self.source[kind]["classes"]
        ]
        names = read_model_file(model_path()).info.labels.names
        assert sorted(named) == sorted(names)
        for kind in self.source["class_types"]:
            group = self.source[kind]
            assert 0 <= group["base_cost"] <= group["max_cost"] <= 254
            assert 0 <= group["mark_confidence"] <= 255

    def test_what_the_layer_reads(self, tmp_path):
        """The node with the example's own file, as the layer sees it."""
        pytest.importorskip("rclpy", reason="needs a ROS 2")
        pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from ros_graph import Program, graph, image_message
        from sensor_msgs.msg import Image

        # A width that invites padding, and neither side the network's.
        size = (101, 67)
        model = write_tiny_model(tmp_path / "tiny.onnx", tiny_info((96, 64)))
        words = ["--params-file", str(NAV2), "-p", f"model:={model}", "-p", "backend:=onnxruntime"]
        program = Program(["segment", "--ros-args", *words], tmp_path / "segment.log")
        frame = np.zeros((size[1], size[0], 3), np.uint8)
        frame[:, 50:, :2] = 16 * 5, 200
        sensor_data = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        try:
            with graph() as ros:
                read = {
                    name: ros.collect(Image, self.source[f"{name}_topic"], sensor_data)
                    for name in ("segmentation", "confidence")
                }
                camera = ros.node.create_publisher(Image, self.node["cameras"][0], 10)

                def step() -> bool:
                    camera.publish(image_message(frame, stamp=(12, 345678901)))
                    return ros.spin_until(lambda: all(read.values()), 0.1)

                assert ros.spin_until(step), program.output
        finally:
            program.end()
        answers = dict(zip(("segmentation", "confidence"), tiny_answer(frame[None]), strict=True))
        for name, (message, *_) in read.items():
            assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345678901)
            assert message.width * message.height == size[0] * size[1]  # points of the cloud
            assert len(message.data) == message.width * message.height  # one byte each, no padding
            assert message.encoding == "mono8"
            for v, u in ((0, 0), (66, 0), (0, 100), (66, 100), (33, 20), (33, 80)):
                assert message.data[v * size[0] + u] == answers[name][0, v, u], (name, v, u)


class TestFoxglove:
    """Panels and topics fit each other. Lichtblick 1.28.1 opened the file without errors."""

    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())

    def panels(self, part) -> list[str]:
        if isinstance(part, str):
            return [part]
        assert part["direction"] in ("row", "column")
        return self.panels(part["first"]) + self.panels(part["second"])

    def test_every_panel_is_placed_once(self):
        assert sorted(self.panels(self.layout["layout"])) == sorted(self.layout["configById"])

    def test_pictures_are_outputs_of_the_node(self):
        shown = {
            panel["imageMode"]["imageTopic"]
            for name, panel in self.layout["configById"].items()
            if name.startswith("Image!")
        }
        outputs = {output_topic("/image_raw", name) for name in ("overlay", "color_mask")}
        assert shown == {"/image_raw"} | outputs

    def test_every_panel_but_the_diagnostics_has_a_title(self):
        for name, panel in self.layout["configById"].items():
            titles = {panel.get("foxglovePanelTitle"), panel.get("lichtblickPanelTitle")}
            assert len(titles) == 1, name
            assert titles != {None} or name.startswith("Diagnostic"), name

    def test_plots_are_fields_of_the_message(self):
        fields = (CONFIG.parent / "msg" / "ClassFractions.msg").read_text()
        nested = (CONFIG.parent / "msg" / "ClassFraction.msg").read_text()
        topic = output_topic("/image_raw", "class_fractions")
        paths = [
            path["value"]
            for name, panel in self.layout["configById"].items()
            if name.startswith("Plot!")
            for path in panel["paths"]
        ]
        assert len(paths) == 5
        region = r'(?:regions\[:\]\{name=="\w+"\}\.)?'  # which has the same field
        for path in paths:
            match = re.fullmatch(
                rf'{re.escape(topic)}\.{region}(\w+)(?:\[:\]\{{class_name=="(\w+)"\}}\.(\w+))?',
                path,
            )
            assert match, path
            assert re.search(rf"^\S+ +{match[1]} ", fields, re.MULTILINE)
            if match[2]:
                assert match[2] in CAMVID.names
                assert re.search(rf"^\S+ +{match[3]} ", nested, re.MULTILINE)
