"""Reads untrusted YAML files: plain values, of bounded size, that cannot expand in memory.

Does not interpret the values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20


class YamlError(ValueError):
    """Invalid or unsupported YAML. One-line message, without the file name."""


class _PlainLoader(yaml.SafeLoader):
    """A SafeLoader without aliases, which could expand to any size, and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias (*), expected the value itself")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    problem = f"the key {key.value!r} twice, expected it once"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a file. Raises YamlError, or OSError if it cannot be read."""
    return parse_yaml(_bytes(path))


def parse_yaml(text: str | bytes) -> Any:
    """Parse a text. Raises YamlError if it is invalid."""
    return _parse(yaml.load, text)


def read_yaml_nodes(path: Path) -> yaml.Node | None:
    """Read a file as YAML nodes, which keep quotes and order; None if it is empty.

    Raises YamlError, or OSError if it cannot be read.
    """
    node: yaml.Node | None = _parse(yaml.compose, _bytes(path))
    return node


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES} bytes, expected a short file")
    return data


def _parse(parse: Callable[..., Any], text: str | bytes) -> Any:
    try:
        return parse(text, _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise YamlError(f"not YAML: {str(error).splitlines()[0]}{where}") from error
    except RecursionError as error:
        raise YamlError("not YAML: nested too deeply") from error
