"""Label sets: known colours, the lookup table, and fields that contradict each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bisenetv2_ros.labels import CAMVID, CITYSCAPES, LabelSet


def test_camvid_follows_the_order_of_its_label_files():
    assert len(CAMVID) == 11
    assert CAMVID.names[3] == "road" and CAMVID.palette[3] == (128, 64, 128)
    assert CAMVID.names[10] == "bicyclist" and CAMVID.palette[10] == (0, 128, 192)


def test_cityscapes_follows_the_train_ids():
    assert len(CITYSCAPES) == 19
    assert CITYSCAPES.names[10] == "sky" and CITYSCAPES.palette[10] == (70, 130, 180)
    assert CITYSCAPES.names[18] == "bicycle" and CITYSCAPES.palette[18] == (119, 11, 32)


@pytest.mark.parametrize("labels", [CAMVID, CITYSCAPES], ids=lambda labels: labels.name)
def test_colour_table_holds_the_palette_and_is_black_elsewhere(labels: LabelSet):
    table = labels.colour_table()
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert [tuple(row) for row in table[: len(labels)].tolist()] == list(labels.palette)
    assert not table[len(labels) :].any()
    assert len(set(labels.palette)) == len(labels), "two classes would look the same"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "1 to 255 names expected, got 0"),
        ({"names": ("a", "a")}, "names occur twice: a"),
        ({"palette": ((0, 0, 0),)}, "2 names but 1 palette colours"),
        ({"palette": ((0, 0, 0), (0, 0, 256))}, r"colour of 'b' .* got \(0, 0, 256\)"),
        ({"palette": ((0, 0, 0), (0, 0))}, r"colour of 'b' .* got \(0, 0\)"),
        ({"ignore_index": 1}, r"ignore_index must be in 2\.\.255, got 1"),
        ({"ignore_index": 256}, r"ignore_index must be in 2\.\.255, got 256"),
    ],
)
def test_contradicting_fields_are_refused(change: dict, message: str):
    good = LabelSet("two", ("a", "b"), ((0, 0, 0), (1, 2, 3)))
    with pytest.raises(ValueError, match=f"label set 'two': .*{message}"):
        dataclasses.replace(good, **change)
