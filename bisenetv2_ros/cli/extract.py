"""`bisenetv2 extract`: chooses frames worth labeling from a bag or any other source."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError, positive_int, user_errors
from bisenetv2_ros.cli.options import OutputFolder, add_source_options, interval
from bisenetv2_ros.offline.extract import PRELABELS

if TYPE_CHECKING:
    from bisenetv2_ros.segmenter import Segmenter
    from bisenetv2_ros.sources.frame import Frame, FrameSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 extract drive.mcap --topic /front/image_raw -o my_set --every 2s
  bisenetv2 extract drive.mcap -o my_set --most-uncertain 200
  bisenetv2 extract drive.mp4 -o my_set --diverse 200 --prelabels labelme

files written:
  images/NAME.png      the frames; for a bag, NAME is the topic and the stamp
  frames.csv           source, camera, stamp, frame_id, time and uncertainty of each
  prelabels/NAME.png   the model's mask of each, to be corrected, and classes.yaml
  prelabels/cvat.zip   with --prelabels cvat: import it as "Segmentation mask 1.1"
  prelabels/NAME.json  with --prelabels labelme: `labelme images --output prelabels`

--most-uncertain weights each frame's uncertainty (1 - mean confidence) by its difference from the
frames already chosen; --diverse uses the difference alone. Both run the model on every frame first.
Existing files are never overwritten.
"""
    add_source_options(parser)
    parser.add_argument(
        "-o", "--output", action=OutputFolder, required=True, help="output directory"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--every",
        type=interval,
        metavar="T",
        help="one frame per T and camera: `2s`, `0.5s`, or a number of frames",
    )
    how.add_argument(
        "--most-uncertain",
        type=positive_int,
        metavar="N",
        help="N dissimilar frames on which the model is least confident",
    )
    how.add_argument("--diverse", type=positive_int, metavar="N", help="N dissimilar frames")
    parser.add_argument(
        "--prelabels",
        choices=PRELABELS,
        default="masks",
        help="format of the pre-labels (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Extract; 0 if every frame could be read, otherwise 1."""
    from tqdm import tqdm

    from bisenetv2_ros.backends.base import BackendUnavailable
    from bisenetv2_ros.offline.extract import ExtractedSet
    from bisenetv2_ros.segmenter import InferenceError, Segmenter
    from bisenetv2_ros.sources.frame import SourceError
    from bisenetv2_ros.sources.frame_source import open_source

    if args.region:
        raise UserError("--region: regions are not for extract")
    damaged: set[str] = set()  # the source may be read twice, and each is reported once

    def say(text: str) -> None:
        tqdm.write(f"bisenetv2 extract: {text}", file=sys.stderr)

    def skip(error: Exception) -> None:
        if str(error) not in damaged:
            say(f"skipped {error}")
        damaged.add(str(error))

    needs_model = args.every is None or args.prelabels != "none"
    with user_errors(ValueError, BackendUnavailable, InferenceError):
        source = open_source(
            args.source, topics=args.topic, encodings=args.image_encoding, on_damaged=skip
        )
        _check(args, source)
        segmenter = (
            Segmenter(args.model, backend=args.backend, device=args.device) if needs_model else None
        )
        labelling = segmenter if args.prelabels != "none" else None
        extracted = ExtractedSet(args.output, args.source, labelling, args.prelabels)

    def frames() -> Iterator[Frame]:
        total = source.count if args.frames is None else args.frames
        chosen = itertools.islice(source, args.frames)
        return iter(tqdm(chosen, total=total, unit="frame", disable=None))

    try:
        for frame, uncertainty in _selected(args, frames, segmenter, skip):
            try:
                extracted.write(frame, uncertainty)
            except InferenceError as error:
                skip(InferenceError(f"{frame.name}: {error}"))
    except SourceError as error:
        raise UserError(str(error)) from error
    finally:
        extracted.close()
        if segmenter:
            segmenter.close()
        print(f"{extracted.written} frames in {args.output / 'images'}")
    if extracted.present:
        print(f"{extracted.present} frames were there already and are unchanged")
    if extracted.dust:
        print(f"{extracted.dust} regions were too small for labelme; the masks have them")
    lost = source.say_passed_over(say)
    if damaged:
        say(f"error: {len(damaged)} skipped, see above")
    return int(lost or bool(damaged))


def _selected(
    args: argparse.Namespace,
    frames: Callable[[], Iterator[Frame]],
    segmenter: Segmenter | None,
    skip: Callable[[Exception], None],
) -> Iterator[tuple[Frame, float | None]]:
    """Yield the selected frames, with their uncertainty if the model selected them."""
    from bisenetv2_ros.offline.extract import choose, examine
    from bisenetv2_ros.segmenter import InferenceError
    from bisenetv2_ros.sources.frame import Excerpt, Moment

    if args.every is not None:
        yield from ((frame, None) for frame in Excerpt(every=Moment(*args.every)).pick(frames()))
        return
    assert segmenter is not None
    candidates = []
    for index, frame in enumerate(frames()):
        try:
            candidates.append(examine(index, frame, segmenter))
        except InferenceError as error:
            skip(InferenceError(f"{frame.name}: {error}"))
    wanted = args.most_uncertain or args.diverse
    chosen = choose(candidates, wanted, by_uncertainty=bool(args.most_uncertain))
    if len(chosen) < wanted:
        print(f"only {len(chosen)} frames, fewer than {wanted}: all are taken")
    uncertainty = {candidate.index: candidate.uncertainty for candidate in chosen}
    for index, frame in enumerate(frames()):
        if index in uncertainty:
            yield frame, uncertainty[index]


def _check(args: argparse.Namespace, source: FrameSource) -> None:
    """Refuse a source that would never end, or that cannot be read twice."""
    if args.every is None and source.live:
        raise UserError(f"{args.source}: a camera gives no frame twice, expected --every")
    if source.count is None and args.frames is None and not Path(args.source).exists():
        raise UserError(f"{args.source}: has no end, expected --frames N")
