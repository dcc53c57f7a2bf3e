"""`bisenetv2 resize`: the new file computes what an export at its size computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.model_file import models_directory, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.street.scene import StreetScene


def resize(*words: object) -> int:
    return main(["resize", *map(str, words)])


def export_small(path: Path, size: tuple[int, int], shuffle: int = 1) -> Path:
    """A model file of `small_network(shuffle=shuffle)` for pictures of `size` (width, height)."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from small_network import small_network, street_frames

    from bisenetv2_ros.training.export import export_model

    info = dataclasses.replace(tiny_info(), input_size=size)
    export_model(small_network(shuffle=shuffle), info, path, street_frames(1))
    return path


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("size", [(64, 32), (128, 96)])
def test_the_network_of_the_new_size(tmp_path: Path, size: tuple[int, int], shuffle: int) -> None:
    source = export_small(tmp_path / "source.onnx", (96, 64), shuffle)
    import torch
    from small_network import small_network, street_frames

    network = small_network(shuffle=shuffle)
    out = tmp_path / "out.onnx"
    assert resize(source, "--size", "{}x{}".format(*size), "-o", out) == 0
    frame = np.ascontiguousarray(resize_image(street_frames(1)[0], size))
    with torch.inference_mode():
        expected = network(torch.from_numpy(frame[None]))[0][0].numpy()
    assert len(np.unique(expected)) > 2, "a mask that shows whether it is the right one"
    with Segmenter(out, backend="onnxruntime") as segmenter:
        assert (segmenter(frame).mask == expected).mean() > 0.999


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_shipped_models_in_the_shape_of_other_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, precision: str
) -> None:
    """What both sizes say of one street is mostly the same."""
    pytest.importorskip(backend)
    monkeypatch.chdir(tmp_path)
    name = f"bisenetv2_camvid_640x480_{precision}"
    assert resize(name, "--size", "640x352") == 0
    old = read_model_file(models_directory() / f"{name}.onnx")
    new = read_model_file(tmp_path / f"bisenetv2_camvid_640x352_{precision}.onnx")
    assert new.info == dataclasses.replace(old.info, input_size=(640, 352), metrics={})
    frame, truth = StreetScene(3, (640, 352)).render(1.0)
    with Segmenter(old, backend=backend) as before, Segmenter(new, backend=backend) as after:
        one, other = before(frame), after(frame)
        assert other.mask.shape == (352, 640)
        difference = np.abs(one.counts / one.mask.size - other.counts / other.mask.size)
        assert difference.max() < 0.05
        assert (other.mask == truth).mean() > 0.8


def test_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny_model(tmp_path / "tiny.onnx")  # 32x24
    out = tmp_path / "out.onnx"
    assert resize(source, "--size", "64x32", "-o", out, "--metric", "mIoU val=0.7") == 0
    assert "out.onnx: 64x32, 267% of the pixels of 32x24" in capsys.readouterr().out
    assert read_model_file(out).info.metrics == {"mIoU val": 0.7}


def test_the_name_of_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for before, after in (("a_32x24_b", "a_64x32_b"), ("model", "model_64x32")):
        write_tiny_model(tmp_path / f"{before}.onnx")
        assert resize(f"{before}.onnx", "--size", "64x32") == 0
        assert read_model_file(tmp_path / f"{after}.onnx").info.input_size == (64, 32)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("640x360", "size is 640x360, expected multiples of 32"),
        ("0x32", "input_size must be within 1..4096 pixels, got 0x32"),
        ("8192x32", "input_size must be within 1..4096 pixels, got 8192x32"),
    ],
)
def test_a_size_that_no_network_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str, message: str
) -> None:
    source = write_tiny_model(tmp_path / "tiny.onnx")
    assert resize(source, "--size", size, "-o", tmp_path / "out.onnx") == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_file_that_is_bound_to_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes that the network's factors do not divide are written into the graph."""
    source = export_small(tmp_path / "source.onnx", (72, 40))
    assert resize(source, "--size", "64x32", "-o", tmp_path / "out.onnx") == 2
    error = capsys.readouterr().err
    assert "is fixed to images of 72x40, expected a factor" in error
    assert "export the run for 64x32 instead" in error


def test_the_source_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tiny_model(tmp_path / "tiny.onnx")
    before = source.read_bytes()
    assert resize(source, "--size", "64x32", "-o", source) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert source.read_bytes() == before
