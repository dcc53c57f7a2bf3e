"""`bisenetv2 VERB ...`: finds the verb, parses its options, runs it.

Every installed executable (`bisenetv2`, and `ros2 run bisenetv2_ros VERB`) ends up in `main()`.
This module knows no verb's options and imports a verb's module only when that verb is run:
`bisenetv2 --help` stays fast, and training verbs need no ROS, just as the node needs no torch.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from bisenetv2_ros import __version__
from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli.verbs import OPTIONAL_MODULES, VERBS
from bisenetv2_ros.system.threads import end_process

PROGRAM = "bisenetv2"

EXAMPLES = """\
examples:
  bisenetv2 demo                                          a synthetic street, segmented
  bisenetv2 predict drive.mp4 -o out --save video         your own video, no ROS
  bisenetv2 segment --ros-args -r image_raw:=/front/image_raw
"""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, like every other error of this program."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # An abbreviation would break when another option with that prefix is added.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None, verb: str | None = None) -> int:
    """Run the program and return its exit code.

    argv: the arguments without the program's name; None takes sys.argv's.
    verb: run this verb, argv holding only its options; None takes argv's first word as the verb.
    Wrong usage and --help leave by SystemExit, as argparse does. Ends the process itself if a
    thread is still inside a library.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a line at a time into pipes and files too
        sys.stdout.reconfigure(line_buffering=True)
    return end_process(_exit_code(argv, verb))


def _exit_code(argv: Sequence[str] | None, verb: str | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if verb is None:
            verb = _verb_of(words[:1])
            words = words[1:]
        return _run_verb(verb, words)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells report it
    except BrokenPipeError:
        # The reader (`| head`) is gone: discard the interpreter's final flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE


def _verb_of(first_word: Sequence[str]) -> str:
    """Answer --help and --version; return the verb that `first_word` (0 or 1 words) names."""
    width = max(map(len, VERBS), default=0)
    table = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} VERB [options]",
        description="Semantic segmentation of street scenes with BiSeNetV2: ROS 2 node, "
        "training and tools.",
        epilog=f"verbs (`{PROGRAM} VERB --help` explains each):\n{table}\n\n{EXAMPLES}",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    verb: str | None = parser.parse_args(first_word).verb
    if verb is None:
        parser.print_help()
        parser.exit(2)
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(VERBS)}"
        parser.error(f"unknown verb '{verb}': {hint}")
    return verb


def _run_verb(name: str, words: list[str]) -> int:
    verb = VERBS[name]
    parser = _Parser(prog=f"{PROGRAM} {name}", description=verb.help)
    try:
        own = _without_ros_args(words) if verb.is_ros_node else words
        module = importlib.import_module(verb.module)
        module.add_arguments(parser)
        own = _without_dashes(own)
        args = parser.parse_intermixed_args(own)  # `train a=1 --resume b=2` is one list
        args.ros_args = words if "--ros-args" in words else []
        return int(module.run(args))
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL_MODULES:
            raise
        print(
            f"{parser.prog}: error: the Python module '{missing}' is not installed: "
            f"{OPTIONAL_MODULES[missing]}",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        # A missing file or a full disk: the path is more useful than a traceback.
        print(f"{parser.prog}: error: {error.strerror}: '{error.filename}'", file=sys.stderr)
        return 1


def _without_dashes(words: Sequence[str]) -> list[str]:
    """Make words after `--` positional: `-- -dash.png` becomes `./-dash.png`.

    argparse does not support `--` if options and positional words may be mixed.
    """
    if "--" not in words:
        return list(words)
    place = list(words).index("--")
    rest = (f"./{word}" if word.startswith("-") else word for word in words[place + 1 :])
    return [*words[:place], *rest]


def _without_ros_args(words: list[str]) -> list[str]:
    """The words that are not ROS's, which extend from each `--ros-args` to a `--` or the end.

    https://design.ros2.org/articles/ros_command_line_arguments.html
    """
    if "--ros-args" not in words:
        return words  # --help needs no ROS
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        # A KeyboardInterrupt during rclpy's import may be swallowed, so a signal ends the process
        # then.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from bisenetv2_ros.node.ros_arguments import RosRefusal, without_ros_args
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return without_ros_args(words)
    except RosRefusal as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
