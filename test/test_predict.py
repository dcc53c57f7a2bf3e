"""`bisenetv2 predict`: the files say what the segmenter says, and accidents cost little."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from drive import NAMES, SIZE, write_drive
from patience import HANG
from tiny_model import tiny_info, write_model_without_class, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.files.video import VideoFile
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.offline.result_files import KINDS, ResultFiles
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.sources.frame_source import open_source
from bisenetv2_ros.visualization import overlay


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_model(folder / "bisenetv2_tiny_96x64_float32.onnx", tiny_info((96, 64)))


@pytest.fixture
def drive(tmp_path) -> Path:
    return write_drive(tmp_path / "drive")


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, f"no picture {path}"
    return image if image.ndim == 2 else image[..., ::-1]


def test_every_kind_of_result(tmp_path, drive, model):
    out = tmp_path / "out"
    kinds = [kind for kind in KINDS if kind != "bag"]  # that needs a bag: test_bag.py
    words = ("--model", model, "--save", ",".join(kinds), "--opacity", 0.25)
    assert predict(drive, "-o", out, *words) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "colour", "fractions.csv", "fractions.jsonl", "masks", "overlay", "video.mp4",
    ]  # fmt: skip
    with (out / "fractions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == list(NAMES)
    records = [json.loads(line) for line in (out / "fractions.jsonl").read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        numbers = {"time_s": record["time_s"], "inference_s": record["inference_s"]}
        numbers |= record.pop("fractions")
        texts = {key: record[key] for key in ("frame", "source")} | {"stamp": ""}
        assert row == texts | {k: f"{v:.6f}" for k, v in numbers.items()}
        assert row["source"] == str(drive / f"{row['frame']}.png")
    with Segmenter(model) as segmenter:
        for i, (name, row) in enumerate(zip(NAMES, rows, strict=True)):
            image = read(drive / f"{name}.png")
            result = segmenter(image)
            mask = resize_mask(result.mask, SIZE)
            assert len(np.unique(mask)) > 2  # something to compare
            np.testing.assert_array_equal(read(out / "masks" / f"{name}.png"), mask)
            np.testing.assert_array_equal(
                read(out / "colour" / f"{name}.png"), CAMVID.colour_table()[mask]
            )
            np.testing.assert_array_equal(
                read(out / "overlay" / f"{name}.png"),
                overlay(image, mask, segmenter.model.info.labels, 0.25),
            )
            written = [float(row[name]) for name in CAMVID.names]
            np.testing.assert_allclose(written, result.counts / result.mask.size, atol=1e-6)
            assert float(row["time_s"]) == pytest.approx(i / 15, abs=1e-6)
            assert 0 < float(row["inference_s"]) < 10
    capture = cv2.VideoCapture(str(out / "video.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == len(NAMES)


def test_masks_at_the_frames_size_come_from_the_scores(tmp_path, drive):
    """With the package's model: not the network's mask enlarged by nearest pixel."""
    words = (drive, "--backend", "openvino", "--frames", 1, "--save", "masks")
    assert predict(*words, "-o", tmp_path / "camera") == 0
    assert predict(*words, "-o", tmp_path / "network", "--mask-size", "network") == 0
    name = f"{NAMES[0]}.png"
    image = np.ascontiguousarray(read(drive / name))
    large = cv2.resize(image, (1300, 700))
    (tmp_path / "large").mkdir()
    write_picture(tmp_path / "large" / name, large)
    assert predict(tmp_path / "large", *words[1:], "-o", tmp_path / "big") == 0
    with Segmenter(backend="openvino") as segmenter:
        network = segmenter(large).mask
        expected = segmenter(large, size=(1300, 700)).mask
        small = segmenter(image).mask
    np.testing.assert_array_equal(read(tmp_path / "big" / "masks" / name), expected)
    assert (expected != resize_mask(network, (1300, 700))).any()
    np.testing.assert_array_equal(read(tmp_path / "network" / "masks" / name), small)
    assert read(tmp_path / "camera" / "masks" / name).shape == image.shape[:2]


def test_only_what_is_asked_for(tmp_path, drive, model):
    assert predict(drive, "-o", tmp_path / "out", "--model", model, "--save", "masks") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]


def test_video_source(tmp_path, model):
    video = VideoFile(tmp_path / "drive.mp4", 10)
    for level in (20, 120, 220):
        video.write(np.full((64, 96, 3), level, "u1"))
    video.close()
    out = tmp_path / "out"
    words = ("--model", model, "--save", "masks,fractions", "--frames", 2)
    assert predict(tmp_path / "drive.mp4", "-o", out, *words) == 0
    masks = sorted((out / "masks").iterdir())
    assert len(masks) == 2  # of three, as asked
    for path, level in zip(masks, (20, 120), strict=True):
        assert abs(int(np.median(read(path))) - level // 16) <= 1
    times = [line.split(",")[1] for line in (out / "fractions.csv").read_text().splitlines()[1:]]
    assert times == ["0.000000", "0.100000"]


def test_frames_of_one_name_do_not_replace_each_other(tmp_path, drive, model):
    (drive / "2.bmp").write_bytes(cv2.imencode(".bmp", np.zeros((10, 10, 3), "u1"))[1].tobytes())
    assert predict(drive, "-o", tmp_path / "out", "--model", model, "--save", "masks") == 0
    masks = {path.name: read(path).shape for path in (tmp_path / "out" / "masks").iterdir()}
    assert masks == {
        "2.png": (10, 10), "2_2.png": (100, 150), "10.png": (100, 150), "b.png": (100, 150),
    }  # fmt: skip


def test_many_frames_of_one_name_cost_no_more_than_others(tmp_path, drive, model):
    source = open_source(str(drive))
    with Segmenter(model) as segmenter:
        results = ResultFiles(tmp_path / "out", segmenter, (), source)

    def timed(stems) -> tuple[float, list[str]]:
        began = time.process_time()
        names = [results._unused(stem) for stem in stems]
        return time.process_time() - began, names

    as_others, _ = timed(f"1_{number:09d}" for number in range(20_000))
    of_one_name, names = timed(["0_000000000"] * 20_000)
    assert of_one_name < 20 * as_others
    assert names[:2] + names[-1:] == ["0_000000000", "0_000000000_2", "0_000000000_20000"]
    assert results._unused("0_000000000_2") == "0_000000000_2_2"


def test_model_without_an_answer_is_one_line(tmp_path, drive, capsys):
    path = write_model_without_class(tmp_path / "nan.onnx", "everywhere")
    assert predict(drive, "-o", tmp_path / "out", "--model", path) == 2
    error = capsys.readouterr().err
    assert "error: model 'nan' on" in error and len(error.splitlines()) == 1


def test_frame_without_an_answer_is_named(tmp_path, capsys):
    path = write_model_without_class(tmp_path / "nan.onnx", "bright")
    (tmp_path / "drive").mkdir()
    for name, level in (("dark", 0), ("bright", 255)):
        write_picture(tmp_path / "drive" / f"{name}.png", np.full((24, 32, 3), level, "u1"))
    assert predict(tmp_path / "drive", "-o", tmp_path / "out", "--model", path) == 1
    error = capsys.readouterr().err
    assert "skipped bright.png: model 'nan' on" in error
    assert "1 of 2 frames skipped" in error


def test_damaged_picture_is_named_and_passed_over(tmp_path, drive, model, capsys):
    whole = (drive / "10.png").read_bytes()
    (drive / "10.png").write_bytes(whole[: len(whole) // 2])
    assert predict(drive, "-o", tmp_path / "out", "--model", model) == 1
    masks = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert masks == ["2.png", "b.png"]
    error = capsys.readouterr().err
    assert f"skipped {drive / '10.png'}: " in error
    assert "error: 1 of 3 frames skipped" in error


def test_source_without_a_whole_picture(tmp_path, drive, model, capsys):
    for name in NAMES:
        (drive / f"{name}.png").write_bytes(b"")
    assert predict(drive, "-o", tmp_path / "out", "--model", model) == 2
    assert "3 images, none can be read" in capsys.readouterr().err


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_keep_what_is_done(tmp_path, model, by):
    if signal.getsignal(by) is signal.SIG_IGN:
        pytest.skip(f"{by.name} is ignored here")
    out = tmp_path / "out"
    words = ["synthetic", "-o", out, "--model", model, "--save", "masks,video,fractions"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bisenetv2_ros.cli.main", "predict", *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + HANG
    while len(list(out.glob("masks/*"))) < 3 and time.monotonic() < give_up:
        time.sleep(0.05)
    os.kill(process.pid, by)
    _, error = process.communicate(timeout=HANG)
    assert process.returncode == 128 + by
    assert "Traceback" not in error
    masks = sorted((out / "masks").iterdir())
    assert f"{len(masks)} frames segmented, results in {out}" in error
    assert all(read(path).shape == (720, 960) for path in masks)
    capture = cv2.VideoCapture(str(out / "video.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == len(masks)
    assert len((out / "fractions.csv").read_text().splitlines()) == 1 + len(masks)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--save", "masks,pictures"), "argument --save: got 'pictures', expected any of masks,"),
        (("--opacity", "2"), "argument --opacity: got 2, expected 0 to 1"),
        (("--backend", "abacus"), "backend 'abacus' is unknown"),
        (("--model", "nowhere.onnx"), "nowhere.onnx"),
    ],
)
def test_wrong_options_are_refused_in_one_line(tmp_path, drive, model, capsys, words, message):
    try:
        code = predict(drive, "-o", tmp_path / "out", "--model", model, *words)
    except SystemExit as exit_:  # argparse
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_named(tmp_path, drive, model, capsys):
    (tmp_path / "out").write_text("")
    assert predict(drive, "-o", tmp_path / "out", "--model", model) == 2
    assert f"{tmp_path / 'out'}: is a file, expected a folder" in capsys.readouterr().err


def test_regions_are_counted_and_drawn(tmp_path, drive, model):
    out = tmp_path / "out"
    region = ("--region", "right: 0.5 0, 1 0, 1 1, 0.5 1")
    words = ("--model", model, "--save", "masks,overlay,jsonl", "--mask-size", "network", *region)
    assert predict(drive, "-o", out, *words) == 0
    for line in (out / "fractions.jsonl").read_text().splitlines():
        record = json.loads(line)
        mask = read(out / "masks" / f"{record['frame']}.png")
        assert mask.shape == (64, 96)
        expected = np.bincount(mask[:, 48:].ravel(), minlength=len(CAMVID)) / (48 * 64)
        assert list(record["regions"]) == ["right"]
        np.testing.assert_allclose(list(record["regions"]["right"].values()), expected, atol=1e-6)
        assert read(out / "overlay" / f"{record['frame']}.png")[50, 74].min() > 200


def test_wrong_region_is_refused(tmp_path, drive, model, capsys):
    words = ("--model", model, "--region", "right: 0.5 0, 1 0")
    assert predict(drive, "-o", tmp_path / "out", *words) == 2
    assert "region 'right: 0.5 0, 1 0': expected at least three points" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
