"""`bisenetv2 predict`: label masks, pictures, a video, tables and bags from files, without ROS."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from bisenetv2_ros.cli import UserError, positive_int
from bisenetv2_ros.paths import naming
from bisenetv2_ros.predict import BAG_TOPICS, KINDS, ResultFiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 predict street.jpg -o out
  bisenetv2 predict 'drive/*.png' -o out --save masks,fractions
  bisenetv2 predict drive.mp4 -o out --save video
  bisenetv2 predict drive.mcap --topic /front/image_raw --topic /rear/image_raw/compressed \\
      -o out --save bag,jsonl

what --save names, in the output directory:
  masks      masks/NAME.png    class index per pixel
  colour     colour/NAME.png   the same in the classes' colours
  overlay    overlay/NAME.png  colours over the frame
  video      video.mp4         frame, colour mask and overlay side by side, with a legend
  fractions  fractions.csv     share of each class, a line per frame
  jsonl      fractions.jsonl   the same, a JSON object per frame
  bag        bag/              the source bag and its segmentation topics, times and stamps kept

A picture or message that cannot be read is named and passed over; the exit code is then 1.
Ctrl-C keeps what is done.
"""
    parser.add_argument(
        "source", help="picture, folder, 'glob', video, ROS 2 bag, webcam:N or synthetic"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--save",
        type=_kinds,
        default=("masks", "overlay"),
        metavar="KIND,...",
        help=f"any of {','.join(KINDS)} (default: masks,overlay)",
    )
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic of a bag, raw or compressed, any number of times (default: the only one)",
    )
    parser.add_argument(
        "--mask-size",
        choices=("camera", "network"),
        default="camera",
        help="of masks and colours: the frame's or the network's (default: %(default)s)",
    )
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="'NAME: X Y, ...'",
        help="region of interest as in the node's parameter regions, any number of times: drawn in "
        "overlays, its class fractions in jsonl and bag",
    )
    parser.add_argument(
        "--bag-topics",
        type=_bag_topics,
        default=BAG_TOPICS[:2],
        metavar="NAME,...",
        help=f"any of {','.join(BAG_TOPICS)}, for --save bag (default: {','.join(BAG_TOPICS[:2])})",
    )
    parser.add_argument("--model", default="", help="model file or name (default: the package's)")
    parser.add_argument(
        "--backend", default="auto", help="inference runtime (default: %(default)s)"
    )
    parser.add_argument("--device", default="", help="device as the backend names it")
    parser.add_argument(
        "--frames", type=positive_int, metavar="N", help="stop after N (default: the whole source)"
    )
    parser.add_argument(
        "--opacity",
        type=_opacity,
        default=0.5,
        help="of the colours in overlays, 0 to 1 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Segment the source; 0 when every frame could be read."""
    from tqdm import tqdm

    from bisenetv2_ros.backends.base import BackendUnavailable
    from bisenetv2_ros.frame_source import SourceError, open_source
    from bisenetv2_ros.regions import parse_regions
    from bisenetv2_ros.segmenter import InferenceError, Segmenter

    damaged: list[Exception] = []

    def skip(error: Exception) -> None:
        damaged.append(error)
        tqdm.write(f"bisenetv2 predict: skipped {error}", file=sys.stderr)

    try:
        source = open_source(args.source, topics=args.topic, on_damaged=skip)
        regions = parse_regions(args.region, source.cameras)
        segmenter = Segmenter(args.model, backend=args.backend, device=args.device)
    except (ValueError, BackendUnavailable) as error:
        raise UserError(str(error)) from error
    print(
        f"{segmenter.model.name} on {segmenter.backend.name}, {segmenter.backend.device}",
        file=sys.stderr,
    )
    total = source.count if args.frames is None else min(args.frames, source.count or args.frames)
    # disable=None: no bar where the output is not a terminal.
    bar = tqdm(total=total, unit="frame", disable=None)
    try:
        results = ResultFiles(
            args.output,
            segmenter,
            args.save,
            source,
            opacity=args.opacity,
            network_size=args.mask_size == "network",
            bag_topics=args.bag_topics,
            regions=regions,
        )
    except ValueError as error:
        raise UserError(f"{args.source}: {error}") from error
    confidence = results.wants_confidence
    stopped = False
    try:
        with naming(args.output), _asked_to_stop() as signals:
            for frame in itertools.islice(source, args.frames):
                try:
                    results.write(frame, segmenter(frame.image, confidence=confidence))
                except InferenceError as error:
                    skip(error)
                bar.update()
                if stopped := bool(signals):
                    break
    except SourceError as error:
        raise UserError(str(error)) from error
    finally:
        with naming(args.output):
            results.close()
        segmenter.close()
        bar.close()
        print(f"{results.frames} frames segmented, results in {args.output}", file=sys.stderr)
    if damaged:
        count = results.frames + len(damaged)
        print(
            f"bisenetv2 predict: error: {len(damaged)} of {count} frames skipped, see above",
            file=sys.stderr,
        )
    if stopped:
        return 130
    return 1 if damaged else 0


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that is no longer empty after Ctrl-C, so that the frame in hand is finished.

    A second Ctrl-C interrupts as usual.
    """
    signals: list[int] = []

    def handle(number: int, _: object) -> None:
        signals.append(number)
        signal.signal(number, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


def _kinds(text: str) -> tuple[str, ...]:
    return _names(text, KINDS)


def _bag_topics(text: str) -> tuple[str, ...]:
    return _names(text, BAG_TOPICS)


def _names(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"got '{name}', expected any of {','.join(known)}")
    return names


def _opacity(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 to 1")
    return value
