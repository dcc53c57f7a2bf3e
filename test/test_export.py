"""The exported file does what the trained network does, on every backend, or is not written."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from gpu_maximum import mask_of_logits
from onnx import TensorProto, numpy_helper
from tiny_model import tiny_info

pytest.importorskip("torch", reason="torch is not installed")

import torch
from int8 import needs_int8
from small_network import MEAN, SIZE, STD, small_network, street_frames

from bisenetv2_ros import backends
from bisenetv2_ros.backends import create_backend
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.convert import int8 as quantize
from bisenetv2_ros.labels import CAMVID, label_set_to_dict
from bisenetv2_ros.model_file import NO_CLASS, ModelInfo, model_path, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.segmenter import InferenceError, Segmenter
from bisenetv2_ros.street.scene import StreetScene
from bisenetv2_ros.training import export
from bisenetv2_ros.training.checkpoint import Checkpoint, save_checkpoint, write_run_header
from bisenetv2_ros.training.export import DeployedModel, ExportError, export_model
from bisenetv2_ros.training.recipe import load_recipe

INFO = tiny_info(SIZE)


@pytest.fixture(scope="module")
def deployed() -> DeployedModel:
    return small_network()


@pytest.fixture(scope="module")
def float32(deployed: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small_float32.onnx"
    export_model(deployed, INFO, path, street_frames(3))
    return path


def batch(count: int = 3) -> np.ndarray:
    return np.stack([resize_image(frame, SIZE) for frame in street_frames(count)])


def test_wrapper_is_normalisation_network_upsampling_and_argmax(deployed: DeployedModel):
    """Against the same steps spelled out one by one in NumPy and torch."""
    images = batch()
    mask, confidence = deployed(torch.from_numpy(images))
    assert mask.dtype == confidence.dtype == torch.uint8
    assert mask.shape == confidence.shape == (3, 64, 96)
    with torch.no_grad():
        normalised = (images / 255.0 - np.array(MEAN)) / np.array(STD)
        logits = deployed.network(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float())
        logits = torch.nn.functional.interpolate(
            logits, (64, 96), mode="bilinear", align_corners=False
        )
        probability, index = logits.softmax(1).max(1)
    assert len(index.unique()) >= 3, "a mask of one class would prove nothing"
    assert (mask == index).float().mean() > 0.999
    assert (confidence - 255 * probability).abs().max() <= 0.51


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3])
def test_every_backend_gives_torchs_answer(
    deployed: DeployedModel, float32: Path, name: str, count: int
):
    images = batch(count)
    with torch.no_grad():
        expected_mask, expected_confidence = deployed(torch.from_numpy(images))
    backend = create_backend(read_model_file(float32), name, threads=1)
    mask, confidence = backend.infer(images, confidence=True)
    assert (mask == expected_mask.numpy()).mean() > 0.999
    assert np.abs(np.array(confidence, int) - expected_confidence.numpy()).max() <= 1
    assert np.array_equal(backend.infer(images)[0], mask), "the mask alone is another mask"


def test_the_file_says_what_it_is(float32: Path):
    assert read_model_file(float32).info == INFO
    onnx.checker.check_model(str(float32), full_check=True)


def test_the_graph_is_clean(float32: Path):
    """Batch norms are folded into their convolutions; nothing that training alone needs is left."""
    operators = collections.Counter(node.op_type for node in onnx.load(float32).graph.node)
    assert operators["BatchNormalization"] == 1, "only the one behind the global average can stay"
    assert not {"Dropout", "Identity", "Shape", "If", "Loop"} & set(operators)
    assert operators["TopK"] == 1


def test_float16_is_in_the_graph(deployed: DeployedModel, float32: Path, tmp_path: Path):
    path = tmp_path / "small_float16.onnx"
    info = dataclasses.replace(INFO, precision="float16")
    agreement = export_model(deployed, info, path, street_frames(3))
    assert agreement.keys() == {"onnxruntime", "openvino"}
    assert min(agreement.values()) >= 0.99
    assert read_model_file(path).info.precision == "float16"
    assert path.stat().st_size < 0.6 * float32.stat().st_size
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert types[node.output[0]] == TensorProto.FLOAT16, node.name
        if node.op_type in ("TopK", "Exp", "Sub"):
            assert types[node.output[0]] == TensorProto.FLOAT, node.name


def test_nan_weights_are_refused(tmp_path: Path):
    deployed = small_network()
    deployed.network.head[-1].bias.data[2] = float("nan")
    with pytest.raises(ExportError, match=r"weight 'network\.head\.\d\.bias' is not finite"):
        export_model(deployed, INFO, tmp_path / "nan.onnx", street_frames(1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_logits_that_are_not_finite_become_no_class(float32: Path, tmp_path: Path, name: str):
    """A file whose weights went bad after the checks of the export: no backend invents a class."""
    model = onnx.load(float32)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == last.input[2])
    bias.CopyFrom(numpy_helper.from_array(np.full(11, np.nan, np.float32), bias.name))
    path = tmp_path / "bad.onnx"
    onnx.save(model, path)
    backend = create_backend(read_model_file(path), name, threads=1)
    assert (backend.infer(batch(1))[0][0] == NO_CLASS).all()
    with pytest.raises(InferenceError, match="6144 of 6144 pixels are no class"):
        Segmenter(path, backend=name)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_maximum_that_skips_nan_hides_nothing(float32: Path, wrong: float):
    """As on GPUs. The other frame of the batch is none the worse."""
    logits = np.random.default_rng(0).normal(size=(2, 11, 4, 6)).astype(np.float32)
    logits[1, 3, 2, 2] = wrong
    mask = mask_of_logits(onnx.load(float32), logits)
    assert (mask[0] < 11).all() and (mask[1] == NO_CLASS).all()


@pytest.mark.parametrize(
    ("change", "frames", "message"),
    [
        ({"precision": "int8"}, 1, "precision is int8, expected float32 or float16"),
        ({"input_size": (100, 64)}, 1, "input size is 100x64, expected multiples of 8"),
        ({}, 0, "no frames"),
    ],
)
def test_what_cannot_be_exported(
    deployed: DeployedModel, tmp_path: Path, change: dict, frames: int, message: str
):
    info = dataclasses.replace(INFO, **change)
    with pytest.raises(ExportError, match=message):
        export_model(deployed, info, tmp_path / "x.onnx", street_frames(frames))
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_with_torch_is_not_written(
    deployed: DeployedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The traced graph gets another normalisation than the network, as a wrong export would."""
    trace = export._trace

    def wrong_trace(deployed: DeployedModel, width: int, height: int) -> onnx.ModelProto:
        wrong = DeployedModel(deployed.network, (0.0, 0.0, 0.0), (0.1, 0.1, 0.1)).eval()
        return trace(wrong, width, height)

    monkeypatch.setattr(export, "_trace", wrong_trace)
    with pytest.raises(ExportError, match=r"x\.onnx under onnxruntime gives torch's class on "):
        export_model(deployed, INFO, tmp_path / "x.onnx", street_frames(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "choice",
    [
        {"aggregation": "sum"},
        {"aggregation": "concat"},
        {"branches": "detail"},
        {"branches": "semantic"},
        {"aggregation_upsample": "nearest"},
        {"align_corners": True},
        {"head_shuffle": 8},
    ],
    ids=str,
)
def test_every_kind_of_network_exports(tmp_path: Path, choice: dict):
    from bisenetv2_ros.training.model import BiSeNetV2, ModelConfig

    torch.manual_seed(1)
    config = ModelConfig(
        num_classes=len(CAMVID),
        detail_channels=(16, 16, 32),
        head_channels=32,
        boosters=(),
        **choice,
    )
    deployed = DeployedModel(BiSeNetV2(config).eval(), MEAN, STD)
    info = dataclasses.replace(INFO, input_size=(88, 56))  # odd sizes at 1/16 and 1/32
    agreement = export_model(deployed, info, tmp_path / "x.onnx", street_frames(1))
    assert min(agreement.values()) > 0.999


# --- the verbs -----------------------------------------------------------------------------------


def test_a_model_of_the_package_is_quantised_into_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def stop(*arguments: object, **options: object) -> None:
        asked.append(arguments)
        raise quantize.QuantizationError("enough")

    monkeypatch.setattr(quantize, "quantize_model", stop)
    name = "bisenetv2_camvid_640x480_float32"
    assert main(["quantize", name, "--data", "synthetic", "--frames", "1"]) == 2
    [(source, output, *_)] = asked
    assert source == model_path(name) and output == Path(f"{name.replace('float32', 'int8')}.onnx")


@needs_int8
def test_verbs_export_and_quantize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A run folder to a float32 file to an int8 file, by the names the verbs give them."""
    monkeypatch.setattr(quantize, "REQUIRED_AGREEMENT", 0.3)  # random weights have no margin
    overrides = [
        "model.detail_channels=[16, 16, 32]",
        "model.head_channels=32",
        "model.boosters=[]",
        "model.network=mmsegmentation",
        "model.head_shuffle=2",
    ]
    recipe = load_recipe("camvid_cpu", [*overrides, "input_size=[64, 48]"])
    network = small_network(shuffle=recipe.model.head_shuffle).network
    save_checkpoint(tmp_path / "run", Checkpoint(step=7, model=dict(network.state_dict())))
    labels = label_set_to_dict(CAMVID)
    header = {"recipe": recipe.to_dict(), "labels": labels, "data": {}, "revision": "abc"}
    write_run_header(tmp_path / "run", header)
    monkeypatch.chdir(tmp_path)

    options = ["--licence", "ours", "--metric", "mIoU val=0.5", "--frame-count", "2"]
    assert main(["export", "run", *options]) == 0
    assert "from step 7" in capsys.readouterr().out
    info = read_model_file("bisenetv2_camvid_64x48_float32.onnx").info
    assert info == ModelInfo(
        CAMVID, "camvid", (64, 48), "float32", {"mIoU val": 0.5}, "abc", "ours"
    )

    for folder in ("images", "labels"):
        (tmp_path / "camvid" / "train" / folder).mkdir(parents=True)
        for seed in range(2):
            picture = StreetScene(seed, (192, 128)).render(0)[folder == "labels"]
            path = tmp_path / "camvid" / "train" / folder / f"{seed}.png"
            cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)
    adjusting = ["--adjust-logits", "camvid", "-o", "adjusted.onnx"]
    assert main(["export", "run", *options, *adjusting]) == 0
    assert "logits adjusted: mean IoU 0." in capsys.readouterr().out
    weights = [
        onnx.load(f"{name}.onnx").graph.initializer
        for name in ("bisenetv2_camvid_64x48_float32", "adjusted")
    ]
    changed = [a.name for a, b in zip(*weights, strict=True) if a != b]
    assert changed == ["network.head.2.bias"]

    source = ["--data", "synthetic", "--frames", "2"]
    assert main(["quantize", "bisenetv2_camvid_64x48_float32.onnx", *source]) == 0
    assert "measured on 2 frames" in capsys.readouterr().out
    info = read_model_file("bisenetv2_camvid_64x48_int8.onnx").info
    assert info.precision == "int8" and info.metrics == {} and info.licence == "ours"

    header["labels"] = label_set_to_dict(
        dataclasses.replace(CAMVID, name="others", names=CAMVID.names[::-1])
    )
    save_checkpoint(tmp_path / "other", Checkpoint(step=7, model=dict(network.state_dict())))
    write_run_header(tmp_path / "other", header)
    (tmp_path / "model.onnx").touch()
    for arguments, message in [
        (["export", "run", "--size", "63x48"], "input size is 63x48, expected multiples of 8"),
        (["export", "run", "--frames", "nowhere"], "'nowhere'"),
        (["export", "nowhere"], "expected a run folder"),
        (["export", "run", "--adjust-logits", "run"], "run/train/images"),
        (
            ["export", "other", "--adjust-logits", "camvid"],
            "other knows the 11 classes of others, expected the 11 of camvid11 (camvid)",
        ),
        (["export", "run", "-o", "no/where.onnx"], "no/where.onnx: there is no folder no"),
        (["quantize", "nowhere_float32.onnx", *source], "no such file"),
        (["quantize", "model.onnx", *source], "model.onnx: empty, expected an ONNX model"),
        (
            ["quantize", "model.onnx", *source, "-o", str(tmp_path / "model.onnx")],
            "model.onnx is read (as model.onnx) and would be overwritten",
        ),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1

    for name in backends.BACKENDS:
        monkeypatch.setitem(backends.BACKENDS, name, f"{name}_that_is_absent.Backend")
    assert main(["export", "run"]) == 2
    error = capsys.readouterr().err
    assert "run `pip install onnxruntime`" in error and error.count("\n") == 1
