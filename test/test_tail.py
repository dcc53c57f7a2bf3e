"""The mask made from coarse logits is the one that the graph's own end makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu_maximum import mask_of_logits
from onnx import TensorProto, helper, numpy_helper

from bisenetv2_ros.backends import create_backend, model_for
from bisenetv2_ros.backends.engine_process import _extract
from bisenetv2_ros.backends.subgraph import extract
from bisenetv2_ros.backends.tail import Tail, enlarge_in_float16, find_tail, sum_logits_for_nan
from bisenetv2_ros.convert.relabel import read_class_map, relabel_model
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.model_file import MASK, NO_CLASS, model_path, read_model_file
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.street.scene import StreetScene

REFERENCE = "bisenetv2_camvid_640x480_float32"
FACTOR = 4  # by which the shipped models enlarge their logits
SHIPPED = (REFERENCE, "bisenetv2_camvid_640x480_int8")
CLASSES = Path(__file__).parents[1] / "config" / "classes" / "camvid_driving.yaml"

random = np.random.default_rng(3)


def load(name: str = REFERENCE) -> onnx.ModelProto:
    return onnx.load(model_path(name))


def found_in(model: onnx.ModelProto) -> Tail:
    found = find_tail(model.graph)
    assert found is not None
    return found


def by_the_graph(model: onnx.ModelProto, logits: np.ndarray) -> np.ndarray:
    """The mask that ONNX Runtime makes of logits by the end of the graph."""
    runtime = pytest.importorskip("onnxruntime")
    name = found_in(model).logits
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")  # the model's size
    end = extract(model, [name], [MASK])
    for info in (*end.graph.input, *end.graph.value_info, *end.graph.output):
        info.type.tensor_type.ClearField("shape")  # ONNX Runtime 1.12 holds to those inferred
    session = runtime.InferenceSession(end.SerializeToString())
    return session.run(None, {name: logits})[0]


def uncertain(logits: np.ndarray, factor: int) -> np.ndarray:
    """Pixels whose two largest channels are so close that rounding decides, (N, H, W) bool."""
    enlarged = logits.astype(np.float64)
    for axis in (2, 3):
        enlarged = enlarge(enlarged, factor, axis)
    first, second = np.sort(enlarged, axis=1)[:, :-3:-1].swapaxes(0, 1)
    return first - second < 1e-5


def enlarge(values: np.ndarray, factor: int, axis: int) -> np.ndarray:
    return enlarge_to(values, values.shape[axis] * factor, axis)


def enlarge_to(values: np.ndarray, pixels: int, axis: int) -> np.ndarray:
    length = values.shape[axis]
    at = (np.arange(pixels) + 0.5) * length / pixels - 0.5
    left = np.floor(at).astype(int)
    share = (at - left).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    a, b = (np.take(values, np.clip(i, 0, length - 1), axis) for i in (left, left + 1))
    return a + share * (b - a)


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    coarse = random.normal(size=(*shape[:2], shape[2] // 5, shape[3] // 5))
    large = np.kron(coarse, np.ones((5, 5)))
    return (3 * large + 0.3 * random.normal(size=large.shape)).astype(np.float32)


LOGITS: dict[str, Callable[[], np.ndarray]] = {
    "like a scene": lambda: smooth((2, 11, 30, 40)),
    "noise": lambda: random.normal(size=(1, 11, 45, 60)).astype(np.float32),
    "one pixel": lambda: random.normal(size=(1, 11, 1, 1)).astype(np.float32),
    "one row": lambda: random.normal(size=(1, 11, 1, 9)).astype(np.float32),
    "one class": lambda: smooth((1, 11, 10, 10)) * 0 + np.arange(11).reshape(1, 11, 1, 1),
}


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS.keys())
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_mask_is_the_graphs(logits, factor):
    values = np.float32(logits())
    model = load()
    (scales,) = [n for n in model.graph.node if n.output[0] == resize(model).input[2]]
    scales.attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32([1, 1, factor, factor])))
    mask = found_in(model).mask(values)
    expected = by_the_graph(model, values)
    assert mask.dtype == np.uint8 and mask.shape == expected.shape
    assert not ((mask != expected) & ~uncertain(values, factor)).any()


def test_of_equal_channels_the_first():
    mask = found_in(load()).mask(np.ones((1, 11, 4, 5), np.float32))
    assert mask.shape == (1, 16, 20) and not mask.any()
    for size in ((64, 36), (21, 13)):
        mask = found_in(load()).mask(np.ones((1, 11, 4, 5), np.float32), size)
        assert mask.shape == (1, *size[::-1]) and not mask.any()


@pytest.mark.parametrize("ends", [(-1, 3), (3, -1), (1, -3), (-3, 1)])
@pytest.mark.parametrize("columns", [True, False], ids=["columns", "rows"])
def test_of_channels_that_are_equal_in_one_pixel_the_first(ends, columns):
    """Between two logits their difference is 0 exactly where a pixel's center is."""
    second = np.float32(ends).reshape((1, 2) if columns else (2, 1))
    logits = np.stack([second * 0, second])[np.newaxis]
    mask = found_in(load()).mask(logits, (4, 2) if columns else (2, 4))
    line = np.interp([0.25, 0.75, 1.25, 1.75], [0.5, 1.5], ends)
    assert 0 in line
    expected = np.broadcast_to((line > 0) if columns else (line > 0)[:, np.newaxis], mask[0].shape)
    np.testing.assert_array_equal(mask[0], expected)


@pytest.mark.parametrize("size", [(320, 180), (101, 77), (80, 60), (81, 300), (640, 61)])
@pytest.mark.parametrize(
    "logits", [LOGITS["like a scene"], LOGITS["noise"]], ids=["scene", "noise"]
)
def test_a_mask_of_any_size_is_the_argmax_of_the_enlarged_scores(logits, size):
    values = np.float32(logits())[:, :, :30, :40]
    enlarged = enlarge_to(enlarge_to(values.astype(np.float64), size[1], 2), size[0], 3)
    first, second = np.sort(enlarged, axis=1)[:, :-3:-1].swapaxes(0, 1)
    mask = found_in(load()).mask(values, size)
    assert mask.shape == (len(values), *size[::-1])
    assert not ((mask != enlarged.argmax(1)) & (first - second > 1e-5)).any()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_masks_at_the_cameras_size_come_from_the_scores(backend):
    """They agree with the label better than the network's mask enlarged by nearest pixel does."""
    pytest.importorskip(backend)
    sizes = [(1280, 720), (853, 481), (640, 480)]
    right, nearest = np.zeros(len(sizes)), np.zeros(len(sizes))
    with Segmenter(backend=backend) as segmenter:
        for i, size in enumerate(sizes):
            for seed in range(2):
                frame, label = StreetScene(seed, size).render(1.0)
                result = segmenter(frame, size=size)
                assert result.mask.shape == size[::-1]
                assert result.counts.sum() == size[0] * size[1]
                right[i] += (result.mask == label).mean()
                small = resize_mask(segmenter(frame).mask, size)
                nearest[i] += (small == label).mean()
                if size == segmenter.model.info.input_size:
                    np.testing.assert_array_equal(result.mask, small)
        # Fewer pixels than the scores have: the network's mask is left to be shrunk.
        frame, _ = StreetScene(1, (160, 90)).render(1.0)
        assert segmenter(frame, size=(160, 90)).mask.shape == (480, 640)
    assert (right[:2] > nearest[:2]).all() and right[2] == nearest[2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e30])
def test_a_picture_with_a_broken_logit_is_no_class(value):
    logits = smooth((2, 11, 10, 10))
    logits[1, 4, 3, 3] = value
    mask = found_in(load()).mask(logits)
    assert (mask[0] < 11).all() and (mask[1] == NO_CLASS).all()


def test_the_classes_of_relabel(tmp_path):
    path = tmp_path / "driving.onnx"
    relabel_model(model_path(REFERENCE), read_class_map(CLASSES, CAMVID), path)
    logits = smooth((1, 11, 30, 40))
    mask = found_in(onnx.load(path)).mask(logits)
    assert mask.max() < 6
    differ = mask != by_the_graph(onnx.load(path), logits)
    assert not (differ & ~uncertain(logits, FACTOR)).any()


def test_the_classes_of_relabel_twice(tmp_path):
    """The first file's classes are looked up first; the other way round gives others."""
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    relabel_model(model_path(REFERENCE), read_class_map(CLASSES, CAMVID), once)
    after = read_model_file(once).info.labels
    groups = [[name] for name in reversed(after.names[1:-1])] + [[after.names[0], after.names[-1]]]
    path = tmp_path / "classes.yaml"
    path.write_text(json.dumps({"name": "b", "classes": [{"name": g[0], "of": g} for g in groups]}))
    relabel_model(once, read_class_map(path, after), twice)
    logits = smooth((1, 11, 30, 40))
    differ = found_in(onnx.load(twice)).mask(logits) != by_the_graph(onnx.load(twice), logits)
    assert not (differ & ~uncertain(logits, FACTOR)).any()


def resize(model: onnx.ModelProto) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == "Resize"][-1]


def attribute(kind: str, name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == kind][-1]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def constant(kind: str, place: int, value: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = [node for node in model.graph.node if node.op_type == kind][-1]
        model.graph.initializer.append(numpy_helper.from_array(value, "another"))
        node.input[place] = "another"

    return change


def squeeze(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Squeeze")


def look_up(model: onnx.ModelProto, table: np.ndarray) -> None:
    """Put a table of classes before the mask's cast, as `relabel` does."""
    cast = next(node for node in model.graph.node if MASK in node.output)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", [cast.input[0]], ["index"], to=TensorProto.INT32),
            helper.make_node("Gather", ["table", "index"], ["class"]),
        ]
    )
    cast.input[0] = "class"


def test_a_table_of_classes_is_followed():
    model = load()
    look_up(model, np.arange(256, dtype=np.float32)[::-1])
    assert found_in(model).classes.tolist() == list(range(255, -1, -1))


def test_both_tests_for_nan_are_read():
    """Of the maximum, as the files have it that were shipped first, and of the sum."""
    old, new = load(), load()
    sum_logits_for_nan(new.graph)
    before, after = found_in(old), found_in(new)
    assert (before.logits, before.factor) == (after.logits, after.factor)
    assert np.array_equal(before.classes, after.classes)
    count = len(new.graph.node)
    sum_logits_for_nan(new.graph)
    assert len(new.graph.node) == count, "once is enough"
    logits = random.normal(size=(1, 11, 5, 7)).astype(np.float32)
    assert np.array_equal(by_the_graph(old, logits), by_the_graph(new, logits))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", SHIPPED)
def test_engines_are_built_from_graphs_whose_test_cannot_skip_nan(name: str, wrong: float):
    logits = random.normal(size=(2, 11, 4, 6)).astype(np.float32)
    logits[1, 3, 2, 2] = wrong
    built = onnx.load_from_string(_extract(model_path(name).read_bytes(), [MASK]))
    mask = mask_of_logits(built, logits)
    assert (mask[0] < 11).all() and (mask[1] == NO_CLASS).all()


def test_masks_of_a_float16_file_are_enlarged_in_float16_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Some pixels on the seams change, and nothing is lost: NaN is still seen, and overflow."""
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = model_for("", "tensorrt")
    data = model.path.read_bytes()
    built = onnx.load_from_string(_extract(data, [MASK]))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(built).graph.value_info
    }
    assert types[resize(built).output[0]] == TensorProto.FLOAT16
    scene = StreetScene(5, model.info.input_size)
    images = np.stack([scene.render(2.0 * n)[0] for n in range(2)])
    masks = []
    for graph in (onnx.load_from_string(data), built):
        session = runtime.InferenceSession(graph.SerializeToString())
        masks.append(session.run([MASK], {"image": images})[0])
    assert 0.9995 < np.mean(masks[0] == masks[1]) <= 1

    whole = onnx.load_from_string(_extract(data, [MASK, "confidence"]))
    assert {types[name] for name in resize(built).output} == {TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(whole).graph.value_info
    enlarged = next(value for value in inferred if value.name == resize(whole).output[0])
    assert enlarged.type.tensor_type.elem_type == TensorProto.FLOAT, "confidence needs the digits"


@pytest.mark.parametrize("name", SHIPPED)
def test_other_precisions_are_enlarged_in_float32(name: str):
    built = onnx.load_from_string(_extract(model_path(name).read_bytes(), [MASK]))
    before = built.SerializeToString()
    enlarge_in_float16(built)
    assert built.SerializeToString() == before


def another_sum(model: onnx.ModelProto) -> None:
    sum_logits_for_nan(model.graph)
    magnitude = next(node for node in model.graph.node if node.op_type == "Abs")
    magnitude.input[0] = resize(model).output[0]


OTHERS: dict[str, Callable[[onnx.ModelProto], object]] = {
    "corners aligned": attribute("Resize", "coordinate_transformation_mode", "align_corners"),
    "nearest": attribute("Resize", "mode", "nearest"),
    "odd": constant("Resize", 2, np.float32([1, 1, 3, 3])),
    "uneven": constant("Resize", 2, np.float32([1, 1, 8, 4])),
    "broken": constant("Resize", 2, np.float32([1, 1, 2.5, 2.5])),
    "two": constant("TopK", 1, np.int64([2])),
    "smallest": attribute("TopK", "largest", 0),
    "axis": attribute("TopK", "axis", 2),
    "no axes": lambda model: squeeze(model).input.pop(),
    "two inputs": lambda model: resize(model).input.pop(),
    "short table": lambda model: look_up(model, np.arange(19, dtype=np.float32)),
    "table beyond bytes": lambda model: look_up(model, np.arange(1000, 1256, dtype=np.float32)),
    "another sum": another_sum,
    "another limit": constant("Less", 1, np.float32(1)),
    "another value": constant("Where", 2, np.float32(254)),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_another_end_is_not_taken_for_this_one(change):
    model = load()
    assert find_tail(model.graph)
    change(model)
    assert find_tail(model.graph) is None


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_backends_give_the_whole_graphs_mask(name, runtime, monkeypatch):
    pytest.importorskip(runtime)
    model = read_model_file(model_path(name))
    width, height = model.info.input_size
    scene = StreetScene(5, (width, height))
    images = np.stack([scene.render(seconds)[0] for seconds in (0.0, 4.0)])
    with_tail = create_backend(model, runtime, "cpu", threads=1)
    mask = np.array(with_tail.infer(images)[0])
    same, confidence = with_tail.infer(images, confidence=True)
    np.testing.assert_array_equal(mask, same)
    monkeypatch.setattr(f"bisenetv2_ros.backends.{runtime}.find_tail", lambda graph: None)
    whole = create_backend(model, runtime, "cpu", threads=1)
    expected, expected_confidence = whole.infer(images, confidence=True)
    np.testing.assert_array_equal(confidence, expected_confidence)
    # An int8 file's float part is bfloat16 in OpenVINO: the whole graph then has fewer digits.
    required = 0.9999 if name == REFERENCE or runtime == "onnxruntime" else 0.997
    assert np.mean(mask == expected) >= required
