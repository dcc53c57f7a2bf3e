"""Reads untrusted YAML files: plain values, of bounded size, that cannot expand in memory.

Does not interpret the values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20


class YamlError(ValueError):
    """Invalid or unsupported YAML. One-line message, without the file name."""


class _PlainLoader(yaml.SafeLoader):
    """A SafeLoader without aliases, which could expand to any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(problem="an alias (*), expected the value itself")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Read a file. Raises YamlError, or OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES} bytes, expected a short file")
    return parse_yaml(data)


def parse_yaml(text: str | bytes) -> Any:
    """Parse a text. Raises YamlError if it is invalid."""
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise YamlError(f"not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise YamlError("not YAML: nested too deeply") from error
