"""From frames of any size, order and strides to masks, counts and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_answer, write_model_without_class, write_tiny_model

from bisenetv2_ros.backends import Backend
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.model_file import ModelFileError, read_model_file
from bisenetv2_ros.resize import resize_image, resize_mask
from bisenetv2_ros.segmenter import InferenceError, Segmenter
from bisenetv2_ros.visualization import colorize
from bisenetv2_ros.visualization import overlay as blend


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
    with Segmenter(path, threads=1) as segmenter:
        yield segmenter


def noise(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def expected_mask(image_rgb: np.ndarray) -> np.ndarray:
    """What the tiny model says of a frame, through the documented resize."""
    small = resize_image(np.ascontiguousarray(image_rgb), (32, 24))
    return tiny_answer(small[np.newaxis])[0][0]


def test_frame_of_the_networks_size(segmenter: Segmenter):
    image = noise()
    result = segmenter(image, confidence=True)
    mask, confidence = tiny_answer(image[np.newaxis])
    assert np.array_equal(result.mask, mask[0])
    assert result.confidence is not None and np.array_equal(result.confidence, confidence[0])
    assert result.inference_seconds > 0


def test_counts_are_the_pixels_of_each_class(segmenter: Segmenter):
    result = segmenter(noise())
    assert result.counts.dtype == np.int64 and result.counts.shape == (11,)
    assert [int((result.mask == c).sum()) for c in range(11)] == result.counts.tolist()
    assert result.counts.sum() == 24 * 32


def test_confidence_is_none_unless_asked_for(segmenter: Segmenter):
    assert segmenter(noise()).confidence is None


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (20, 30), (480, 640), (1, 1), (7, 900)])
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_any_size_and_order(segmenter: Segmenter, size: tuple[int, int], channel_order):
    rgb = noise(*size)
    image = rgb if channel_order == "rgb" else rgb[..., ::-1].copy()
    before = image.copy()
    result = segmenter(image, channel_order=channel_order)
    assert result.mask.shape == (24, 32)
    assert np.array_equal(result.mask, expected_mask(rgb))
    assert np.array_equal(image, before), "the frame itself was changed"


@settings(max_examples=60, deadline=None)
@given(
    top=st.integers(0, 30),
    left=st.integers(0, 30),
    step=st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 2), (-1, 1), (1, -1), (-2, -2)]),
    swap=st.booleans(),
    transpose=st.booleans(),
    channel_order=st.sampled_from(["rgb", "bgr"]),
)
def test_any_strides(segmenter: Segmenter, top, left, step, swap, transpose, channel_order):
    whole = noise(100, 120, seed=3)
    view = whole[top:, left:][:: step[0], :: step[1]]
    if swap:
        view = view[..., ::-1]
    if transpose:
        view = view.transpose(1, 0, 2)
    rgb = view if channel_order == "rgb" else view[..., ::-1]
    result = segmenter(view, channel_order=channel_order)
    assert np.array_equal(result.mask, expected_mask(rgb))


def test_padded_rows_and_read_only_memory(segmenter: Segmenter):
    """As an image message of ROS with padded rows arrives: a read-only view of its bytes."""
    data = bytes(noise(50, 67, seed=4))
    image = np.frombuffer(data, np.uint8)[: 50 * 200].reshape(50, 200)[:, :192].reshape(50, 64, 3)
    rows = np.lib.stride_tricks.as_strided(
        np.frombuffer(data, np.uint8), (50, 64, 3), (200, 3, 1), writeable=False
    )
    assert np.array_equal(segmenter(rows).mask, expected_mask(image))


def test_frames_of_several_sizes_at_once(segmenter: Segmenter):
    small, large = noise(seed=1), noise(50, 64, seed=2)
    frames = [(small, "rgb"), (large, "bgr"), (large, "rgb"), (small, "bgr")]
    for _ in range(2):
        results = segmenter.segment_batch(frames, confidence=True)
        for (image, order), result in zip(frames, results, strict=True):
            alone = segmenter(image, channel_order=order, confidence=True)
            assert np.array_equal(result.mask, alone.mask)
            assert np.array_equal(result.confidence, alone.confidence)
            assert np.array_equal(result.counts, alone.counts)
        frames.reverse()


def test_results_stay_as_they_are_when_the_next_frame_comes(segmenter: Segmenter):
    first = segmenter(noise(seed=1), confidence=True)
    mask, confidence = first.mask.copy(), first.confidence.copy()
    segmenter(noise(seed=2), confidence=True)
    assert np.array_equal(first.mask, mask)
    assert np.array_equal(first.confidence, confidence)


@pytest.mark.parametrize(
    ("image", "received"),
    [
        (noise().astype(np.float32), r"float32 \(24, 32, 3\)"),
        (noise()[..., 0], r"uint8 \(24, 32\)"),
        (noise()[..., :2], r"uint8 \(24, 32, 2\)"),
        (np.zeros((24, 32, 4), np.uint8), r"uint8 \(24, 32, 4\)"),
        (np.zeros((0, 32, 3), np.uint8), r"uint8 \(0, 32, 3\)"),
        (noise()[np.newaxis], r"uint8 \(1, 24, 32, 3\)"),
        (None, "NoneType"),
    ],
)
def test_wrong_frames_are_named(segmenter: Segmenter, image, received: str):
    with pytest.raises(ValueError, match=rf"image is {received}, expected .*\(H, W, 3\)"):
        segmenter(image)


def test_wrong_channel_order(segmenter: Segmenter):
    with pytest.raises(ValueError, match="'rgb' or 'bgr', got 'yuv'"):
        segmenter(noise(), channel_order="yuv")


# --- models --------------------------------------------------------------------------------------


def test_a_read_model_file_is_taken_too(tmp_path: Path):
    model = read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))
    with Segmenter(model, backend="onnxruntime") as segmenter:
        assert segmenter.model is model
        assert segmenter.backend.name == "onnxruntime"


def test_a_missing_model_is_named(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"nowhere\.onnx: No such file"):
        Segmenter(tmp_path / "nowhere.onnx")


def test_a_network_that_never_answers_is_refused_at_the_start(tmp_path: Path, monkeypatch):
    closed = []
    monkeypatch.setattr(Backend, "close", lambda backend: closed.append(backend))
    path = write_model_without_class(tmp_path / "nan.onnx", "everywhere")
    with pytest.raises(InferenceError, match=r"'nan' on .*: 768 of 768 pixels are no class"):
        Segmenter(path, backend="onnxruntime")
    assert len(closed) == 1, "its memory is not given back"


def test_a_frame_without_an_answer_does_not_spoil_the_next(tmp_path: Path):
    path = write_model_without_class(tmp_path / "nan.onnx", "bright")
    with Segmenter(path) as segmenter:
        image = np.zeros((24, 32, 3), np.uint8)
        image[5, 6, 0] = 255
        with pytest.raises(InferenceError, match="1 of 768 pixels are no class"):
            segmenter(image)
        assert segmenter(np.zeros_like(image)).counts[0] == 768


# --- pictures ------------------------------------------------------------------------------------


def test_colours_are_the_palette():
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(colorize(mask, CAMVID), CAMVID.colour_table()[mask])
    assert np.array_equal(colorize(mask.T, CAMVID), CAMVID.colour_table()[mask.T])


def test_overlay_blends_at_the_frames_size(segmenter: Segmenter):
    image = noise(48, 64)
    mask = segmenter(image).mask
    colours = CAMVID.colour_table()[resize_mask(mask, (64, 48))].astype(float)
    for opacity in (0, 0.25, 1):
        overlay = blend(image[..., ::-1], mask, CAMVID, opacity)
        assert overlay.shape == (48, 64, 3) and overlay.dtype == np.uint8
        expected = (1 - opacity) * image[..., ::-1] + opacity * colours
        assert np.abs(overlay - expected).max() <= 0.51


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_out_of_range(opacity: float):
    with pytest.raises(ValueError, match=rf"opacity must be within 0\.\.1, got {opacity}"):
        blend(noise(), np.zeros((24, 32), np.uint8), CAMVID, opacity)


# --- the two resizes -----------------------------------------------------------------------------


def test_strong_shrinking_averages_areas():
    """Linear interpolation by 8 looks at single pixels of a fine pattern; the average does not."""
    checkers = np.indices((192, 256)).sum(0) % 2 * np.uint8(255)
    image = np.repeat(checkers[..., np.newaxis], 3, 2).astype(np.uint8)
    small = resize_image(image, (32, 24))
    assert np.abs(small.astype(int) - 127).max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_strong_shrinking_of_one_axis_averages_while_the_other_grows(turned: bool):
    """Every third line white: a third of the light, not what single pixels show."""
    image = np.zeros((432, 1920, 3), np.uint8)
    image[:, 2::3] = 255
    if turned:
        small = resize_image(image.transpose(1, 0, 2), (480, 640))
    else:
        small = resize_image(image, (640, 480))
    assert np.abs(small.astype(int) - 85).max() <= 1


@pytest.mark.parametrize(
    ("size", "interpolation"),
    [
        ((64, 48), cv2.INTER_LINEAR),
        ((65, 48), cv2.INTER_AREA),
        ((64, 49), cv2.INTER_AREA),
        ((8, 8), cv2.INTER_LINEAR),
    ],
)
def test_interpolation_changes_at_one_half(size: tuple[int, int], interpolation: int):
    image = noise(size[1], size[0])
    expected = cv2.resize(image, (32, 24), interpolation=interpolation)
    assert np.array_equal(resize_image(image, (32, 24)), expected)


@pytest.mark.parametrize(("size", "halves"), [((96, 72), 1), ((200, 100), 2)])
def test_large_frames_are_halved_and_then_interpolated(size: tuple[int, int], halves: int):
    image = noise(size[1], size[0])
    expected = image.astype(float)
    for _ in range(halves):
        height, width = expected.shape[0] // 2, expected.shape[1] // 2
        expected = expected.reshape(height, 2, width, 2, 3).mean((1, 3))
    expected = cv2.resize(expected, (32, 24), interpolation=cv2.INTER_LINEAR)
    assert np.abs(resize_image(image, (32, 24)) - expected).max() <= 1.5  # rounded at each step


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (128, 96), (50, 40), (90, 30), (20, 10)])
def test_a_resized_frame_goes_where_it_is_asked_to(size: tuple[int, int]):
    image = noise(size[1], size[0])
    out = np.zeros((24, 32, 3), np.uint8)
    assert np.shares_memory(resize_image(image, (32, 24), out), out)
    assert np.array_equal(out, resize_image(image, (32, 24)))


def test_equal_sizes_are_not_copied():
    image = noise()
    assert resize_image(image, (32, 24)) is image
    assert resize_mask(image[..., 0], (32, 24)).base is image


def test_masks_keep_pixel_centres():
    """Halving and doubling neither shift a mask nor invent classes."""
    mask = np.array([[1, 2], [3, 9]], np.uint8)
    large = resize_mask(mask, (6, 4))
    assert np.array_equal(large, np.repeat(np.repeat(mask, 2, 0), 3, 1))
    assert np.array_equal(resize_mask(large, (2, 2)), mask)
    assert np.array_equal(large[::-1], resize_mask(mask[::-1], (6, 4)))


def test_mask_resize_takes_strided_masks():
    mask = np.random.default_rng(0).integers(0, 11, (20, 30, 2), np.uint8)[..., 0]
    assert np.array_equal(resize_mask(mask, (60, 40)), np.repeat(np.repeat(mask, 2, 0), 2, 1))
