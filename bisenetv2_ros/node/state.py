"""The state of the node, shared by its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bisenetv2_ros.node.diagnostics import Watchdog

if TYPE_CHECKING:
    from bisenetv2_ros.backends import DeviceLost
    from bisenetv2_ros.node.camera_topics import CameraTopics
    from bisenetv2_ros.segmenter import Segmenter


@dataclass
class NodeState:
    """The state of one node.

    The executor's thread writes it, except for `fatal` and `device_lost`, which the inference
    thread sets too. Every thread may read it.
    """

    segmenter: Segmenter | None = None  #: None while unconfigured
    cameras: list[CameraTopics] = field(default_factory=list)
    watchdog: Watchdog = field(default_factory=Watchdog)  #: around the work on each batch
    active: bool = False
    finalized: bool = False
    loading: str = ""  #: progress of loading a model; '' if none is being loaded
    refusal: str = ""  #: why the last transition failed; '' if it did not
    fatal: str = ""  #: why the process must end; '' if it need not
    device_lost: bool = False  #: not even freeing the device's memory is safe then

    @property
    def label(self) -> str:
        """The lifecycle state by name, as in lifecycle_msgs."""
        if self.finalized:
            return "finalized"
        if self.segmenter is None:
            return "unconfigured"
        return "active" if self.active else "inactive"

    @property
    def loaded(self) -> Segmenter:
        """The segmenter. Raises RuntimeError if no model is loaded."""
        if self.segmenter is None:
            raise RuntimeError("no model is loaded")
        return self.segmenter

    def lose_device(self, error: DeviceLost) -> None:
        """End the process: only a new one gets the device back."""
        self.device_lost = True
        self.fatal = str(error)
