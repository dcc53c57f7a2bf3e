"""Separates a command line's ROS arguments and starts ROS with them; errors are one line."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import rclpy
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.utilities import remove_ros_args

_WHERE = re.compile(r",? at [^\s,]+\.c(pp)?:\d+")  # the place in rcl's own source

_PARAMETER_FILE = re.compile(r"Couldn't parse params file: '--params-file (.*)'\. Error: (.*)")
_LINE = re.compile(r"\bline(?:_num)? (\d+)")


class RosRefusal(RuntimeError):
    """Raised if ROS refuses its arguments or environment; a one-line message."""


def without_ros_args(words: Sequence[str]) -> list[str]:
    """Return the arguments that are not for ROS. Raises RosRefusal if those for ROS are invalid."""
    with _errors_in_one_line(words):
        return list(remove_ros_args(list(words)))


def init(words: Sequence[str], program: str) -> None:
    """Start ROS with the ROS arguments in `words`. Raises RosRefusal if it does not start.

    program: name at the beginning of warnings on stderr.
    """
    _check_security(os.environ, program)
    with _errors_in_one_line(words):
        rclpy.init(args=list(words))


@contextlib.contextmanager
def _errors_in_one_line(words: Sequence[str]) -> Iterator[None]:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raw = os.fsencode(word)
            raise RosRefusal(f"argument {raw!r} is not UTF-8, which ROS expects") from None
    set_logger_level("rcl", LoggingSeverity.FATAL)  # otherwise rcl also logs part of the error
    try:
        yield
    except RuntimeError as error:
        text = _WHERE.sub("", " ".join(str(error).split()))
        if type(error).__name__ == "UnknownROSArgsError":
            text = _unknown(text)
        elif found := _PARAMETER_FILE.search(text):
            text = _refused_file(Path(found[1]), found[2])
        raise RosRefusal(text) from error
    finally:
        set_logger_level("rcl", LoggingSeverity.UNSET)


def _unknown(text: str) -> str:
    """Return a message about the arguments that rclpy lists, with the correct form."""
    unknown = [str(word) for word in ast.literal_eval(text)]
    shown = " ".join(unknown)
    if any(":=" in word for word in unknown):
        return (
            f"unknown ROS arguments '{shown}': write -p NAME:=VALUE for a parameter, "
            "-r FROM:=TO for a remapping"
        )
    return (
        f"unknown ROS arguments '{shown}': expected -p, -r, --params-file, --log-level, --enclave; "
        "put other arguments before --ros-args, or after a --"
    )


def _refused_file(path: Path, reason: str) -> str:
    """Return a message with the line of a parameter file that rcl's parser refuses."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"parameter file {path}: {error.strerror}"
    for number, line in enumerate(lines, 1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return f"parameter file {path}, line {number}: indented with a tab, expected spaces"
    found = _LINE.search(reason)
    if found and 0 < int(found[1]) <= len(lines):
        reason = f"{reason.strip()}: '{lines[int(found[1]) - 1].strip()}'"
    return (
        f"parameter file {path}: {reason}; expected NODE: {{ros__parameters: {{NAME: VALUE}}}}, "
        "without anchors and null, as in config/segment.yaml"
    )


def _check_security(environment: Mapping[str, str], program: str) -> None:
    """Refuse, or warn, if security is enabled without a keystore; rcl's error does not name it."""
    if environment.get("ROS_SECURITY_ENABLE") != "true":
        return
    keystore = environment.get("ROS_SECURITY_KEYSTORE", "")
    if keystore and Path(keystore, "enclaves").is_dir():
        return
    found = f"ROS_SECURITY_KEYSTORE is '{keystore}'" if keystore else "no ROS_SECURITY_KEYSTORE"
    text = (
        f"ROS_SECURITY_ENABLE is true, but {found}, expected a keystore: make one with `ros2 "
        "security create_keystore DIRECTORY`, or unset ROS_SECURITY_ENABLE"
    )
    if environment.get("ROS_SECURITY_STRATEGY") == "Enforce":
        raise RosRefusal(text)
    print(f"{program}: warning: {text}; going on without security", file=sys.stderr, flush=True)
