"""`bisenetv2 get`: downloads published weights and makes model files for the node."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from bisenetv2_ros.cli import UserError, user_errors
from bisenetv2_ros.cli.options import (
    OutputFolder,
    add_frames_options,
    add_size_option,
    calibration_frames,
)

COMPARED = 4  # frames on which torch and the runtimes are compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    known = _known()
    width = max(map(len, known))
    lines = "\n".join(f"  {name:<{width}}  {entry['title']}" for name, entry in known.items())
    parser.epilog = f"""\
weights:
{lines}

Downloads to $XDG_CACHE_HOME/bisenetv2_ros/weights (~/.cache) once, and resumes an interrupted
download. Then imports the weights as a run and exports float32, float16 and int8. int8 is
calibrated on --frames: use frames of your own camera. The hash is compared with the published one,
or with that of the first download if none is published.

examples:
  bisenetv2 get cityscapes --frames my_drive.mp4
  bisenetv2 predict drive.mp4 --model cityscapes -o out     the folder: each backend takes its file
  bisenetv2 segment --ros-args -p model:=$PWD/cityscapes
"""
    parser.add_argument("name", choices=list(known), help="weights to download, see below")
    parser.add_argument(
        "-o", "--output", action=OutputFolder, help="folder to make (default: NAME here)"
    )
    add_size_option(parser, "depends on the weights")
    add_frames_options(parser, "calibrate int8 on", 48)
    parser.add_argument("--url", default="", help="mirror to download the same file from")
    parser.add_argument(
        "--sha256", default="", metavar="HEX", help="expected hash, or its first digits"
    )


def run(args: argparse.Namespace) -> int:
    """Download, import and export; 1 if int8 was too inaccurate to keep."""
    from tqdm import tqdm

    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.files.download import DownloadError, download
    from bisenetv2_ros.files.paths import check_output
    from bisenetv2_ros.model_file import cache_directory
    from bisenetv2_ros.training.checkpoint import load_network
    from bisenetv2_ros.training.deploy import write_precisions
    from bisenetv2_ros.training.export import DeployedModel, ExportError
    from bisenetv2_ros.training.import_weights import read_public_weights, write_run

    entry = _known()[args.name]
    url = args.url or str(entry["url"])
    output = args.output or Path(args.name)
    with user_errors(ValueError):
        check_output(output, is_folder=True)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output}: is not empty, expected a new folder (-o)")
    if not all(digit in "0123456789abcdefABCDEF" for digit in args.sha256):
        raise UserError(f"--sha256 {args.sha256}: expected hexadecimal digits")
    try:
        path = cache_directory() / "weights" / Path(str(entry["url"])).name
    except RuntimeError as error:
        raise UserError(f"{error}: set XDG_CACHE_HOME to a folder for downloads") from error
    record = path.with_name(f"{path.name}.sha256")
    first_time = not record.exists()
    bar = tqdm(unit="B", unit_scale=True, desc=path.name, disable=None)

    def progress(done: int, total: int) -> None:
        bar.total = total or None
        bar.update(done - bar.n)

    with user_errors(DownloadError), bar:
        found = download(url, path, args.sha256 or _published(entry, url), progress)
    print(f"{path}: SHA-256 {found}")
    size = args.size or tuple(entry["size"])
    with user_errors(ValueError):
        try:
            imported = read_public_weights(path)
        except ValueError:
            if first_time:  # do not hold the right file to its hash
                for wrong in (path, record):
                    wrong.unlink(missing_ok=True)
            raise
        frames = calibration_frames(args.frames, args.frame_count, "--frames")
        output.mkdir(parents=True, exist_ok=True)
        write_run(imported, output / "run", path.name, size)
        trained = load_network(output / "run")
    print(f"{imported.layout}, {len(imported.labels)} classes: {', '.join(imported.labels.names)}")

    info = trained.model_info(str(entry["licence"]), trained_on="")
    network = DeployedModel(trained.network, trained.recipe.mean, trained.recipe.std)
    with user_errors(ExportError, BackendUnavailable):
        files = write_precisions(network, info, output, frames[:COMPARED], frames, print)
    for file in files.values():
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(f"source: {entry['source']}\nlicence: {entry['licence']}\npublished: {entry['score']}")
    return 0 if "int8" in files else 1


def _published(entry: dict[str, Any], url: str) -> str:
    """Return the published hash, or its first digits from mmsegmentation's file names, or ''."""
    in_name = re.search(r"_\d{8}_\d{6}-([0-9a-f]{8})\.pth$", url)
    return str(entry.get("sha256", "")) or (in_name[1] if in_name else "")


def _known() -> dict[str, dict[str, Any]]:
    from bisenetv2_ros.files.paths import share_directory
    from bisenetv2_ros.files.safe_yaml import read_yaml

    known: dict[str, dict[str, Any]] = read_yaml(
        share_directory() / "config" / "public_weights.yaml"
    )
    return known
