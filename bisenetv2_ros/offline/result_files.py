"""Writes the segmentations of a source's frames as files; `bisenetv2 predict --help` lists them.

Of a bag with several cameras, each camera has a video of its own, video_CAMERA.mp4. If frames would
share a name, later ones get _2, _3 and so on. Each frame's results are on disk before the next
frame is read, so a run that is stopped or killed keeps what is done. Images and videos appear when
they are complete; tables grow line by line. No ROS.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.files.paths import UniqueNames
from bisenetv2_ros.files.video import VideoFile
from bisenetv2_ros.offline.result_folder import (
    IMAGE_FOLDERS,
    LINES,
    TABLE,
    Existing,
    finished,
    prepare,
)
from bisenetv2_ros.offline.run import Results
from bisenetv2_ros.outputs import FrameOutputs
from bisenetv2_ros.regions import Region, watch_cameras
from bisenetv2_ros.segmenter import Segmentation, Segmenter
from bisenetv2_ros.sources.frame import Frame, FrameSource

KINDS = ("masks", "colour", "overlay", "video", "fractions", "jsonl", "bag")
#: Outputs that can be added to a bag, by the names of the node's topics.
BAG_TOPICS = ("mask", "class_fractions", "color_mask", "overlay", "confidence")


class ResultFiles(Results):
    """Writes the results of one frame after the other; the files are complete after `close`.

    Args:
        source: of the frames.
        kinds: which of KINDS to write.
        opacity: of the colors in overlays, 0..1.
        mask_size: of masks and colors: the frame's ('camera') or 'network'.
        bag_topics: outputs to add to the bag, of BAG_TOPICS.
        regions: of interest, counted and drawn.
        existing: whether results of an earlier run are refused, removed or continued; a bag is
            never replaced.

    Raises ValueError for a region without a pixel, a bag from another kind of source, earlier
    results that may not be replaced, or results that would replace an input; OSError if one cannot
    be written.
    """

    def __init__(
        self,
        directory: Path,
        segmenter: Segmenter,
        kinds: Iterable[str],
        source: FrameSource,
        *,
        opacity: float = 0.5,
        mask_size: str = "camera",
        bag_topics: Sequence[str] = (),
        regions: Sequence[Region] = (),
        existing: Existing = "refuse",
    ) -> None:
        self.directory = directory
        self._model = segmenter.model
        self._kinds = frozenset(kinds)
        self._source = source
        self._opacity = opacity
        self.mask_size = mask_size
        self._bag_topics = tuple(bag_topics) if "bag" in self._kinds else ()
        self.wants_confidence = "confidence" in self._bag_topics
        self._pending: str | None = None  # the name of the frame in the last `has`
        self._unused = UniqueNames().take
        self._videos: dict[str, VideoFile] = {}
        self._closing = contextlib.ExitStack()
        labels = segmenter.model.info.labels
        size = segmenter.model.info.input_size
        self._watches = watch_cameras(regions, source.cameras, size, labels.names)
        columns = ["frame", "time_s", "inference_s", *labels.names, "source", "stamp"]
        videos = [self._video_path(camera) for camera in source.cameras]
        if "video" not in self._kinds:
            videos = []
        prepare(directory, self._kinds, videos, source.inputs, existing)
        self._done: set[str] = set()
        if existing == "resume":
            self._done = finished(directory, self._kinds, columns)
        if "bag" in self._kinds:  # first, because it may be refused
            from bisenetv2_ros.offline.bag_copy import BagCopy

            self._bag = BagCopy(directory / "bag", source, self._bag_topics)
            self._closing.callback(self._bag.close)
        directory.mkdir(parents=True, exist_ok=True)
        for kind in self._kinds & IMAGE_FOLDERS.keys():
            (directory / kind).mkdir(exist_ok=True)
        if "fractions" in self._kinds:
            self._table = self._open(TABLE)
            if not self._table.tell():
                self._add_row(columns)
        if "jsonl" in self._kinds:
            self._lines = self._open(LINES)

    def _open(self, name: str) -> TextIO:
        """Open a file that grows. Names that are not UTF-8 are written with backslashes."""
        path = self.directory / name
        file = path.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        return self._closing.enter_context(file)

    def _add_row(self, row: Sequence[object]) -> None:
        with _writing(TABLE):
            csv.writer(self._table).writerow(row)
            self._table.flush()

    @property
    def notes(self) -> list[str]:
        """Remarks for users of the files."""
        return [video.note for video in self._videos.values() if video.note]

    def has(self, frame: Frame) -> bool:
        """Whether a resumed run has already finished this frame."""
        name = self._unused(frame.result_name)
        self._pending = None if name in self._done else name
        return name in self._done

    def write(self, frame: Frame, result: Segmentation) -> None:
        """Write everything requested of one frame. `result` is its segmentation."""
        name = self._pending or self._unused(frame.result_name)
        self._pending = None
        outputs = FrameOutputs(
            frame.image,
            "rgb",
            result,
            self._model,
            watch=self._watches[frame.camera],
            mask_size=self.mask_size,
            opacity=self._opacity,
        )
        for kind, output in IMAGE_FOLDERS.items():
            if kind in self._kinds:
                pixels = outputs.pixels(output)
                assert pixels is not None, "only the confidence may be missing"
                path = self.directory / kind / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_picture(path, pixels)
        if "video" in self._kinds:
            self._video(frame.camera).write(outputs.side_by_side)
        if "fractions" in self._kinds:
            numbers = [frame.time, result.inference_seconds, *outputs.fractions]
            texts = [f"{number:.6f}" for number in numbers]
            self._add_row([name, *texts, frame.source, frame.stamp])
        if "jsonl" in self._kinds:
            with _writing(LINES):
                self._lines.write(json.dumps(self._record(name, frame, outputs)) + "\n")
                self._lines.flush()
        if "bag" in self._kinds:
            assert frame.origin is not None, "only bags are copied, and their frames have origins"
            self._bag.write(frame.origin, outputs)
        self.frames += 1

    def _record(self, name: str, frame: Frame, outputs: FrameOutputs) -> dict[str, object]:
        """The object in fractions.jsonl for a frame."""
        record: dict[str, object] = {
            "frame": name,
            "source": frame.source,
            "time_s": round(frame.time, 6),
            "inference_s": round(outputs.segmentation.inference_seconds, 6),
        }
        if frame.origin is not None:
            record |= {
                "camera": frame.origin.camera,
                "stamp": {"sec": frame.origin.sec, "nanosec": frame.origin.nanosec},
                "frame_id": frame.origin.frame_id,
            }
        record["fractions"] = self._by_class(outputs.fractions)
        if outputs.region_fractions:
            record["regions"] = {
                region: self._by_class(part) for region, part in outputs.region_fractions.items()
            }
        return record

    def _by_class(self, fractions: np.ndarray) -> dict[str, float]:
        """(C,) fractions by class name."""
        pairs = zip(self._model.info.labels.names, fractions.tolist(), strict=True)
        return {name: round(fraction, 6) for name, fraction in pairs}

    def _video(self, camera: str) -> VideoFile:
        """The video of a camera, created with its first frame."""
        if camera not in self._videos:
            video = VideoFile(self._video_path(camera), self._source.rate(camera))
            self._videos[camera] = self._closing.enter_context(contextlib.closing(video))
        return self._videos[camera]

    def _video_path(self, camera: str) -> Path:
        several = len(self._source.cameras) > 1
        name = f"video_{camera.strip('/').replace('/', '_')}" if several else "video"
        return self.directory / f"{name}.mp4"

    def close(self) -> None:
        """Complete the files."""
        self._closing.close()


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    """Make an OSError of the block name a file of the output directory."""
    try:
        yield
    except OSError as error:
        error.strerror = f"{error.strerror} in {name}"
        raise
