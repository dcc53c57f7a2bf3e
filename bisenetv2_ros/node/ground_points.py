"""Makes the clouds of ground_points from ROS calibrations, poses and depth images."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, PointCloud2

from bisenetv2_ros.camera_view import View, camera_entries
from bisenetv2_ros.ground_plane import (
    GROUND_NAMES,
    SKY_NAMES,
    Calibration,
    GroundProjection,
    Plane,
    cloud_of_depth,
    plane_of_pose,
    plane_of_transform,
)
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.node.depth_input import DepthInput, parse_depth_topics
from bisenetv2_ros.node.messages import CloudBuffer
from bisenetv2_ros.node.parameters import Parameters
from bisenetv2_ros.outputs import FrameOutputs
from bisenetv2_ros.resize import resize_mask

Pose = tuple[float, float, float]


class GroundError(ValueError):
    """There is no cloud for this frame. One line: why, and what to do."""


def parse_poses(texts: Sequence[str], cameras: Sequence[str]) -> dict[str, Pose]:
    """Height [m], pitch and roll [degrees] of cameras, from texts 'CAMERA: HEIGHT PITCH ROLL'.

    Raises ValueError, naming the text, for another form or camera, or a height that is not
    positive.
    """
    poses: dict[str, Pose] = {}
    for camera, value, text in camera_entries("camera pose", texts, cameras):
        try:
            height, pitch, roll = map(float, value.split())
            valid = 0 < height < math.inf and abs(pitch) <= 90 and abs(roll) <= 180
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                f"camera pose '{text}': expected 'CAMERA: HEIGHT PITCH ROLL', meters over 0 and "
                "degrees, down and right side down"
            )
        poses[camera] = (height, pitch, roll)
    return poses


def ground_classes(settings: Parameters, labels: LabelSet) -> np.ndarray:
    """(256,) bool by mask value: the classes in the parameter ground_classes, or the defaults.

    Raises ValueError for a name that the model does not have.
    """
    names = {name for name in settings.ground_classes if name.strip()}
    for name in names:
        if name not in labels.names:
            known = ", ".join(labels.names)
            raise ValueError(f"parameter ground_classes: no class '{name}' in the model: {known}")
    return _table(labels, names or GROUND_NAMES)


def _table(labels: LabelSet, names: set[str] | frozenset[str]) -> np.ndarray:
    table = np.zeros(256, bool)
    table[: len(labels)] = [name.lower() in names or name in names for name in labels.names]
    return table


class CameraPoses:
    """The ground plane of each camera: from the parameter camera_poses, or from tf2."""

    def __init__(self, node: Node, settings: Parameters) -> None:
        """Listen to tf2 if ground_frame is set.

        Raises ValueError for invalid poses, or if tf2_ros is needed and not installed.
        """
        self._poses = parse_poses(settings.camera_poses, settings.cameras)
        self._frame = settings.ground_frame
        self._buffer: Any = None
        self._listener: Any = None
        if self._frame:
            try:
                import tf2_ros
            except ImportError:
                raise ValueError(
                    f"parameter ground_frame: '{self._frame}' needs tf2_ros, which is not "
                    "installed (apt install ros-$ROS_DISTRO-tf2-ros-py); camera_poses needs nothing"
                ) from None
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)

    def plane(self, camera: str, frame_id: str, turn: int) -> Plane:
        """The ground plane in the frame of a camera's images, frame_id.

        turn: clockwise degrees that turn its images upright. Raises GroundError.
        """
        if camera in self._poses:
            height, pitch, roll = self._poses[camera]
            return plane_of_pose(height, pitch, roll + turn)
        if self._buffer is None:
            raise GroundError(
                f"the pose of '{camera}' is not known: set camera_poses, or ground_frame for tf2"
            )
        try:
            found = self._buffer.lookup_transform(self._frame, frame_id, Time()).transform
        except Exception as error:  # tf2 raises several types
            reason = " ".join(str(error).split())
            raise GroundError(f"tf2 has no {self._frame} -> {frame_id}: {reason}") from error
        move, turned = found.translation, found.rotation
        return plane_of_transform(
            (move.x, move.y, move.z), (turned.x, turned.y, turned.z, turned.w)
        )

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None


class GroundPoints:
    """Makes the clouds of one camera; computes the table of rays once per calibration."""

    def __init__(
        self,
        node: Node,
        camera: str,
        settings: Parameters,
        view: View,
        poses: CameraPoses | None,
    ) -> None:
        """Raises ValueError for invalid texts in depth_topics."""
        depth_topic = parse_depth_topics(settings.depth_topics, settings.cameras).get(camera)
        self._depth = DepthInput(node, depth_topic) if depth_topic else None
        self._camera = camera
        self._view = view
        self._settings = settings
        self._turn = view.turn
        self._poses = poses
        self._buffer = CloudBuffer()
        self._calibration: Calibration | None = None
        self._made_for: tuple[Calibration, Plane] | None = None
        self._projection: GroundProjection | None = None
        # image_proc's rectified images share the camera_info of the unrectified ones.
        self._rectified = "rect" in posixpath.basename(camera)

    def follow(self, wanted: bool) -> None:
        """Subscribe to the depth images, if configured, while clouds are wanted."""
        if self._depth is not None:
            self._depth.follow(wanted)

    def cloud(self, info: CameraInfo, outputs: FrameOutputs) -> PointCloud2:
        """Return the cloud of a frame; the same message object each time.

        info: the calibration of the mask, with the frame's header.
        Raises GroundError or DepthError.
        """
        calibration = self._calibration_of(info, outputs.mask_size)
        memory = self._buffer.memory(outputs.mask_size)
        if self._depth is not None:
            depth = self._depth.at(info.header.stamp, outputs.camera_size)
            depth = resize_mask(self._view.cut(depth), outputs.mask_size)
            distance = self._settings.ground_range
            cloud_of_depth(calibration, depth, distance, outputs.mask, outputs.confidence, memory)
        else:
            self._project(calibration, info.header.frame_id, outputs.labels)(
                outputs.mask, outputs.confidence, memory
            )
        return self._buffer.fill(info.header)

    def _calibration_of(self, info: CameraInfo, size: tuple[int, int]) -> Calibration:
        """The previous calibration if it is the same, because it has its rays."""
        matrix = info.p.reshape(3, 4)[:, :3].ravel() if self._rectified else info.k
        try:
            calibration = Calibration(
                tuple(map(float, matrix)),
                () if self._rectified else tuple(info.d),
                info.distortion_model,
                size,
            )
        except ValueError as error:
            raise GroundError(f"camera_info: {error}") from error
        if self._calibration != calibration:
            self._calibration = calibration
        return self._calibration

    def _project(
        self, calibration: Calibration, frame_id: str, labels: LabelSet
    ) -> GroundProjection:
        """The projection for this calibration and the camera's current pose."""
        if self._poses is None:
            raise GroundError("no poses are known")
        plane = self._poses.plane(self._camera, frame_id, self._turn)
        if plane.height <= 0:
            raise GroundError(f"the camera is {plane.height:.2f} m above the ground, expected more")
        if self._projection is None or self._made_for != (calibration, plane):
            self._projection = GroundProjection(
                calibration,
                plane,
                ground_classes(self._settings, labels),
                self._settings.ground_range,
                sky=_table(labels, SKY_NAMES),
                turn=self._turn,
            )
            self._made_for = (calibration, plane)
        return self._projection
