"""`bisenetv2 relabel`: the new file says what a table behind the old one would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper
from tiny_model import tiny_model, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.convert.relabel import ClassMapError, read_class_map
from bisenetv2_ros.labels import CAMVID, CITYSCAPES
from bisenetv2_ros.model_file import models_directory, read_model_file
from bisenetv2_ros.segmenter import InferenceError, Segmenter
from bisenetv2_ros.street.scene import StreetScene
from bisenetv2_ros.visualization import colorize

CONFIG = Path(__file__).resolve().parent.parent / "config" / "classes"
GROUPS = """\
name: driving
classes:
  - {name: person, of: [pedestrian, bicyclist], colour: [1, 2, 3]}
  - {name: drivable, of: road}
  - {name: other, of: rest}
"""


@pytest.fixture
def classes(tmp_path) -> Path:
    path = tmp_path / "driving.yaml"
    path.write_text(GROUPS)
    return path


def relabel(*words: object) -> int:
    return main(["relabel", *map(str, words)])


def test_every_class_of_the_shipped_examples_is_placed():
    for name, labels in (("camvid", CAMVID), ("cityscapes", CITYSCAPES)):
        class_map = read_class_map(CONFIG / f"{name}_driving.yaml", labels)
        assert class_map.labels.names == (
            "drivable", "walkable", "person", "vehicle", "obstacle", "sky",
        )  # fmt: skip
        assert set(class_map.targets) == set(range(6))


def test_names_colours_and_groups(classes):
    class_map = read_class_map(classes, CAMVID)
    assert class_map.labels.name == "driving"
    assert class_map.labels.names == ("person", "drivable", "other")
    assert class_map.labels.palette == ((1, 2, 3), (128, 64, 128), CAMVID.palette[0])
    expected = {"pedestrian": 0, "bicyclist": 0, "road": 1}
    assert class_map.targets == tuple(expected.get(name, 2) for name in CAMVID.names)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_masks_of_the_shipped_models(tmp_path, classes, monkeypatch, backend, precision):
    pytest.importorskip(backend)
    monkeypatch.chdir(tmp_path)
    name = f"bisenetv2_camvid_640x480_{precision}"
    assert relabel(name, "--classes", classes) == 0
    new = read_model_file(tmp_path / f"{name}_driving.onnx")
    old = read_model_file(models_directory() / f"{name}.onnx")
    assert new.info.metrics == {} and old.info.metrics != {}
    assert (new.info.input_size, new.info.precision) == (old.info.input_size, precision)
    targets = np.array(read_class_map(classes, CAMVID).targets, np.uint8)
    frame, _ = StreetScene(3, (640, 480)).render(1.0)
    with Segmenter(old, backend=backend) as before, Segmenter(new, backend=backend) as after:
        one, other = before(frame, confidence=True), after(frame, confidence=True)
        np.testing.assert_array_equal(other.mask, targets[one.mask])
        np.testing.assert_array_equal(other.confidence, one.confidence)
        assert set(np.unique(other.mask)) >= {1, 2}
        assert other.counts.tolist() == np.bincount(other.mask.ravel(), minlength=3).tolist()
        drivable = colorize(np.ones((1, 1), np.uint8), after.model.info.labels)
        assert drivable.ravel().tolist() == [128, 64, 128]


def test_a_network_that_answers_no_class_is_still_found_out(tmp_path, classes):
    """The value for that, 255, is none of the new classes either."""
    model = tiny_model()
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
    del clip.input[2]  # class 15 of 11 becomes possible
    onnx.save(model, tmp_path / "broken.onnx")
    out = tmp_path / "out.onnx"
    assert relabel(tmp_path / "broken.onnx", "--classes", classes, "-o", out) == 0
    with Segmenter(out, backend="onnxruntime") as segmenter:
        assert segmenter(np.full((24, 32, 3), 32, np.uint8)).counts[2] == 24 * 32
        with pytest.raises(InferenceError, match="768 of 768 pixels are no class"):
            segmenter(np.full((24, 32, 3), 255, np.uint8))


def test_scores_of_the_new_file_can_be_given(tmp_path, classes):
    source = write_tiny_model(tmp_path / "tiny.onnx")
    out = tmp_path / "out.onnx"
    assert relabel(source, "--classes", classes, "-o", out, "--metric", "mIoU val=0.7") == 0
    assert read_model_file(out).info.metrics == {"mIoU val": 0.7}


def test_relabelled_files_can_be_relabelled(tmp_path, classes):
    source = write_tiny_model(tmp_path / "tiny.onnx")
    assert relabel(source, "--classes", classes, "-o", tmp_path / "once.onnx") == 0
    content = {"classes": [{"name": "street", "of": "drivable"}, {"name": "no", "of": "rest"}]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
    words = ("--classes", tmp_path / "two.yaml", "-o", tmp_path / "twice.onnx")
    assert relabel(tmp_path / "once.onnx", *words) == 0
    with Segmenter(tmp_path / "twice.onnx", backend="onnxruntime") as segmenter:
        road = CAMVID.names.index("road")
        assert segmenter(np.full((24, 32, 3), 16 * road, np.uint8)).counts.tolist() == [768, 0]
        assert segmenter.model.info.labels.name == "two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "classes: [{name: a, of: [lawn]}]",
            "class 'a': the model has no class 'lawn', it has sky",
        ),
        ("classes: [{name: a, of: [road]}]", "no group has sky, building, .*`of: rest`"),
        (
            "classes: [{name: a, of: [road]}, {name: b, of: [road]}, {name: c, of: rest}]",
            "'road' is in 'a' and in 'b', expected each class once",
        ),
        ("classes: [{name: a, of: []}, {name: c, of: rest}]", "class 'a': expected classes"),
        (
            "classes: [{name: a, of: [road]}, {name: a, of: rest}]",
            "label set 'classes': names occur twice: a",
        ),
        ("classes: [{name: a, of: rest, colour: [1, 2]}]", "colour of 'a' must be three values"),
        ("classes: [{name: a}]", "expected `classes:` as a list of .*KeyError"),
        ("- a", "expected `classes:` as a list"),
        ("{", "not YAML"),
    ],
)
def test_what_is_no_class_map_is_named(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(ClassMapError, match=f"{path}: .*{message}"):
        read_class_map(path, CAMVID)


def test_refusals_leave_no_file(tmp_path, classes, capsys):
    source = write_tiny_model(tmp_path / "tiny.onnx")
    out = tmp_path / "out.onnx"
    assert relabel(source, "--classes", tmp_path / "none.yaml", "-o", out) == 2
    assert "none.yaml: No such file" in capsys.readouterr().err
    assert relabel(source, "--classes", classes, "-o", source) == 2
    assert "would be overwritten" in capsys.readouterr().err
    model = tiny_model()
    (cast,) = [node for node in model.graph.node if "mask" in node.output]
    cast.output[0] = "classes"
    model.graph.node.append(helper.make_node("Identity", ["classes"], ["mask"]))
    onnx.save(model, source)
    assert relabel(source, "--classes", classes, "-o", out) == 2
    assert "the output mask comes from Identity, expected Cast" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driving.yaml", "tiny.onnx"]
