"""YAML files that a user was given: plain values, of bounded size, that cannot grow in memory.

Knows nothing of what the values mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20


class YamlError(ValueError):
    """Invalid or unsupported YAML. One-line message, without the file name."""


class _PlainLoader(yaml.SafeLoader):
    """Makes no objects, as SafeLoader, and takes no aliases: ten of ten of ten fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias (*), expected the value itself")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """The content of a file. YamlError, or OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES} bytes, expected a short file")
    return parse_yaml(data)


def parse_yaml(text: str | bytes) -> Any:
    """The value of a text. Raises YamlError if it has none."""
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise YamlError(f"not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise YamlError("not YAML: nested too deeply") from error
