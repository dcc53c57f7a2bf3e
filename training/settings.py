"""Settings as frozen pydantic dataclasses, with one-line error messages.

`@settings` makes the class: keyword only, frozen, every field checked on construction. An error
names each key, what was received and what is expected, but not the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from bisenetv2_ros.files.safe_yaml import YamlError, read_yaml

MAX_BASES = 8

T = TypeVar("T")

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


class SettingsError(ValueError):
    """Values that do not fit; one line that names each key, its value and what is expected."""


def _number(value: Any) -> Any:
    """Convert a number from text: YAML 1.1 reads `5e-2` as a string. A bool is not a number."""
    if isinstance(value, bool):
        raise ValueError("bool")
    return float(value) if isinstance(value, str) else value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Bool = StrictBool


def within(low: float, high: float) -> Any:
    """Return a number's range, including both ends, for `Annotated`."""
    return Field(ge=low, le=high)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a checked, frozen dataclass.

    Constructing one, also by `dataclasses.replace`, raises SettingsError for values that do not
    fit. Checks across fields go into `__post_init__` and raise ValueError.
    """
    made = dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
    check = made.__init__

    @functools.wraps(check)
    def construct(self: Any, **values: Any) -> None:
        try:
            check(self, **values)
        except ValidationError as error:
            raise SettingsError(_explain(made, error)) from None

    made.__init__ = construct  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def build(cls: type[T], values: dict[str, Any]) -> T:
    """Make settings from plain values such as YAML's; lists become tuples, texts numbers.

    Raises:
        SettingsError: naming every key that is unknown, missing or does not fit.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise SettingsError(_explain(cls, error)) from None


def _explain(cls: Any, error: ValidationError) -> str:
    faults = [_fault(cls, found) for found in error.errors(include_url=False)]
    return "; ".join(dict.fromkeys(faults))


def _fault(owner: Any, found: Any) -> str:
    """Describe one of pydantic's errors about an instance of `owner`."""
    where = [str(part) for part in found["loc"]]
    parents: list[str] = []
    while len(where) > 1:
        inner = owner.__pydantic_fields__[where[0]].annotation
        if not dataclasses.is_dataclass(inner):
            break  # the rest is an index into a tuple
        parents.append(where.pop(0))
        owner = inner
    key = ".".join([*parents, *where[:1]])
    kind, value, fields = found["type"], found["input"], owner.__pydantic_fields__
    if kind == "unexpected_keyword_argument":
        near = difflib.get_close_matches(where[0], fields, 1)
        return f"unknown key {where[0]!r}" + (f", did you mean {near[0]!r}?" if near else "")
    if kind == "missing" and len(where) == 1:
        return f"missing key {key!r}"
    field = fields.get(where[0]) if where else None
    if kind == "value_error" and (field is None or dataclasses.is_dataclass(field.annotation)):
        return str(found["ctx"]["error"])  # of a check across fields
    assert field is not None
    plain = isinstance(value, float) or typing.get_origin(field.annotation) is Literal
    received = repr(value) if plain else json.dumps(value, default=str)
    return f"{key} is {received}, expected {_expected(field, kind)}"


def _expected(field: Any, kind: str) -> str:
    """Describe what a field accepts: its choices, number of values, range or type."""
    hint = field.annotation
    if typing.get_origin(hint) is Literal:
        return f"one of {list(typing.get_args(hint))}"
    if kind in ("missing", "too_long", "too_short"):
        return f"{len(typing.get_args(hint))} values"
    low, high = (
        next((getattr(mark, end) for mark in field.metadata if hasattr(mark, end)), None)
        for end in ("ge", "le")
    )
    ranged = kind in ("greater_than_equal", "less_than_equal", "finite_number")
    if ranged and low is not None and high is not None:
        return f"{low:g}..{high:g}" if abs(high) < 1e6 else f"{low}..{high}"
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)


def read_inherited(
    path: Path, find: Callable[[str, Path], Path], merged: str = "", depth: int = MAX_BASES
) -> dict[str, Any]:
    """Read a YAML file; the keys of the file that its key `base` names are the defaults.

    Args:
        path: the file to read.
        find: returns the path of a base, from its name and the path of the file that names it.
        merged: a key whose mapping is merged with the base's; other values replace the base's.
        depth: how many bases may follow one another.

    Raises SettingsError, which names the file; and what `find` raises.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except YamlError as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected keys and values, received {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not depth:
        raise SettingsError(f"{path}: more than {MAX_BASES} files based on one another")
    below = read_inherited(find(str(base), path), find, merged, depth - 1)
    if isinstance(values.get(merged), dict):
        values[merged] = {**below.get(merged, {}), **values[merged]}
    return {**below, **values}
