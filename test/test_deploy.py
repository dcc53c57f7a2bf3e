"""From a run to the folder that the node runs: scored files, one table, a card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from int8 import needs_int8
from labelled_set import write_set

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.convert import int8
from bisenetv2_ros.model_file import model_path, read_model_file
from bisenetv2_ros.training import deploy as deploying
from bisenetv2_ros.training import export

SMALL = """\
dataset: folder
input_size: [64, 64]
crop: [64, 64]
iterations: 30
batch_size: 4
learning_rate: 0.05
workers: 0
train_split: train:..80%
val_split: train:80%..
model: {num_classes: 3, width: 0.25, head_channels: 8, boosters: []}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a run on it."""
    place = tmp_path_factory.mktemp("deploy")
    write_set(place / "my_set")
    (place / "small.yaml").write_text(SMALL)
    words = ["--config", f"{place}/small.yaml", "--data", f"{place}/my_set", "--device", "cpu"]
    assert main(["train", *words, "--output", str(place / "run")]) == 0
    return place


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of few channels and steps has little margin."""
    monkeypatch.setattr(int8, "REQUIRED_AGREEMENT", 0.3)
    monkeypatch.setattr(export, "REQUIRED_AGREEMENT", {"float32": 0.999, "float16": 0.9})


@needs_int8
def test_one_verb_makes_scored_files_and_a_card(place: Path, lenient, monkeypatch, capsys):
    monkeypatch.chdir(place)
    calibrated = []
    real = deploying.quantize_model
    monkeypatch.setattr(deploying, "quantize_model", lambda *a: calibrated.append(a[2]) or real(*a))
    assert main(["deploy", "run", "-o", "my_model", "--licence", "ours"]) == 0
    said = capsys.readouterr().out
    names = [f"my_model_{p}.onnx" for p in ("float32", "float16", "int8")]
    assert sorted(p.name for p in Path("my_model").iterdir()) == ["MODEL_CARD.md", *sorted(names)]
    assert len(calibrated[0]) == 8, "the run's own training frames"
    card = Path("my_model/MODEL_CARD.md").read_text()
    for name in names:
        info = read_model_file(f"my_model/{name}").info
        assert info.precision == name.rpartition("_")[2].partition(".")[0]
        (score,) = info.metrics.values()
        assert 0 <= score <= 1 and list(info.metrics) == ["folder train:80%.. mIoU"]
        assert info.licence == "ours"
        row = next(line for line in said.splitlines() if line.startswith(f"| {name}"))
        assert f"| {100 * score:.2f} |"[:5] in row and row in card
    float32 = next(line for line in said.splitlines() if "float32.onnx" in line)
    assert " 100.00 " in float32, "agrees with itself"
    assert f"model:={place / 'my_model'}" in said and f"model:={place / 'my_model'}" in card
    assert "ground, wall, sky" in card and "8 frames (`train:..80%`)" in card
    assert model_path("my_model", "openvino").name == "my_model_int8.onnx"
    assert model_path("my_model", "tensorrt").name == "my_model_float16.onnx"

    assert main(["deploy", "run", "-o", "my_model"]) == 2
    assert "my_model: in use, expected a new folder" in capsys.readouterr().err

    assert main(["evaluate", "my_model", "--data", "my_set", "--split", "train:80%.."]) == 0
    evaluated = capsys.readouterr().out
    score = read_model_file("my_model/my_model_int8.onnx").info.metrics["folder train:80%.. mIoU"]
    line = next(line for line in evaluated.splitlines() if line.startswith("mean IoU"))
    assert float(line.split()[-1]) == pytest.approx(100 * score, abs=0.011)


def test_a_run_is_scored_on_its_own_split(place: Path, monkeypatch, capsys):
    """Neither --data nor --split is needed: the run says both."""
    monkeypatch.chdir(place)
    assert main(["evaluate", "run", "--device", "cpu"]) == 0
    assert "train:80%.. split, 2 frames" in capsys.readouterr().out


@needs_int8
def test_int8_that_is_too_far_off_is_missing_and_said(place: Path, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(int8, "REQUIRED_AGREEMENT", 1.01)
    monkeypatch.setattr(export, "REQUIRED_AGREEMENT", {"float32": 0.999, "float16": 0.9})
    assert main(["deploy", str(place / "run/checkpoints"), "-o", str(tmp_path / "m")]) == 1
    assert "no int8: m_int8.onnx under " in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "MODEL_CARD.md", "m_float16.onnx", "m_float32.onnx",
    ]  # fmt: skip


def test_data_that_is_gone_is_asked_for(place: Path, tmp_path, capsys):
    (place / "my_set").rename(place / "moved")
    try:
        assert main(["deploy", str(place / "run"), "-o", str(tmp_path / "m")]) == 2
        error = capsys.readouterr().err
        assert f"its dataset was in {place / 'my_set'}, which is gone: expected --data" in error
        assert not (tmp_path / "m").exists()
    finally:
        (place / "moved").rename(place / "my_set")


def test_a_dataset_that_is_not_where_data_says_is_named(tmp_path, capsys):
    words = ["deploy", str(tmp_path), "-o", f"{tmp_path}-m", "--data", str(tmp_path / "none")]
    assert main(words) == 2
    assert f"--data: {tmp_path}/none: no such folder, expected that of" in capsys.readouterr().err


def test_a_run_is_no_model(place: Path, tmp_path, capsys):
    run = str(place / "run")
    words = ["synthetic", "--model", run, "--frames", "1", "-o", str(tmp_path / "out")]
    assert main(["predict", *words]) == 2
    error = capsys.readouterr().err
    assert f"a training run, expected a model: make one of it with `bisenetv2 deploy {run}" in error


def test_damaged_samples_are_left_out_as_in_the_run(place: Path, tmp_path, monkeypatch, capsys):
    """`damaged: skip` holds for the scores of the run too; how many is said."""
    import json
    import shutil

    run = shutil.copytree(place / "run", tmp_path / "run")
    data = shutil.copytree(place / "my_set", tmp_path / "my_set")
    frame = data / "images/09.png"
    frame.write_bytes(frame.read_bytes()[:80])
    words = ["evaluate", str(run), "--data", str(data), "--device", "cpu"]
    assert main(words) == 2
    assert "images/09.png" in capsys.readouterr().err
    header = json.loads((run / "recipe.json").read_text())
    header["recipe"]["damaged"] = "skip"
    (run / "recipe.json").write_text(json.dumps(header))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "split, 2 frames, 1 of them damaged and left out" in said
    frame = data / "images/08.png"
    frame.write_bytes(frame.read_bytes()[:80])
    assert main(words) == 2
    assert "every one of 2 samples is damaged" in capsys.readouterr().err


@needs_int8
def test_int8_of_a_file_of_any_name(place: Path, lenient, tmp_path, monkeypatch):
    """quantize my_model.onnx writes my_model_int8.onnx."""
    monkeypatch.chdir(tmp_path)
    run = str(place / "run")
    assert main(["export", run, "-o", "my_model.onnx", "--frame-count", "1"]) == 0
    before = Path("my_model.onnx").read_bytes()
    assert main(["quantize", "my_model.onnx", "--data", str(place / "my_set/images")]) == 0
    assert read_model_file("my_model_int8.onnx").info.precision == "int8"
    assert Path("my_model.onnx").read_bytes() == before
    assert np.isfinite(read_model_file("my_model_int8.onnx").info.input_size).all()
