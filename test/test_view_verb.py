"""`bisenetv2 view`: Rerun is given what the segmenter says. The viewer itself is not asked."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from drive import NAMES, SIZE, write_drive
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.segmenter import Segmenter


@pytest.fixture
def model(tmp_path) -> Path:
    return write_tiny_model(tmp_path / "bisenetv2_tiny_96x64_float32.onnx", tiny_info((96, 64)))


@pytest.fixture
def drive(tmp_path) -> Path:
    return write_drive(tmp_path / "drive")


def view(*words: object) -> int:
    return main(["view", *map(str, words)])


def test_the_file_has_pictures_masks_names_colours_and_fractions(tmp_path, drive, model):
    # Releases of Rerun before this module can write the file but have another way to read it.
    chunk = pytest.importorskip("rerun.chunk")
    path = tmp_path / "drive.rrd"
    region = ("--region", "right: 0.5 0, 1 0, 1 1, 0.5 1")
    assert view(drive, "--model", model, "--save", path, *region) == 0

    found: dict[str, list] = {}
    times: dict[str, list[float]] = {}
    for part in chunk.RrdReader(str(path)).stream():
        columns = part.to_record_batch()
        for name in columns.schema.names:
            if ":" in name:
                values = found.setdefault(f"{part.entity_path} {name}", [])
                values.extend(columns.column(name).to_pylist())
        if "time" in columns.schema.names:
            nanoseconds = columns.column("time").cast("int64").to_pylist()
            times.setdefault(part.entity_path, []).extend(value / 1e9 for value in nanoseconds)

    [[context]] = found["/ AnnotationContext:context"]
    annotations = [entry["class_description"]["info"] for entry in context]
    assert [entry["label"] for entry in annotations] == list(CAMVID.names)
    colours = [entry["color"].to_bytes(4, "big") for entry in annotations]
    assert colours == [bytes((*colour, 255)) for colour in CAMVID.palette]
    [series] = found["/camera/fractions SeriesLines:names"]
    assert series == list(CAMVID.names)

    with Segmenter(model) as segmenter:
        for i, name in enumerate(NAMES):
            image = cv2.imread(str(drive / f"{name}.png"))[..., ::-1]
            result = segmenter(np.ascontiguousarray(image))
            assert np.count_nonzero(result.counts) > 2  # something to compare
            jpeg = np.array(found["/camera/image EncodedImage:blob"][i][0], np.uint8)
            decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
            assert decoded.shape == image.shape
            assert np.abs(decoded.astype(int) - image).mean() < 5
            mask = np.array(found["/camera/image/mask SegmentationImage:buffer"][i][0], np.uint8)
            expected = resize_mask(result.mask, SIZE)
            np.testing.assert_array_equal(mask.reshape(expected.shape), expected)
            shares = found["/camera/fractions Scalars:scalars"][i]
            np.testing.assert_allclose(shares, result.counts / result.mask.size)
            part = result.mask[:, 48:]
            counts = np.bincount(part.ravel(), minlength=len(CAMVID))
            shares = found["/camera/regions/right Scalars:scalars"][i]
            np.testing.assert_allclose(shares, counts / part.size)
    assert times["/camera/image/mask"] == pytest.approx([0, 1 / 15, 2 / 15], abs=1e-6)
    [[outline]] = found["/camera/image/regions LineStrips2D:strips"]
    assert outline == [[75, 0], [150, 0], [150, 100], [75, 100], [75, 0]]


def test_without_the_library_one_line_says_what_to_install(drive, model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    monkeypatch.delitem(sys.modules, "bisenetv2_ros.offline.rerun_log", raising=False)
    assert view(drive, "--model", model, "--save", "out.rrd") == 2
    error = capsys.readouterr().err
    assert "'rerun' is not installed: run `pip install 'rerun-sdk" in error
    assert len(error.splitlines()) == 1


def test_without_a_screen_the_file_is_suggested(drive, model, capsys, monkeypatch):
    pytest.importorskip("rerun")
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert view(drive, "--model", model) == 2
    assert "give --save FILE.rrd" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(tmp_path, drive, model, capsys):
    pytest.importorskip("rerun")
    path = tmp_path / "nowhere" / "drive.rrd"
    assert view(drive, "--model", model, "--save", path) == 2
    assert f"--save: {path}: there is no folder {path.parent}" in capsys.readouterr().err


def test_a_full_disk_is_named(drive, model, capsys):
    pytest.importorskip("rerun")
    assert view(drive, "--model", model, "--save", "/dev/full") == 1
    error = capsys.readouterr().err
    assert "error: Rerun cannot write: " in error and error.strip().endswith("'/dev/full'")
    assert "Traceback" not in error
