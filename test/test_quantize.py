"""int8 model files: the form every runtime takes, and the promise that masks hardly change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tiny_model import tiny_info, write_tiny_model

pytest.importorskip("torch", reason="torch is not installed")

from int8 import needs_int8
from small_network import SIZE, small_network, street_frames

from bisenetv2_ros.backends import onnxruntime
from bisenetv2_ros.convert import int8 as quantize
from bisenetv2_ros.convert.int8 import QuantizationError, quantize_model
from bisenetv2_ros.model_file import read_model_file
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.training.export import export_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, float]]:
    """A float32 file, the int8 file made of it, and their agreement."""
    directory = tmp_path_factory.mktemp("models")
    float32, int8 = directory / "small_float32.onnx", directory / "small_int8.onnx"
    export_model(small_network(), tiny_info(SIZE), float32, street_frames(1))
    with pytest.MonkeyPatch.context() as patch:  # random weights have no margin between classes
        patch.setattr(quantize, "REQUIRED_AGREEMENT", 0.6)
        agreement = quantize_model(float32, int8, street_frames(8), {"mIoU": 0.25})
    assert sorted(directory.iterdir()) == [float32, int8], "left something behind"
    return float32, int8, agreement


@needs_int8
def test_masks_hardly_change(files: tuple[Path, Path, dict[str, float]]):
    float32, int8, agreement = files
    assert agreement.keys() == {"onnxruntime", "openvino"}
    for backend, share in agreement.items():
        assert 0.6 <= share < 1, "no pixel of a random network changed: was it quantised?"
        with (
            Segmenter(float32, backend=backend) as exact,
            Segmenter(int8, backend=backend) as quick,
        ):
            equal = [np.mean(exact(frame).mask == quick(frame).mask) for frame in street_frames(8)]
        assert np.mean(equal) == pytest.approx(share, abs=0.002)


@needs_int8
def test_metadata(files: tuple[Path, Path, dict[str, float]]):
    float32, int8, _ = files
    before, after = read_model_file(float32).info, read_model_file(int8).info
    assert after.precision == "int8"
    assert before.metrics == {"mIoU camvid val": 0.5}, "the float32 file has scores of its own"
    assert after.metrics == {"mIoU": 0.25}
    assert after.labels == before.labels and after.input_size == before.input_size


@needs_int8
def test_heavy_convolutions_are_int8_and_the_rest_is_float(
    files: tuple[Path, Path, dict[str, float]],
):
    nodes = onnx.load(files[1]).graph.node
    restored = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    quantised = {node.name for node in convolutions if node.input[1] in restored}
    for node in convolutions:
        if node.name in quantised:
            assert node.input[0] in restored, "int8 weights on float pixels"
            assert not restored.intersection(node.input[2:]), "the bias is quantised"
    groups = {
        node.name: next(a.i for a in node.attribute if a.name == "group") for node in convolutions
    }
    assert {name for name in groups if name not in quantised} == {
        *(name for name, group in groups.items() if group > 1),
        *(name for name in groups if "/semantic/stem/" in name),
        "/network/head/head.2/Conv",
    }
    for node in nodes:
        if not node.name.startswith("/network/"):
            assert not restored & set(node.input) or node.op_type == "QuantizeLinear", node.name


@needs_int8
def test_for_tensorrt_nothing_stands_between_a_convolution_and_what_it_is_fused_with(
    files: tuple[Path, Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantize, "REQUIRED_AGREEMENT", 0.6)
    path = tmp_path / "for_tensorrt.onnx"
    agreement = quantize_model(files[0], path, street_frames(8), for_tensorrt=True)
    assert min(agreement.values()) >= min(files[2].values()) - 0.05

    def between(file: Path) -> int:
        nodes = onnx.load(file).graph.node
        maker = {node.output[0]: node for node in nodes}
        restored = [
            maker[name]
            for node in nodes
            if node.op_type != "Conv"
            for name in node.input
            if name in maker and maker[name].op_type == "DequantizeLinear"
        ]
        quantized = [maker[node.input[0]] for node in restored if node.input[0] in maker]
        return sum(maker[node.input[0]].op_type == "Conv" for node in quantized)

    def heavy(file: Path) -> int:
        nodes = onnx.load(file).graph.node
        restored = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        return sum({*node.input[:2]} <= restored for node in nodes if node.op_type == "Conv")

    def additions(file: Path) -> list[list[str]]:
        """What makes the inputs of those additions that have one from a convolution."""
        nodes = onnx.load(file).graph.node
        maker = {output: node.op_type for node in nodes for output in node.output}
        made = [sorted(maker[name] for name in n.input) for n in nodes if n.op_type == "Add"]
        return [inputs for inputs in made if "Conv" in inputs]

    assert between(path) == 0 < between(files[1])
    assert additions(files[1]) == []
    both, other = ["Conv", "Conv"], ["Conv", "DequantizeLinear"]
    found = additions(path)
    assert found.count(both) == 3, "of the first block of each stage"
    assert found.count(other) == len(found) - 3 >= 3, "the other input is quantized"
    assert heavy(path) == heavy(files[1]) > 20


@needs_int8
def test_scales_are_symmetric_and_weights_per_channel(
    files: tuple[Path, Path, dict[str, float]],
):
    """TensorRT takes no zero points and no uint8."""
    graph = onnx.load(files[1]).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = 0
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = tensors[node.input[2]]
            assert zero_point.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero_point).any()
            if node.input[0] in tensors:
                weights += 1
                scale = numpy_helper.to_array(tensors[node.input[1]])
                assert scale.shape == (tensors[node.input[0]].dims[0],)
    assert weights > 20


@needs_int8
def test_onnxruntime_has_what_relu_made_in_uint8_and_masks_as_good(
    files: tuple[Path, Path, dict[str, float]], monkeypatch: pytest.MonkeyPatch
):
    seen: list[onnx.GraphProto] = []
    quantise = onnxruntime._quantise_unsigned
    monkeypatch.setattr(
        onnxruntime, "_quantise_unsigned", lambda graph: (quantise(graph), seen.append(graph))
    )

    def masks(file: Path) -> np.ndarray:
        with Segmenter(file, backend="onnxruntime") as segmenter:
            return np.stack([segmenter(frame).mask for frame in street_frames(8)])

    exact, unsigned = masks(files[0]), masks(files[1])
    monkeypatch.setattr(onnxruntime, "_quantise_unsigned", lambda graph: None)
    signed = masks(files[1])
    assert np.mean(unsigned == exact) > np.mean(signed == exact) - 0.01
    assert np.mean(unsigned == signed) > 0.85  # random weights have no margin between classes

    graph = seen[-1]
    makers = {output: node for node in graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds = {TensorProto.UINT8: 0, TensorProto.INT8: 0}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            made_by_relu = makers[node.input[0]].op_type == "Relu"
            kind = types[node.input[2]]
            assert kind == (TensorProto.UINT8 if made_by_relu else TensorProto.INT8), node.name
            kinds[kind] += 1
        elif node.op_type == "DequantizeLinear" and node.input[0] in makers:
            assert types[node.input[2]] == types[makers[node.input[0]].input[2]], node.name
    assert min(kinds.values()) > 5, kinds


@needs_int8
def test_too_far_from_the_float32_file_is_not_written(
    files: tuple[Path, Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantize, "REQUIRED_AGREEMENT", 1.01)
    message = r"out\.onnx under onnxruntime gives the float32 file's class on \d\d\.\d\d%"
    with pytest.raises(QuantizationError, match=message):
        quantize_model(files[0], tmp_path / "out.onnx", street_frames(1))
    assert not list(tmp_path.iterdir())


def test_only_float32_files_are_quantised(tmp_path: Path):
    path = write_tiny_model(tmp_path / "half.onnx", tiny_info(precision="float16"))
    with pytest.raises(QuantizationError, match=r"half\.onnx: precision is float16, expected fl"):
        quantize_model(path, tmp_path / "out.onnx", street_frames(1))


@needs_int8
def test_no_frames(files: tuple[Path, Path, dict[str, float]], tmp_path: Path):
    with pytest.raises(QuantizationError, match="no frames"):
        quantize_model(files[0], tmp_path / "out.onnx", [])


def test_a_runtime_that_quantizes_biases_too_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(quantize, "OLDEST", (99, 0))
    path = write_tiny_model(tmp_path / "float32.onnx")
    with pytest.raises(QuantizationError, match=r"int8 takes ONNX Runtime 99\.0 or newer, found "):
        quantize_model(path, tmp_path / "out.onnx", street_frames(1))
    assert [file.name for file in tmp_path.iterdir()] == ["float32.onnx"]
