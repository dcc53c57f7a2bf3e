"""Patterns of files with placeholders, such as `images/{split}/{scene}/{name}.png`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::([^}]*))?\}", re.ASCII)


def check_pattern(text: str) -> None:
    """Raise ValueError if a pattern could match no file, whatever the folder holds."""
    rest = PLACEHOLDER.sub("", text)
    if not text or text.startswith(("/", "~")):
        raise ValueError("a path below the folder of the dataset (--data) is expected")
    if "\\" in text:
        raise ValueError("folders are separated by / on every system")
    if "{" in rest or "}" in rest:
        raise ValueError("a placeholder is a word of letters, digits and _ in braces: {name}")
    if "**" in text:
        raise ValueError("each folder on the way needs a placeholder of its own, not **")


class Pattern:
    """A path with placeholders; matches files and extracts the placeholders' values."""

    def __init__(self, text: str) -> None:
        self.text = text
        expression, end, seen = "", 0, set()
        for match in PLACEHOLDER.finditer(text):
            name, choices = match.groups()
            expression += _literal(text[end : match.start()])
            if name in seen:
                expression += f"(?P={name})"
            else:
                choice = "|".join(map(re.escape, choices.split("|"))) if choices else "[^/]+"
                expression += f"(?P<{name}>{choice})"
            seen.add(name)
            end = match.end()
        self.names = seen
        self._expression = re.compile(expression + _literal(text[end:]))
        every = PLACEHOLDER.sub("*", text)
        #: The folder that all files have in common.
        self.folder = every.partition("*")[0].rpartition("/")[0]
        self._glob = re.sub(r"([?[])", r"[\1]", every)  # of a glob's characters, only * is one here

    def find(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield matching files below `root`, sorted; skips hidden ones."""
        for path in sorted(root.glob(self._glob)):
            relative = path.relative_to(root)
            found = self.match(relative.as_posix())
            if found is not None and not any(part.startswith(".") for part in relative.parts):
                yield path, found

    def match(self, text: str) -> dict[str, str] | None:
        """Return the values of the placeholders, or None if the text does not match."""
        match = self._expression.fullmatch(text)
        return match.groupdict() if match else None

    def given(self, values: dict[str, str]) -> Pattern:
        """Fill in these placeholders and keep the others."""
        return Pattern(PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.text))

    def fill(self, found: dict[str, str]) -> str:
        """Fill in these placeholders; others become `*`."""
        return PLACEHOLDER.sub(lambda match: found.get(match[1], "*"), self.text)


def _literal(text: str) -> str:
    return "[^/]*".join(map(re.escape, text.split("*")))
