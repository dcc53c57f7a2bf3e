"""The common part of `predict` and `view`: opens source, model and results, then runs the loop."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError, user_errors
from bisenetv2_ros.cli.options import excerpt

if TYPE_CHECKING:
    from bisenetv2_ros.offline.run import Results
    from bisenetv2_ros.regions import Region
    from bisenetv2_ros.segmenter import Segmenter
    from bisenetv2_ros.sources.frame import FrameSource

OpenResults = Callable[["Segmenter", "FrameSource", "Sequence[Region]"], "Results"]


def segment_source(
    verb: str,
    args: argparse.Namespace,
    open_results: OpenResults,
    output: Path,
    outputs: Sequence[Path] = (),
) -> int:
    """Segment the source; return the exit code of `offline.run.segment_frames`.

    Args:
        args: of `add_source_options` and `add_excerpt_options`.
        open_results: may raise ValueError if the results do not suit the source.
        output: named in errors and at the end.
        outputs: files to be written; refused at the start if they are inputs.
    """
    from bisenetv2_ros.backends.base import BackendUnavailable
    from bisenetv2_ros.files.paths import naming, refuse_overwriting
    from bisenetv2_ros.offline.run import Faults, segment_frames
    from bisenetv2_ros.regions import parse_regions
    from bisenetv2_ros.segmenter import InferenceError, Segmenter
    from bisenetv2_ros.sources.frame import SourceError
    from bisenetv2_ros.sources.frame_source import open_source

    faults = Faults(verb)
    with user_errors(ValueError, BackendUnavailable, InferenceError):
        source = open_source(
            args.source,
            topics=args.topic,
            encodings=args.image_encoding,
            recursive=args.recursive,
            excerpt=excerpt(args),
            on_damaged=faults.skip,
        )
        refuse_overwriting(outputs, source.inputs)
        regions = parse_regions(args.region, source.cameras)
        segmenter = Segmenter(args.model, backend=args.backend, device=args.device)
    print(
        f"{segmenter.model.name} on {segmenter.backend.name}, {segmenter.backend.device}",
        file=sys.stderr,
    )
    try:
        with naming(output):
            results = open_results(segmenter, source, regions)
    except ValueError as error:
        more = f" and {len(args.source) - 1} more" if len(args.source) > 1 else ""
        raise UserError(f"{args.source[0]}{more}: {error}") from error
    with user_errors(SourceError):
        return segment_frames(source, segmenter, results, faults, output, args.frames)
