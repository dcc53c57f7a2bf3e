"""Logs frames and their segmentation to the viewer Rerun, in its window or to a file. No ROS.

For each camera (CAMERA is `camera` if the source names none) the recording has
    CAMERA/image            the frame, as JPEG
    CAMERA/image/mask       class index per pixel, in the frame's size
    CAMERA/image/regions    outlines and names of the regions of interest
    CAMERA/fractions        fraction of each class in the frame, a series each
    CAMERA/regions/NAME     the same in a region
with the classes' names and colors, on the timeline `time`: a bag's header stamps (recording times
if they are 0), or the seconds since the source's first frame.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rerun
from rerun import blueprint

from bisenetv2_ros.files.paths import naming
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.offline.run import Results
from bisenetv2_ros.outputs import FrameOutputs
from bisenetv2_ros.regions import Region, watch_cameras
from bisenetv2_ros.segmenter import Segmentation, Segmenter
from bisenetv2_ros.sources.frame import Frame, FrameSource

JPEG_QUALITY = 90  # percent; a raw frame takes some ten times as much
FLUSH_PERIOD = 1.0  # seconds; errors of writing only show at a flush


class RerunLog(Results):
    """Logs one frame after the other to Rerun; a file is complete after `close`.

    source: of the frames. path: a file to write, .rrd; None opens the viewer. regions: of interest,
    counted and drawn. Raises ValueError for a region without a pixel; every method raises OSError
    if the file cannot be written.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        source: FrameSource,
        path: Path | None = None,
        regions: Sequence[Region] = (),
    ) -> None:
        self._model = segmenter.model
        info = self._model.info
        self._labels = info.labels
        self._sizes: dict[str, tuple[int, int]] = {}  # of the newest frame, by camera
        self._watches = watch_cameras(regions, source.cameras, info.input_size, self._labels.names)
        self._recording = rerun.RecordingStream("bisenetv2_ros")
        if path is None:
            self._recording.spawn()
        else:
            with naming(path):
                path.open("wb").close()  # Rerun's own error does not name the file
            with naming(path), _faults_as_os_errors():
                self._recording.save(path)
        self._flush_due = time.monotonic() + FLUSH_PERIOD
        self._recording.send_blueprint(self._layout())
        self._recording.log("/", _class_names_and_colours(self._labels), static=True)
        for camera, watch in self._watches.items():
            parts = [_path(camera, "regions", region.name) for region in watch.regions]
            for part in (_path(camera, "fractions"), *parts):
                series = rerun.SeriesLines(colors=self._labels.palette, names=self._labels.names)
                self._recording.log(part, series, static=True)

    def write(self, frame: Frame, result: Segmentation) -> None:
        """Log one frame and its segmentation."""
        camera = frame.camera
        watch = self._watches[camera]
        outputs = FrameOutputs(frame.image, "rgb", result, self._model, watch=watch)
        if frame.origin:
            stamp = frame.origin.sec * 1_000_000_000 + frame.origin.nanosec
            stamp = stamp or frame.origin.received  # drivers without a clock stamp 0
            self._recording.set_time("time", timestamp=np.datetime64(stamp, "ns"))
        else:
            self._recording.set_time("time", duration=frame.time)
        size = outputs.camera_size
        if watch.regions and self._sizes.get(camera) != size:
            self._recording.log(_path(camera, "image", "regions"), _outlines(watch.regions, size))
            self._sizes[camera] = size
        picture = rerun.Image(outputs.image).compress(jpeg_quality=JPEG_QUALITY)
        self._recording.log(_path(camera, "image"), picture)
        self._recording.log(
            _path(camera, "image", "mask"), rerun.SegmentationImage(outputs.mask, opacity=0.5)
        )
        self._recording.log(_path(camera, "fractions"), rerun.Scalars(outputs.fractions))
        for name, fractions in outputs.region_fractions.items():
            self._recording.log(_path(camera, "regions", name), rerun.Scalars(fractions))
        if time.monotonic() >= self._flush_due:
            self._flush()
            self._flush_due = time.monotonic() + FLUSH_PERIOD
        self.frames += 1

    def close(self) -> None:
        """Send what is still queued, and complete the file."""
        try:
            self._flush()
        finally:
            self._recording.disconnect()

    def _flush(self) -> None:
        with _faults_as_os_errors():
            self._recording.flush()

    def _layout(self) -> blueprint.Blueprint:
        """For each camera the image, and below it the fractions of the classes."""
        columns = []
        for camera, watch in self._watches.items():
            plots = {"class fractions": _path(camera, "fractions")}
            plots |= {
                region.name: _path(camera, "regions", region.name) for region in watch.regions
            }
            image = blueprint.Spatial2DView(origin=_path(camera, "image"), name=camera or "camera")
            series = (blueprint.TimeSeriesView(origin=o, name=name) for name, o in plots.items())
            columns.append(blueprint.Vertical(image, *series))
        return blueprint.Blueprint(blueprint.Horizontal(*columns))


@contextlib.contextmanager
def _faults_as_os_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, f"Rerun cannot write: {error}") from error


def _path(camera: str, *parts: str) -> str:
    """The entity of a part of a camera."""
    return rerun.new_entity_path([*(camera.strip("/") or "camera").split("/"), *parts])


def _class_names_and_colours(labels: LabelSet) -> rerun.AnnotationContext:
    return rerun.AnnotationContext(
        [
            rerun.AnnotationInfo(id=i, label=name, color=colour)
            for i, (name, colour) in enumerate(zip(labels.names, labels.palette, strict=True))
        ]
    )


def _outlines(regions: Sequence[Region], size: tuple[int, int]) -> rerun.LineStrips2D:
    """Of regions in an image of `size` (width, height)."""
    strips = [np.array([*region.points, region.points[0]]) * size for region in regions]
    names = [region.name for region in regions]
    return rerun.LineStrips2D(strips, colors=(255, 255, 255), labels=names, show_labels=True)
