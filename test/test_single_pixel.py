"""Images of one pixel, everywhere: OpenCV 4.5.4, of Ubuntu 22.04, refuses those with channels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.files.images import read_image, write_picture
from bisenetv2_ros.opencv import convert_color, resize
from bisenetv2_ros.outputs import COMPRESSED, FrameOutputs
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.segmenter import Segmentation

PIXEL = np.array([[[10, 20, 30]]], np.uint8)


def test_channels_are_swapped_and_alpha_goes():
    np.testing.assert_array_equal(convert_color(PIXEL, cv2.COLOR_RGB2BGR), PIXEL[..., ::-1])
    with_alpha = np.concatenate([PIXEL, PIXEL[..., :1]], axis=2)
    np.testing.assert_array_equal(convert_color(with_alpha, cv2.COLOR_BGRA2RGB), PIXEL[..., ::-1])
    assert convert_color(PIXEL, cv2.COLOR_RGB2GRAY).shape == (1, 1)
    assert convert_color(PIXEL[..., 0], cv2.COLOR_GRAY2RGB).tolist() == [[[10, 10, 10]]]


@pytest.mark.parametrize("size", [(4, 2), (1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_it_is_enlarged_to_its_color(size, dtype):
    large = resize(PIXEL.astype(dtype), size, cv2.INTER_AREA)
    assert large.dtype == dtype and large.shape == (*size[::-1], 3)
    assert (large == PIXEL).all()
    assert (resize_image(PIXEL, size) == PIXEL).all()


def test_files_keep_it(tmp_path):
    write_picture(tmp_path / "a.png", PIXEL)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PIXEL)


def test_every_output_of_it():
    segmentation = Segmentation(
        np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), np.eye(1, 11, dtype=int)[0], 0.01
    )
    model = SimpleNamespace(name="tiny", info=tiny_info())
    for order in ("rgb", "bgr"):
        outputs = FrameOutputs(image=PIXEL, order=order, segmentation=segmentation, model=model)
        for name in COMPRESSED:
            pixels = cv2.imdecode(outputs.compressed(name), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == outputs.pixels(name).shape
            assert pixels.shape[:2] == (1, 1)


def test_predict_takes_and_writes_it(tmp_path: Path):
    model = write_tiny_model(tmp_path / "model.onnx")
    (tmp_path / "in").mkdir()
    write_picture(tmp_path / "in" / "a.png", PIXEL)
    saved = "masks,colour,overlay,video,fractions,jsonl"
    words = ["predict", tmp_path / "in", "--model", model, "-o", tmp_path / "out", "--save", saved]
    assert main([str(word) for word in words]) == 0
    for name in ("masks/a.png", "colour/a.png", "overlay/a.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).shape == (1, 1, 3)
