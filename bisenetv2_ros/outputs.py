"""Where the outputs of a camera topic are: one rule for the node and for bags. Knows no ROS."""

from __future__ import annotations

import posixpath


def output_topic(image_topic: str, name: str) -> str:
    """The topic of output `name`, such as 'mask', beside the camera topic a/b/image_raw."""
    return posixpath.join(posixpath.dirname(image_topic), "segmentation", name)
