"""The RViz configuration shows the three pictures with no clicking, from any publisher."""

from __future__ import annotations

from pathlib import Path

import yaml

CONFIG = Path(__file__).resolve().parent.parent / "config" / "segment.rviz"


def test_camera_overlay_and_colour_mask_are_shown_at_once():
    document = yaml.safe_load(CONFIG.read_text())
    displays = document["Visualization Manager"]["Displays"]
    assert {display["Topic"]["Value"] for display in displays} == {
        "/image_raw",
        "/segmentation/overlay",
        "/segmentation/color_mask",
    }
    for display in displays:
        assert display["Class"] == "rviz_default_plugins/Image"
        assert display["Enabled"] is True
        # A reliable subscription gets nothing from a camera that is best effort.
        assert display["Topic"]["Reliability Policy"] == "Best Effort"
        assert document["Window Geometry"][display["Name"]] == {"collapsed": False}
