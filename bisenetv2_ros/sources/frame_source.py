"""Frames from any source: images, video, bag, camera, or a synthetic street.

    for frame in open_source("drive/*.png", labels="masks"):
        print(frame.name, frame.image.shape)

A source delivers as fast as it is read; the caller keeps the pace. No ROS, no models, and no
interpretation of labels.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.files.image_formats import is_image, known_format, may_be_video
from bisenetv2_ros.files.images import ImageFileError, raise_error, read_image, read_label
from bisenetv2_ros.files.paths import check_input
from bisenetv2_ros.files.video import VideoError, VideoReader
from bisenetv2_ros.sources.bag_paths import is_bag
from bisenetv2_ros.sources.find import OTHER_IMAGES, find, find_labels
from bisenetv2_ros.sources.frame import (
    DEFAULT_RATE,
    Excerpt,
    Frame,
    FrameSource,
    OnDamaged,
    Size,
    SourceDamage,
    SourceError,
    numbered,
    resized,
)
from bisenetv2_ros.sources.live import WEBCAM, Live, is_live
from bisenetv2_ros.street.scene import StreetScene

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bisenetv2_ros.sources.find import Found

SYNTHETIC = "synthetic"
DEFAULT_SCENE_SIZE = (960, 720)
EXPECTED = (
    f"a file, a folder, a glob pattern, {WEBCAM}N, /dev/videoN, rtsp://..., http://... or "
    f"{SYNTHETIC}"
)


def is_endless(spec: str) -> bool:
    """Whether a source is known by its name to have no end."""
    return spec == SYNTHETIC or (is_live(spec) and not spec.startswith("http"))


def open_source(
    spec: str | Sequence[str] = SYNTHETIC,
    *,
    labels: str = "",
    topics: Sequence[str] = (),
    encodings: Mapping[str, str] | None = None,
    loop: bool = False,
    rate: float | None = None,
    size: Size | None = None,
    seed: int = 1,
    recursive: bool = False,
    excerpt: Excerpt | None = None,
    on_damaged: OnDamaged = raise_error,
) -> FrameSource:
    """Find the source that `spec` names.

    Args:
        spec: 'synthetic' (an endless street, with labels), 'webcam:N' or '/dev/videoN', an address
            (rtsp://, http://), a folder of images, a glob pattern, one image, a video file or a
            bag; or several of folders, patterns and files. Images of a folder come in natural
            order: 2 before 10.
        labels: a folder of label maps, one byte per pixel. An image's label is the file at the same
            place with the same stem; images without one have the label None.
        topics: image topics of a bag; none takes the only one.
        encodings: override those of a bag's messages, by topic or '' for all topics.
        loop: begin again after the last image or at the video's end.
        rate: frames per second of sources without a rate of their own; default 15.
        size: frames are resized to this; None leaves them as they are. The synthetic street is
            rendered in this size, by default 960x720.
        seed: of the synthetic street.
        recursive: look for images in the folders below a folder too.
        excerpt: the wanted frames. Sources skip others only if that saves time, so also filter by
            `excerpt.pick`.
        on_damaged: receives the error of an image, label or message that cannot be read, or of a
            damaged video or bag; then the next frame follows. By default it is raised.

    Raises:
        SourceError: there is no such source, or it has no frames, or no image has a label, or
            labels or topics are given for a source that has none.
    """
    rate = rate or DEFAULT_RATE
    specs = [spec] if isinstance(spec, str) else list(spec)
    if not all(specs) or not specs:
        raise SourceError(f"source '': is empty (an unset variable?), expected {EXPECTED}")
    alone = [spec for spec in specs if spec == SYNTHETIC or is_live(spec)]
    if alone and len(specs) > 1:
        raise SourceError(f"source '{alone[0]}': expected it alone, or several files")
    source: FrameSource
    if specs == [SYNTHETIC]:
        source = _Street(seed, size or DEFAULT_SCENE_SIZE, rate)
    elif alone:
        source = Live(specs[0], rate, size)
    else:
        source = _open_files(find(specs, recursive, EXPECTED), labels, topics, encodings or {},
                             loop, rate, size, on_damaged)  # fmt: skip
    if labels and not isinstance(source, _Images):
        raise SourceError(
            f"labels '{labels}': expected images as the source, got '{', '.join(specs)}'"
        )
    of_bags = [f"topic '{topic}'" for topic in topics]
    of_bags += [f"encoding '{encoding}'" for encoding in (encodings or {}).values()]
    if of_bags and all(part.cameras == ("",) for part in source.parts):
        raise SourceError(f"{of_bags[0]}: expected a bag as the source, got '{', '.join(specs)}'")
    for part in (source, *source.parts):
        part.excerpt = excerpt or Excerpt()
    return source


def _open_files(
    found: Found,
    labels: str,
    topics: Sequence[str],
    encodings: Mapping[str, str],
    loop: bool,
    rate: float,
    size: Size | None,
    on_damaged: OnDamaged,
) -> FrameSource:
    for path in list(found.others):
        is_raw_photo = path.suffix.lower() in OTHER_IMAGES  # some look like a TIFF
        if path.is_file() and not is_raw_photo and is_image(_start(path)):
            found.others.remove(path)
            found.images.append(path)  # whatever its name
    parts: list[FrameSource] = []
    if found.images:
        keys = found.keys()
        label_paths = find_labels(found.images, keys, labels) if labels else {}
        parts.append(_Images(found.images, keys, label_paths, rate, size, loop, on_damaged))
        parts[0].inputs = (*found.images, *label_paths.values())
    for path in found.others:
        part: FrameSource
        if is_bag(path):
            from bisenetv2_ros.sources.bag import BagFrames  # needs libraries for bags

            part = BagFrames(path, topics, size, loop, on_damaged, encodings)
        else:
            part = _Video(path, size, loop, on_damaged)
            part.inputs = (path,)
        parts.append(part)
    source = parts[0] if len(parts) == 1 else _Chain(parts, loop)
    source.passed_over = tuple(found.passed_over)
    return source


def _start(path: Path) -> bytes:
    try:
        check_input(path)
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise SourceError(f"'{path}': {error.strerror}") from error


class _Street(FrameSource):
    """The synthetic street, endless."""

    labelled = True

    def __init__(self, seed: int, size: Size, rate: float) -> None:
        super().__init__(rate, None)
        try:
            self._scene = StreetScene(seed, size)
        except ValueError as error:
            raise SourceError(f"synthetic street: {error}") from None

    def __iter__(self) -> Iterator[Frame]:
        wanted = self.excerpt.picker()
        for index in itertools.count():
            moment = index / self.fps
            take = wanted(index, moment)
            if take is None:
                return
            if not take:
                continue
            image, label = self._scene.render(moment)
            name = numbered(SYNTHETIC, index)
            yield Frame(image, name, label, moment, source=SYNTHETIC, index=index)


class _Images(FrameSource):
    """Image files in the order given."""

    def __init__(
        self,
        paths: list[Path],
        keys: list[str],
        labels: dict[Path, Path],
        rate: float,
        size: Size | None,
        loop: bool,
        on_damaged: OnDamaged,
    ) -> None:
        """keys: the `Frame.key` of each path."""
        super().__init__(rate, None if loop else len(paths))
        self._paths, self._keys, self._labels = paths, keys, labels
        self._size, self._loop, self._on_damaged = size, loop, on_damaged
        self.labelled = bool(labels)

    def __iter__(self) -> Iterator[Frame]:
        sent = 0
        wanted = self.excerpt.picker()
        while True:
            before, damaged = sent, 0
            for index, (path, key) in enumerate(zip(self._paths, self._keys, strict=True)):
                if not wanted(index, index / self.fps):
                    continue
                try:
                    image, label = self._read(path)
                except ImageFileError as error:
                    self._on_damaged(error)
                    damaged += 1
                    continue
                moment = sent / self.fps if self._loop else index / self.fps
                yield Frame(image, path.name, label, moment, source=str(path), index=index, key=key)
                sent += 1
            if sent == before and damaged:
                raise SourceError(
                    f"'{self._paths[0].parent}': {len(self._paths)} images, none can be read"
                )
            if not self._loop or sent == before:
                return

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        image, label = read_image(path), None
        label_path = self._labels.get(path)
        if label_path is not None:
            label = read_label(label_path)
            if label.shape != image.shape[:2]:
                raise ImageFileError(
                    f"{label_path}: label map is {label.shape[1]}x{label.shape[0]}, expected "
                    f"{image.shape[1]}x{image.shape[0]}, the size of {path}"
                )
            label = resized(label, self._size, cv2.INTER_NEAREST)
        return resized(image, self._size), label


class _Video(FrameSource):
    """A video file."""

    def __init__(
        self,
        path: Path,
        size: Size | None,
        loop: bool,
        on_damaged: OnDamaged,
    ) -> None:
        start = _start(path)
        try:
            suffix = path.suffix.lower()
            if not may_be_video(start) or (suffix in OTHER_IMAGES and suffix != ".gif"):
                raise VideoError(f"is {known_format(start) or suffix}")
            self._reader = VideoReader(path)
        except VideoError as error:
            raise SourceError(
                f"'{path}': {error}; expected an image or a video that OpenCV reads, or a ROS bag"
            ) from error
        super().__init__(self._reader.rate or DEFAULT_RATE, None if loop else self._reader.count)
        self._path, self._size, self._loop, self._on_damaged = path, size, loop, on_damaged
        #: Distinguishes this video's frames from those of others with its name.
        self.prefix = ""

    def __iter__(self) -> Iterator[Frame]:
        passed, offset, number = 0, 0.0, 0
        while True:
            last = -1.0
            wanted = self.excerpt.picker()
            for image, index, moment in self._reader.frames(wanted):
                last, number = moment, passed + index
                name = numbered(self._path.stem, number)
                yield Frame(
                    resized(image, self._size), name, None, offset + moment,
                    source=str(self._path), index=number, key=self.prefix + name,
                )  # fmt: skip
            if not self._reader.read:
                raise SourceError(f"'{self._path}': the video has no frame that OpenCV reads")
            for loss in self._reader.losses if not passed else ():
                self._on_damaged(SourceDamage(f"{self._path}: {loss}"))
            if not self._loop or last < 0:
                return
            passed, offset = number + 1, offset + last + 1 / self.fps


class _Chain(FrameSource):
    """Several sources, one after the other."""

    def __init__(self, parts: list[FrameSource], loop: bool) -> None:
        counts = [part.count for part in parts]
        known = [count for count in counts if count is not None]
        super().__init__(parts[0].fps, sum(known) if len(known) == len(counts) else None)
        if loop:
            raise SourceError("several videos or bags: expected one to play in a loop")
        self._parts = parts
        self.inputs = tuple(path for part in parts for path in part.inputs)
        self.cameras = tuple(dict.fromkeys(camera for part in parts for camera in part.cameras))
        self.labelled = any(part.labelled for part in parts)
        for number, part in enumerate(parts):
            if isinstance(part, _Video):  # videos of several folders may share a name
                part.prefix = f"{number + 1}_" if len(parts) > 1 else ""

    @property
    def parts(self) -> Sequence[FrameSource]:
        return self._parts

    def rate(self, camera: str) -> float:
        """Frame rate of a camera, Hz, in the first source that has it."""
        return next(part.rate(camera) for part in self._parts if camera in part.cameras)

    def __iter__(self) -> Iterator[Frame]:
        for part in self._parts:
            yield from part
