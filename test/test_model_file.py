"""The model contract: what a good file says, and that every other file is refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import tiny_info, tiny_model, write_tiny_model

from bisenetv2_ros import model_file
from bisenetv2_ros.model_file import (
    ModelFileError,
    model_path,
    read_model_file,
    write_metadata,
    write_model_file,
)


def test_what_is_written_is_read_back(tmp_path: Path):
    path = write_tiny_model(tmp_path / "bisenetv2_camvid_32x24_float32.onnx")
    model = read_model_file(path)
    assert model.info == tiny_info()
    assert model.name == "bisenetv2_camvid_32x24_float32"
    assert model.path == path
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    onnx.checker.check_model(str(path), full_check=True)


def test_metadata_is_replaced_and_that_of_others_kept():
    model = tiny_model()
    model.metadata_props.add(key="author", value="somebody")
    write_metadata(model, dataclasses.replace(tiny_info(), dataset="cityscapes"))
    metadata = [(entry.key, entry.value) for entry in model.metadata_props]
    assert ("author", "somebody") in metadata
    assert [value for key, value in metadata if key == "bisenetv2.dataset"] == ["cityscapes"]


def test_scores_that_are_no_json_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        write_metadata(tiny_model(), dataclasses.replace(tiny_info(), metrics={"x": float("nan")}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "one of float32, float16, int8, got 'fp16'"),
        ({"input_size": (0, 24)}, "within 1..4096 pixels, got 0x24"),
        ({"input_size": (32, 4097)}, "within 1..4096 pixels, got 32x4097"),
    ],
)
def test_impossible_info_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tiny_info(), **change)


# --- files that hold no whole ONNX model ---------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_model_file(path)
    assert str(path) in str(caught.value), "the error must name the file"
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path):
    refused(tmp_path / "nowhere.onnx", "No such file")


def test_directory(tmp_path: Path):
    refused(tmp_path, "Is a directory")


def test_empty_file(tmp_path: Path):
    path = tmp_path / "empty.onnx"
    path.touch()
    refused(path, "empty, expected an ONNX model")


def test_file_over_the_size_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_tiny_model(tmp_path / "large.onnx")
    monkeypatch.setattr(model_file, "MAX_BYTES", 100)
    refused(path, rf"{path.stat().st_size} bytes, at most 100 are accepted")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("was read"))
    refused(path, rf"{path.stat().st_size} bytes, at most 100 are accepted")


def test_a_file_without_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_file, "MAX_BYTES", 100)
    refused(Path("/dev/zero"), "101 bytes, at most 100 are accepted")


def test_every_truncation(tmp_path: Path):
    data = write_tiny_model(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "truncated.onnx"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        refused(path, "ONNX|missing|inputs are|outputs are")


def test_noise_and_text(tmp_path: Path):
    path = tmp_path / "noise.onnx"
    rng = np.random.default_rng(0)
    for data in [
        b"\x89PNG\r\n",
        b"version https://git-lfs.github.com/spec/v1\n",
        *(rng.integers(0, 256, 400, np.uint8).tobytes() for _ in range(50)),
    ]:
        path.write_bytes(data)
        refused(path, "bytes that are no|missing")


# --- ONNX models that are not of this package ----------------------------------------------------

Change = Callable[[onnx.ModelProto], None]


def set_metadata(key: str, value: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        entry = next(e for e in model.metadata_props if e.key == f"bisenetv2.{key}")
        entry.value = value

    return change


def changed(tmp_path: Path, change: Change) -> Path:
    model = tiny_model()
    change(model)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    return path


def test_foreign_model(tmp_path: Path):
    def change(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    refused(changed(tmp_path, change), "'bisenetv2.format' is missing")


KEYS = [
    "format", "labels", "dataset", "input_size", "precision", "metrics", "source_revision",
    "licence",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_each_missing_key_is_named(tmp_path: Path, key: str):
    def change(model: onnx.ModelProto) -> None:
        entries = [e for e in model.metadata_props if e.key != f"bisenetv2.{key}"]
        assert len(entries) == len(model.metadata_props) - 1
        del model.metadata_props[:]
        model.metadata_props.extend(entries)

    refused(changed(tmp_path, change), f"'bisenetv2.{key}' is missing")


LABELS = {"name": "x", "names": ["a"], "palette": [[0, 0, 0]], "ignore_index": 255}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "one", "'bisenetv2.format' is 'one', expected the integer 1"),
        ("format", "2", "'bisenetv2.format' is 2, this version reads 1"),
        ("input_size", "480", "'480', expected WIDTHxHEIGHT"),
        ("input_size", "9999x352", "within 1..4096 pixels, got 9999x352"),
        ("precision", "int4", "float32, float16, int8, got 'int4'"),
        ("metrics", "[1]", "'bisenetv2.metrics'"),
        ("metrics", "[" * 100_000, "'bisenetv2.metrics'"),
        ("labels", "road,sky", "'bisenetv2.labels'"),
        ("labels", "[]", "'bisenetv2.labels'"),
        ("labels", json.dumps({**LABELS, "names": ["a", "b"]}), "2 names but 1 palette colours"),
        ("labels", json.dumps({**LABELS, "palette": [[0, 0]]}), "'bisenetv2.labels'"),
        ("labels", json.dumps({**LABELS, "palette": [[0, 0, float("inf")]]}), "bisenetv2.labels"),
        ("labels", json.dumps({"name": "x"}), "KeyError.*names"),
        ("input_size", "32x32", r"input 'image' is .*\(N, 24, 32, 3\), expected .*\(N, 32, 32, 3"),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path: Path, key: str, value: str, message: str):
    refused(changed(tmp_path, set_metadata(key, value)), message)


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "data"


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def one_image_only(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.add().CopyFrom(
        helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [])
    )


def no_confidence(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def wide_mask(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


def small_mask(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = 99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_input, "inputs are data, expected image"),
        (second_input, "inputs are image, threshold, expected image"),
        (float_input, r"input 'image' is float \(N, 24, 32, 3\), expected uint8"),
        (one_image_only, r"input 'image' is uint8 \(1, 24, 32, 3\), expected uint8 \(N"),
        (no_confidence, "outputs are mask, expected mask, confidence"),
        (wide_mask, r"output 'mask' is int64 \(N, 24, 32\), expected uint8"),
        (small_mask, r"output 'mask' is uint8 \(N, 3, 32\), expected uint8 \(N, 24, 32\)"),
        (unknown_type, "99"),
    ],
)
def test_other_inputs_and_outputs(tmp_path: Path, change: Change, message: str):
    refused(changed(tmp_path, change), message)


# --- tensors that runtimes have been attacked by -------------------------------------------------


def external(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_initialiser(model: onnx.ModelProto) -> None:
    external(model.graph.initializer[2])


def external_location_without_the_flag(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].external_data.add(key="location", value="weights")


def hide_in_subgraph(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "hidden")
    external(tensor)
    branch = helper.make_graph([], "branch", [], [], [tensor])
    model.graph.node[3].attribute.append(helper.make_attribute("then_branch", branch))


def hide_in_function(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "hidden")
    external(tensor)
    node = helper.make_node("Constant", [], ["x"], value=tensor)
    model.functions.append(
        helper.make_function("local", "f", [], ["x"], [node], [helper.make_opsetid("", 17)])
    )


def sparse_initialiser(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([5], np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2]))


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "com.example"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_initialiser, "tensor 'step' lies in another file"),
        (external_location_without_the_flag, "tensor 'step' lies in another file"),
        (hide_in_subgraph, "tensor 'hidden' lies in another file"),
        (hide_in_function, "tensor 'hidden' lies in another file"),
        (sparse_initialiser, "sparse"),
        (custom_operator, "operator com.example.Mul is not standard ONNX"),
    ],
)
def test_dangerous_tensors(tmp_path: Path, change: Change, message: str):
    model = tiny_model()
    change(model)
    path = tmp_path / "dangerous.onnx"
    path.write_bytes(model.SerializeToString())  # onnx.save would load or refuse these itself
    refused(path, message)


# --- finding models ------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of models that plays the package's own, and another one to stand in."""
    directory = tmp_path / "models"
    directory.mkdir()
    monkeypatch.setattr(model_file, "models_directory", lambda: directory)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return directory


def test_nothing_means_the_default_model(models: Path):
    default = write_tiny_model(models / f"{model_file.DEFAULT_MODEL}.onnx")
    assert model_path() == model_path("") == default


def test_a_bare_name_is_one_of_the_package_with_or_without_suffix(models: Path):
    other = write_tiny_model(models / "other.onnx")
    assert model_path("other") == model_path("other.onnx") == other


def test_a_file_here_goes_before_the_package(models: Path):
    write_tiny_model(models / "other.onnx")
    write_tiny_model(Path("other.onnx"))
    assert model_path("other.onnx") == Path("other.onnx")


def test_paths_are_taken_as_they_are(models: Path):
    assert model_path("some/where.onnx") == Path("some/where.onnx")
    assert model_path(models / "x.onnx") == models / "x.onnx"
    assert model_path("~/x.onnx") == Path.home() / "x.onnx"


def test_an_unknown_name_lists_the_known(models: Path):
    write_tiny_model(models / "b.onnx")
    write_tiny_model(models / "a.onnx")
    with pytest.raises(ModelFileError, match=r"model 'camvid': no such file; models in .*: a, b$"):
        model_path("camvid")


# --- one model in several precisions --------------------------------------------------------------


def test_each_backend_takes_the_precision_that_suits_it(models: Path):
    mine = Path("mine")
    mine.mkdir()
    for precision in ("float32", "float16", "int8"):
        write_tiny_model(mine / f"garden_{precision}.onnx")
    for name in ("mine", mine.resolve(), "mine/garden"):
        chosen = {b: model_path(name, b).name for b in ("", "openvino", "onnxruntime", "tensorrt")}
        assert set(list(chosen.values())[:3]) == {"garden_int8.onnx"}
        assert chosen["tensorrt"] == "garden_float16.onnx"
    (mine / "garden_float16.onnx").unlink()
    (mine / "garden_int8.onnx").unlink()
    assert model_path("mine", "tensorrt").name == "garden_float32.onnx", "what is there serves"


def test_a_name_without_precision_is_one_of_the_package(models: Path):
    write_tiny_model(models / "street_float32.onnx")
    quick = write_tiny_model(models / "street_int8.onnx")
    assert model_path("street", "openvino") == quick
    assert model_path("street_float32").name == "street_float32.onnx"


def test_the_file_that_suits_is_the_one_that_is_loaded(models: Path):
    from bisenetv2_ros.segmenter import Segmenter

    for precision in ("float32", "int8"):
        write_tiny_model(models / f"tiny_{precision}.onnx", tiny_info(precision=precision))
    with Segmenter(models, backend="onnxruntime") as segmenter:
        assert segmenter.model.info.precision == "int8"
        assert segmenter.model.path == models / "tiny_int8.onnx"


def test_folders_that_hold_no_one_model_are_named(models: Path):
    folder = Path("run")
    folder.mkdir()
    with pytest.raises(ModelFileError, match="run: a folder without a model"):
        model_path("run")
    (folder / "recipe.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"a training run.*`bisenetv2 deploy run -o my_model`"):
        model_path("run")
    for name in ("a", "b"):
        write_tiny_model(folder / f"{name}_int8.onnx")
    with pytest.raises(ModelFileError, match=r"holds a_int8.onnx and b_int8.onnx, expected the"):
        model_path("run")


@pytest.mark.parametrize(
    ("named", "usable"),
    [
        ("run/checkpoints", "run"),
        ("run/checkpoints/step_1", "run/checkpoints/step_1"),
        ("run/checkpoints/step_1/model.safetensors", "run/checkpoints/step_1"),
    ],
)
def test_parts_of_a_run_are_no_model_either(models: Path, named: str, usable: str):
    checkpoint = Path("run/checkpoints/step_1")
    checkpoint.mkdir(parents=True)
    Path("run/recipe.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ModelFileError, match=f"{named}: a training run.*deploy {usable} -o my_mo"):
        model_path(named)


def test_a_score_on_what_was_trained_on_is_refused(tmp_path):
    """It measures memory. Of a part of a split nothing is known by its name."""
    model = tiny_model()
    info = dataclasses.replace(tiny_info(), trained_on="train+val", metrics={})
    written = write_model_file(model, info, tmp_path / "m.onnx")
    assert read_model_file(tmp_path / "m.onnx").info.trained_on == "train+val"
    for name in ("camvid_val_miou", "camvid val mIoU"):
        with pytest.raises(ValueError, match=r"is a score on val, on which it was trained \(train"):
            dataclasses.replace(written.info, metrics={name: 0.9})
    dataclasses.replace(written.info, metrics={"synthetic_test_miou": 0.9, "interval": 1.0})
    dataclasses.replace(written.info, dataset="camvid", metrics={"synthetic_val_miou": 0.9})
    dataclasses.replace(written.info, trained_on="train", metrics={"camvid_val_miou": 0.9})
    parts = dataclasses.replace(written.info, trained_on="train+val:!a*")
    dataclasses.replace(parts, metrics={"camvid train+val:a* mIoU": 0.9})
