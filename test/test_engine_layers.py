"""The shipped models build for every GPU of TensorRT for RTX; what engines are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bisenetv2_ros.backends import BackendUnavailable, BatchProfile, model_for
from bisenetv2_ros.backends.engine_builder import describe_engines
from bisenetv2_ros.backends.engine_layers import HEAD, layer_table, read_layers, summary_row
from bisenetv2_ros.backends.engine_target import (
    Target,
    library_name,
    load_library,
    supported_compute_capabilities,
)
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.model_file import model_files, read_model_file

#: As the library prints them, shortened: a fused convolution, a wait, and an elementwise kernel.
TEXT = """Layers:
Name: a/Conv_myl0_5, LayerType: correlation, Inputs: [ { Name: x[1], Dimensions: [1,3,4,8], \
Strides: [96,1,24,3], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major }], \
Constants: [ { Name: w, Dimensions: [16,3,3,3], Datatype: Int8, Format: (NHWC) }], \
Outputs: [ { Name: y, Dimensions: [1,16,2,4], Datatype: Float, Format: (NHWC) }], TacticName: , \
StreamId: 0, Metadata: [ONNX Layer: a, Outputs: b]
Name: __mye13612_myl0_4, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , \
StreamId: 1, EventId: 1, Metadata:
Name: __myl_Cast, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [1,16,2,4], Datatype: Float, \
Format: (NHWC) }], Constants: [], Outputs: [ { Name: z, Dimensions: [1,16,2,4], Datatype: UInt8, \
Format: (NHWC) }, { Name: i, Dimensions: [], Datatype: Int64, Format: (Linear) }], TacticName: , \
StreamId: 0, Metadata:

I/O Tensors:
 Name: image, IOMode: Input, DataType: UInt8, Dimensions: [1,480,640,3]
"""


def test_layers_are_read_with_their_types_and_bytes():
    convolution, cast = read_layers(TEXT.replace("\\\n", ""))
    assert convolution.is_convolution and not cast.is_convolution
    assert (convolution.precision, cast.precision) == ("Int8→Float", "Float→UInt8")
    assert convolution.bytes_moved == 96 + 128 * 4
    assert cast.bytes_moved == 128 * 4 + 128 + 8


def test_layers_of_tensorrt_itself_are_read():
    """Its inspector names the type within the format."""
    (layer,) = read_layers(
        "Name: c, LayerType: Convolution, Inputs: [ { Name: x, Location: Device, Dimensions: "
        "[1,3,4,8], Format/Datatype: Row major linear FP16 format }], Outputs: [ { Name: y, "
        "Location: Device, Dimensions: [1,2,4,8], Format/Datatype: Row major linear FP32 format }]"
    )
    assert layer.is_convolution and layer.precision == "Half→Float"
    assert layer.bytes_moved == 96 * 2 + 64 * 4


def test_tables_add_up():
    layers = read_layers(TEXT.replace("\\\n", ""))
    assert "| convolution | Int8→Float | 1 | 0.0 |" in layer_table(layers)
    assert layer_table(layers).endswith("| **all** | | 2 | 0.0 |")
    assert summary_row("int8", "8.9", layers) == "| int8 | 8.9 | 2 | 1 | 0 | 1 | 0 |"
    assert HEAD.count("|") == 2 * summary_row("int8", "8.9", layers).count("|")


def test_no_layers_are_an_error():
    with pytest.raises(ValueError, match="lists no layers: Engine"):
        read_layers("Engine Metadata:\n Multi-Device: Disabled")


# --- with the real library, which needs no GPU for this ------------------------------------------


try:
    LIBRARY = load_library()
    CAPABILITIES = supported_compute_capabilities(LIBRARY)
except BackendUnavailable:
    CAPABILITIES = []

needs_rtx = pytest.mark.skipif(not CAPABILITIES, reason="needs TensorRT for RTX")


@needs_rtx
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_shipped_models_build_for_every_gpu(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if precision == "float16":
        model = model_for("", "tensorrt")
    else:
        model = read_model_file(model_files("")[precision])
    assert model.info.precision == precision
    for capability in CAPABILITIES:
        target = Target(library_name(LIBRARY), LIBRARY.__version__, compute_capability=capability)
        texts = describe_engines(model, target, BatchProfile(), lambda line: None)
        assert list(texts) == ["mask", "mask+confidence"]
        for name, text in texts.items():
            layers = read_layers(text)
            convolutions = [layer for layer in layers if layer.is_convolution]
            assert len(convolutions) >= 50, f"{name} for {capability}"
            if precision == "float16":
                assert {layer.precision for layer in convolutions} == {"Half→Half"}
            elif precision == "float32":
                assert {layer.precision for layer in convolutions} == {"Float→Float"}


@needs_rtx
def test_the_report_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = "bisenetv2_camvid_640x480_int8"
    assert main(["build-engine", name, "--report"]) == 0
    output = capsys.readouterr().out
    assert output.count("\n| int8 | ") == len(CAPABILITIES)
    assert "| convolution | Int8→Float | 35 |" in output
    assert f"{name} (int8), compute capability 8.9:" in output
    assert sys.stdout.isatty() or "%" not in output, "no progress in a file"
