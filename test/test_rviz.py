"""The RViz configuration shows the three pictures with no clicking, from any publisher."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).resolve().parent.parent / "config"


@pytest.mark.parametrize(
    ("file", "camera"),
    [("segment.rviz", "/image_raw"), ("segment_compressed.rviz", "/image_raw/compressed")],
)
def test_camera_overlay_and_colour_mask_are_shown_at_once(file, camera):
    document = yaml.safe_load((CONFIG / file).read_text())
    displays = document["Visualization Manager"]["Displays"]
    assert {display["Topic"]["Value"] for display in displays} == {
        camera,
        "/segmentation/overlay",
        "/segmentation/color_mask",
    }
    for display in displays:
        assert display["Class"] == "rviz_default_plugins/Image"
        assert display["Enabled"] is True
        # A reliable subscription gets nothing from a camera that is best effort.
        assert display["Topic"]["Reliability Policy"] == "Best Effort"
        assert document["Window Geometry"][display["Name"]] == {"collapsed": False}
    # It fits a screen of 1366x768, and a machine without a GPU.
    assert document["Window Geometry"]["Width"] <= 1280
    assert document["Window Geometry"]["Height"] <= 720
    manager = document["Visualization Manager"]
    assert manager["Global Options"]["Frame Rate"] == 15
    assert manager["Transformation"]["Current"]["Class"] == "rviz_common/Identity"


def test_both_files_differ_in_nothing_but_the_camera_topic():
    raw, compressed = (
        (CONFIG / name).read_text() for name in ("segment.rviz", "segment_compressed.rviz")
    )
    body = raw[raw.index("Panels:") :]
    expected = body.replace("Value: /image_raw\n", "Value: /image_raw/compressed\n")
    assert compressed[compressed.index("Panels:") :] == expected
