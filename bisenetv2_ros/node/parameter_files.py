"""Finds the parameter values that a command line gives to a node, and the nodes of its files.

rclpy reports neither. Several nodes may share a file: an unknown parameter under a wildcard may
belong to another node, but under this node's name it is a mistake. Does not use ROS.
"""

from __future__ import annotations

import difflib
import itertools
import math
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bisenetv2_ros.files.safe_yaml import YamlError, read_yaml_nodes

PARAMETERS = "ros__parameters"

_FLAGS = {
    **dict.fromkeys(("-p", "--param"), "parameter"),
    **dict.fromkeys(("-r", "--remap"), "remapping"),
    "--params-file": "file",
}


@dataclass
class Given:
    """The values for one node in the parameter files of a command line."""

    own: set[str] = field(default_factory=set)  # parameters under a key that ends in its name
    shared: set[str] = field(default_factory=set)  # parameters under a key that ends in a wildcard
    without: list[str] = field(default_factory=list)  # warnings about values that do not reach it


def given_to(node: str, words: Sequence[str]) -> Given:
    """Read the parameter files named in `words`, for a node such as /robot/segment."""
    given = Given()
    for path in _rules(words, "file"):
        keys = []
        matched = []
        for key, values in _file(path):
            keys.append(key)
            if _matches(key, node):
                matched.append(key)
                names = given.shared if key.endswith("*") else given.own
                names.update(name for name, _ in _leaves("", values))
        if not keys:
            given.without.append(f"parameter file {path}: no parameters in it")
        elif not matched:
            near = difflib.get_close_matches(node, keys, n=1, cutoff=0.0)
            given.without.append(
                f"parameter file {path}: nothing in it is for {node}, found {', '.join(keys)}; "
                f"did you mean {node} instead of {near[0]}?"
            )
        elif all(key.endswith("*") for key in matched):
            name = posixpath.basename(node)
            given.without += [
                f"parameter file {path}: {key} does not match {node}"
                for key in keys
                if posixpath.basename(key) == name  # so only its namespace differs
            ]
    return given


def last_given(name: str, words: Sequence[str]) -> list[str]:
    """Return ROS arguments that make the last value of each parameter in `words` apply.

    rclpy applies values in the order in which their keys, such as /** or /robot/segment, first
    appear: in `-p a:=1 --params-file segment.yaml -p b:=2`, the file's b applies if it is under
    the node's name. And rclpy ignores `-p segment:a:=1` for a node in a namespace. The arguments
    returned are for the node `name` itself, and override all others.
    """
    node = full_name(name, words)
    last: dict[str, str] = {}
    doubtful = set()
    for kind, rule in _rules_of_all_kinds(words):
        addressed, values = _given_by(kind, rule, node)
        for parameter, text in values:
            if addressed or parameter in last:
                doubtful.add(parameter)
            last[parameter] = text
    rules = [f"{parameter}:={text}" for parameter, text in last.items() if parameter in doubtful]
    return ["--ros-args", *(word for rule in rules for word in ("-p", rule))] if rules else []


def full_name(name: str, words: Sequence[str]) -> str:
    """Return the name of the node `name` after the remappings among `words`, as /robot/segment."""

    def remapped(name: str, what: str, default: str) -> str:
        for rule in _rules(words, "remapping"):  # the first that matches applies
            if found := re.fullmatch(rf"({name}:)?__{what}:=(.+)", rule):
                return found[2]
        return default

    name = remapped(name, "(?:node|name)", name)
    namespace = remapped(name, "ns", "").strip("/")
    return f"/{namespace}/{name}" if namespace else f"/{name}"


def _rules_of_all_kinds(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the ROS arguments in `_FLAGS`, in order."""
    is_ros = False
    for word, text in itertools.pairwise([*words, ""]):
        if word in ("--ros-args", "--"):
            is_ros = word == "--ros-args"
        elif is_ros and word in _FLAGS:
            yield _FLAGS[word], text


def _rules(words: Sequence[str], kind: str) -> Iterator[str]:
    return (text for found, text in _rules_of_all_kinds(words) if found == kind)


def _given_by(kind: str, rule: str, node: str) -> tuple[bool, list[tuple[str, str]]]:
    """Return whether the argument is `-p NODE:NAME:=VALUE`, and its values for `node`, as text."""
    if kind == "file":
        own = (values for key, values in _file(rule) if _matches(key, node))
        return False, [
            (name, _text(value)) for values in own for name, value in _leaves("", values)
        ]
    found = re.fullmatch(r"(?:(\w+):)?([^:]+):=(.*)", rule, re.DOTALL)
    if kind != "parameter" or not found or found[1] not in (None, node.rpartition("/")[2]):
        return False, []
    return bool(found[1]), [(found[2], found[3])]


def _matches(key: str, node: str) -> bool:
    try:
        return bool(re.fullmatch(key.replace("/*", r"(/\w+)"), node))  # as rclpy does it
    except re.error:
        return False  # rclpy reports it


def _file(path: str) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the keys of a file, such as /robot/segment or /**, with their parameters."""
    try:
        document = read_yaml_nodes(Path(path))
    except (OSError, YamlError):
        return  # rclpy reports it
    yield from _nodes("", document)


def _nodes(prefix: str, tree: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in _items(tree):
        if key == PARAMETERS:
            yield prefix, value
        else:
            yield from _nodes(f"{prefix}/{key.strip('/')}", value)


def _leaves(prefix: str, tree: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in _items(tree):
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def _items(tree: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in tree.value if isinstance(tree, yaml.MappingNode) else ():
        yield str(key.value), value


def _text(value: yaml.Node) -> str:
    """Return the value in one line, with its quotes, because `"5"` is a string."""
    if isinstance(value, yaml.SequenceNode):
        value.flow_style = True
    elif isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
        value.style = '"'
    text = yaml.serialize(value, Dumper=yaml.SafeDumper, width=math.inf, allow_unicode=True)
    return str(text).removesuffix("...\n").strip()
