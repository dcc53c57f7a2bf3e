"""Options shared by several verbs, and their parsers."""

from __future__ import annotations

import argparse
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bisenetv2_ros.cli import UserError, positive_int, user_errors
from bisenetv2_ros.files import paths
from bisenetv2_ros.files.paths import naming, replacing
from bisenetv2_ros.system.signals import interrupt_once

if TYPE_CHECKING:
    import numpy as np

    from bisenetv2_ros.sources.frame import Excerpt


SOURCES = (
    "folder, 'glob', image, video, ROS bag, webcam:N, /dev/videoN, rtsp://..., http://... or "
    "synthetic"
)
MASK_COLORS = 64  # maximum in an image that may be a label mask
MASK_FLATNESS = 0.8  # minimum fraction of its pixels that equal their neighbor


def metric(text: str) -> tuple[str, float]:
    """NAME=VALUE, for argparse's `type`."""
    name, _, value = text.rpartition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got '{text}', expected NAME=NUMBER") from None


def picture_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT in pixels, as argparse's `type`; callers check their own limits."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"got '{text}', expected WIDTHxHEIGHT in pixels")
    return int(match[1]), int(match[2])


def add_size_option(parser: argparse.ArgumentParser, otherwise: str, **options: Any) -> None:
    """Declare --size; `otherwise` describes the size without it."""
    parser.add_argument(
        "--size",
        type=picture_size,
        metavar="WxH",
        help=f"input size of the network, multiples of 8 (default: {otherwise})",
        **options,
    )


def add_frames_options(parser: argparse.ArgumentParser, use: str, count: int) -> None:
    """Declare --frames and --frame-count, the frames for `use`."""
    parser.add_argument(
        "--frames",
        default="synthetic",
        metavar="SOURCE",
        help=f"folder, video or 'glob' of frames to {use} (default: the package's scenes)",
    )
    parser.add_argument(
        "--frame-count",
        type=positive_int,
        default=count,
        metavar="N",
        help="number of these frames (default: %(default)s)",
    )


def add_metric_option(parser: argparse.ArgumentParser) -> None:
    """Declare --metric."""
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        type=metric,
        metavar="NAME=VALUE",
        help="score to store in the file, such as 'camvid_val_miou=0.68' (may be repeated)",
    )


def add_conversion_options(parser: argparse.ArgumentParser, model: str, default: str) -> None:
    """Declare `model`, --output and --metric for a verb that makes a model file from another.

    model: which files it takes. default: what the new file is called.
    """
    parser.add_argument("model", help=f"{model}, or name of a shipped model")
    parser.add_argument(
        "-o", "--output", action=OutputFile, help=f"file to write (default: {default})"
    )
    add_metric_option(parser)


def renamed(stem: str, before: str, now: str) -> str:
    """Replace a part of a file's stem, such as its precision; append the new one if it lacks it."""
    return stem.replace(before, now) if before in stem else f"{stem}_{now}"


def add_training_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Declare `--device` and the `overrides` of a recipe; `example` is one of these."""
    parser.add_argument(
        "--device", default="", help="cpu, cuda or cuda:N (default: cuda if present)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help=f"change a key of the recipe, such as {example}",
    )


_SAME_SUFFIX = {".htm": ".html", ".jpeg": ".jpg"}


class _CheckedPath(argparse.Action):
    """Converts an option's value to a path that `_check` accepts; UserError names the option."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"metavar": "DIR", **options})

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        try:
            self._check(values)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from error
        setattr(namespace, self.dest, Path(values))

    def _check(self, text: str) -> None:
        """Raise ValueError if it cannot be used."""
        raise NotImplementedError


class OutputFile(_CheckedPath):
    """A file that can be written; with `suffixes`, one that ends in one of these."""

    def __init__(self, *args: Any, suffixes: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **{"metavar": "FILE", **options})
        self.suffixes = suffixes

    def _check(self, text: str) -> None:
        _check_output(text, is_folder=False)
        suffix = Path(text).suffix.lower()
        if self.suffixes and _SAME_SUFFIX.get(suffix, suffix) not in self.suffixes:
            expected = f"{', '.join(self.suffixes[:-1])} or {self.suffixes[-1]}"
            raise ValueError(f"{text}: expected a name that ends in {expected}")


class OutputFolder(_CheckedPath):
    """A folder that can be written to or made."""

    def _check(self, text: str) -> None:
        _check_output(text, is_folder=True)


class DatasetFolder(_CheckedPath):
    """The folder of a dataset, or of a part of it, which must exist."""

    def _check(self, text: str) -> None:
        if not text or not Path(text).is_dir():
            was = "is a file" if text and Path(text).exists() else "no such folder"
            raise ValueError(f"{text or repr(text)}: {was}, expected that of the dataset")


def _check_output(text: str, *, is_folder: bool) -> None:
    if not text:
        raise ValueError(f"got '', expected a {'folder' if is_folder else 'file'}")
    paths.check_output(Path(text), is_folder=is_folder)


def refuse_overwriting(path: Path, *sources: Path) -> None:
    """Raise UserError if the new file `path` is one of its sources or cannot be written."""
    with user_errors(ValueError):
        paths.check_output(path)
        paths.refuse_overwriting([path], sources)


def sample_frames(spec: str, count: int, option: str) -> list[np.ndarray]:
    """Read at most `count` frames, (H, W, 3) uint8 RGB, spread evenly over a source.

    spec: as in `frame_source.open_source`; from a source without an end, one frame per second.
    option: where `spec` was given. Raises UserError, naming it, if there is no such source or no
    frame in it.
    """
    from itertools import islice

    from bisenetv2_ros.sources.frame import Excerpt, Moment
    from bisenetv2_ros.sources.frame_source import open_source

    try:
        source = open_source(spec)
        if source.count:
            wanted = {i * source.count // count for i in range(count)}  # fewer if frames are few
            passing = enumerate(islice(source, max(wanted) + 1))
            frames = [frame.image for index, frame in passing if index in wanted]
        else:
            source.excerpt = Excerpt(every=Moment(seconds=1))  # the street renders no others
            frames = [frame.image for frame in islice(source.excerpt.pick(source), count)]
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error
    if not frames:
        raise UserError(f"{option}: {spec}: no frames in it, expected up to {count}")
    return frames


def calibration_frames(spec: str, count: int, option: str) -> list[np.ndarray]:
    """`sample_frames`, which must not be label masks. Raises UserError if all look like masks."""
    import numpy as np

    frames = sample_frames(spec, count, option)
    if all(map(_looks_like_mask, frames)) and any(np.ptp(frame) for frame in frames):
        raise UserError(
            f"{option}: {spec}: {len(frames)} images of a few flat colors each, as "
            "label masks are, expected camera images"
        )
    return frames


def _looks_like_mask(image: np.ndarray) -> bool:
    """Return whether an image (H, W, 3) has few colors, in flat areas."""
    import numpy as np

    red, green, blue = np.moveaxis(image.astype(np.uint32), -1, 0)
    colors = red << 16 | green << 8 | blue
    if (colors[:, 1:] == colors[:, :-1]).mean() < MASK_FLATNESS:
        return False
    return len(np.unique(colors)) <= MASK_COLORS


def add_source_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Declare the source (or several), its topics, the regions, and the model."""
    parser.add_argument(
        "source",
        nargs="+" if several else None,
        help=SOURCES + ("; several images, folders or videos" if several else ""),
    )
    add_bag_options(parser)
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="'NAME: X Y, ...'",
        help="region of interest, as in the node's parameter regions: it is drawn, and its class "
        "fractions are counted (may be repeated)",
    )
    add_model_options(parser)
    parser.add_argument("--device", default="", help="device as the backend names it")
    parser.add_argument(
        "--frames",
        type=positive_int,
        metavar="N",
        help="stop after N frames (default: the whole source)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Declare the model and the runtime."""
    parser.add_argument("--model", default="", help="model file or name (default: the package's)")
    parser.add_argument(
        "--backend", default="auto", help="inference runtime (default: %(default)s)"
    )


def add_bag_options(parser: argparse.ArgumentParser) -> None:
    """Declare which topics of a bag are read, and their encodings."""
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic of a bag, of any transport (may be repeated; default: the only one)",
    )
    parser.add_argument(
        "--image-encoding",
        action=_Encodings,
        type=_encoding,
        default={},
        metavar="[TOPIC=]NAME",
        help="encoding of a bag's images if their messages state none or a wrong one, such as "
        "bayer_rggb8 (may be repeated; without TOPIC for all)",
    )


class _Encodings(argparse.Action):
    """Collects TOPIC=ENCODING pairs in a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), values[0]: values[1]})


def _encoding(text: str) -> tuple[str, str]:
    topic, _, name = text.rpartition("=")
    return topic, name


def add_excerpt_options(parser: argparse.ArgumentParser) -> None:
    """Declare which frames of the source to use; `excerpt` reads the values."""
    for name, kind, text in (
        ("start", moment, "skip frames before this frame or second"),
        ("end", interval, "stop before this frame or second"),
        ("every", interval, "use one frame per this many frames or seconds"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar="N|Ns", help=text)
    parser.add_argument(
        "--recursive", action="store_true", help="include the subfolders of a folder"
    )


def excerpt(args: argparse.Namespace) -> Excerpt:
    """Return the values of `add_excerpt_options`."""
    from bisenetv2_ros.sources.frame import Excerpt, Moment

    start, end, every = (
        None if value is None else Moment(*value) for value in (args.start, args.end, args.every)
    )
    return Excerpt(start or Moment(), end, every or Moment(frames=1))


def interval(text: str) -> tuple[int, float]:
    """Parse a `moment` that is not 0, as argparse's `type`."""
    frames, seconds = moment(text)
    if not frames and not seconds:
        raise argparse.ArgumentTypeError(f"got '{text}', expected a number above 0")
    return frames, seconds


def moment(text: str) -> tuple[int, float]:
    """Parse frames or seconds, as argparse's `type`: (frames, seconds), one of which is 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s?)", text)
    if not match or (not match[2] and "." in match[1]):
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected frames as in 30, or seconds as in 2s or 0.5s"
        )
    return (0, float(match[1])) if match[2] else (int(match[1]), 0.0)


def set_up_ros(verb: str) -> None:
    """Prepare the environment for rclpy.init(), see `node.environment`.

    Raises UserError if ROS_DOMAIN_ID is out of range.
    """
    from bisenetv2_ros.node import environment

    with user_errors(ValueError):
        environment.set_up(verb)


def set_up_private_graph(verb: str) -> None:
    """Do as `set_up_ros` for a verb that starts its own cameras and nodes as child processes.

    Uses another domain than the robot, unless one is set. The first signal interrupts this process,
    so that it ends its children.
    """
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    interrupt_once(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    set_up_ros(verb)


def plot(draw: Callable[[Path], None], path: Path | None) -> None:
    """Draw a plot to a file, if there is one. Raises UserError if matplotlib is not installed."""
    if not path:
        return
    try:
        with naming(path), replacing(path) as partial:
            draw(partial)
    except ModuleNotFoundError as error:
        raise UserError(f"--plot needs {error.name}: run `pip install matplotlib`") from error
