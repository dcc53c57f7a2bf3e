"""Finds which node each value of a ROS parameter file is for, which rclpy does not tell.

Many nodes may share a file, so a name that this node does not know belongs to another node if it is
under a wildcard, and is a mistake if it is under this node's name. Does not use ROS.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bisenetv2_ros.files.safe_yaml import YamlError, read_yaml

PARAMETERS = "ros__parameters"


@dataclass
class Given:
    """The values for one node in the parameter files of a command line."""

    own: set[str] = field(default_factory=set)  # parameters under a key that ends in its name
    shared: set[str] = field(default_factory=set)  # under a key that ends in a wildcard
    without: list[str] = field(default_factory=list)  # one line per file with nothing for it


def given_to(node: str, words: Sequence[str]) -> Given:
    """Read the files after --params-file among `words`, for a node such as /robot/segment."""
    given = Given()
    for option, path in itertools.pairwise(words):
        if option == "--params-file":
            _add(given, node, path)
    return given


def _add(given: Given, node: str, path: str) -> None:
    try:
        document = read_yaml(Path(path))
    except (OSError, YamlError):
        return  # rclpy has already refused it
    keys = []
    matched = False
    for key, values in _nodes("", document):
        keys.append(key)
        if re.fullmatch(key.replace("/*", r"(/\w+)"), node):  # as rclpy does it
            matched = True
            (given.shared if key.endswith("*") else given.own).update(_names("", values))
    if not matched and keys:
        near = difflib.get_close_matches(node, keys, n=1, cutoff=0.0)
        given.without.append(
            f"parameter file {path}: nothing in it is for {node}, found {', '.join(keys)}; "
            f"did you mean {node} instead of {near[0]}?"
        )


def _nodes(prefix: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """Each node's key, such as /robot/segment or /**, with its parameters."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key == PARAMETERS:
            yield prefix, value
        else:
            yield from _nodes(f"{prefix}/{str(key).strip('/')}", value)


def _names(prefix: str, tree: Any) -> Iterator[str]:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from _names(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}"
