"""A dataset's YAML file: where its frames and labels are, and the meaning of label values.

Known datasets are in `config/datasets/`; docs/datasets.md explains the keys. `dataset_splits.py`
finds the files, `label_values.py` reads the labels.
"""

from __future__ import annotations

import colorsys
import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bisenetv2_ros.files.paths import share_directory
from bisenetv2_ros.labels import Colour, LabelSet
from bisenetv2_ros.training.datasets import DatasetError
from bisenetv2_ros.training.path_patterns import Pattern, check_pattern
from bisenetv2_ros.training.settings import SettingsError, read_inherited

Value = Annotated[int, Field(ge=0, le=65535)]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_name(value: Any) -> Any:
    """Convert a name to text; YAML reads `yes`, `no`, `on` and `off` as booleans."""
    if value is None or isinstance(value, bool) or value == "":
        raise ValueError("a name needs text, in quotes if it is yes, no, on or off")
    return str(value)


def _as_encoding(value: Any) -> Any:
    return "colours" if value == "colors" else value


def _as_rgb(value: Any) -> Any:
    """Convert a color such as `'#4682b4'` to a tuple; return other values unchanged."""
    if isinstance(value, str) and re.fullmatch("#?[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value.removeprefix("#")))
    return value


Level = Annotated[int, Field(ge=0, le=255)]
Rgb = Annotated[tuple[Level, Level, Level], BeforeValidator(_as_rgb)]
Encoding = Annotated[Literal["values", "index", "colours"], BeforeValidator(_as_encoding)]


class ClassEntry(BaseModel):
    """One class: its name, its color, and the label values or colors that mean it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, BeforeValidator(_as_name)]
    colour: Rgb | None = Field(None, validation_alias=AliasChoices("colour", "color"))
    values: Annotated[list[Value], BeforeValidator(_as_list)] | None = Field(
        None, validation_alias=AliasChoices("values", "value")
    )
    colours: list[Rgb] | None = Field(None, validation_alias=AliasChoices("colours", "colors"))

    @property
    def label_colours(self) -> list[Rgb]:
        """The colors of the class in label files."""
        return self.colours or ([self.colour] if self.colour else [])


class Layout(BaseModel):
    """The location of frames and labels, below the folder of the dataset.

    Attributes:
        frames, labels: patterns such as `images/{split}/{scene}/{name}.png`. A placeholder stands
            for a part of one file or folder name; `{name:a|b}` for one of these. Those of `frames`
            may be used in `labels`, where `*` stands for anything.
        encoding: content of label files: the `values` of the classes, the class `index`, or
            `colours`. None takes that of the dataset, or `values`.
        splits: the value of `{split}` for each split. None takes those of the dataset.
        names_in: file that lists the frames of a split, one per line.
        entry: pattern of the first word of a line, with the placeholders of `frames`.
        only: for a split, the values of a placeholder that belong to it: patterns with `*`, ranges
            `first..last`, or with `!` in front all except these.
        panoptic: JSON file in COCO's panoptic format, if the label files hold segment numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: str
    labels: str
    encoding: Encoding | None = None
    splits: dict[str, str] | None = None
    names_in: str = ""
    entry: str = "{name}"
    only: dict[str, dict[str, list[str]]] = {}
    panoptic: str = ""

    @field_validator("frames", "labels", "entry")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        check_pattern(text)
        return text

    @model_validator(mode="after")
    def _names_placeholders(self) -> Layout:
        """Refuse values of placeholders that the frames do not have."""
        known = Pattern(self.frames).names
        for name in (name for values in self.only.values() for name in values):
            if name not in known:
                raise ValueError(f"only: {name!r}, expected a placeholder of {self.frames}")
        return self


class DatasetFile(BaseModel):
    """The content of a dataset's YAML file.

    Attributes:
        name: short name of the label set, shared by datasets with the same classes.
        title, where, licence, source: information: what it is, where to get it, its licence, and
            where layout and values are published.
        classes: in the order of the class indices; an entry may be the name alone.
        first_value: label value of the first class, if classes state no values.
        ignored: label values, or with `colors` colors, that are neither trained nor scored.
        without: names of classes that are left out; their label values are ignored.
        absent: names of classes that no label has; `check-data` does not miss them.
        splits: see `Layout`; a list of names, or a mapping.
        layouts: tried in turn.
        encoding: of layouts that state none, and of a folder without `layouts`, where None detects
            it from the labels.
        ignore_index: ignored label value; None ignores 255, unless a class has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, BeforeValidator(_as_name)]
    title: str = ""
    where: str = ""
    licence: str = ""
    source: list[str] = []
    classes: list[ClassEntry] = Field(min_length=1)
    first_value: int = 0
    ignored: Annotated[list[Value | Rgb], BeforeValidator(_as_list)] = []
    without: Annotated[list[str], BeforeValidator(_as_list)] = []
    absent: Annotated[list[str], BeforeValidator(_as_list)] = []
    splits: dict[str, str] = {}
    layouts: list[Layout] = []
    encoding: Encoding | None = None
    ignore_index: Value | None = None

    @functools.cached_property
    def kept(self) -> list[ClassEntry]:
        """The classes that are not left out."""
        return [entry for entry in self.classes if entry.name not in self.without]

    @functools.cached_property
    def labels(self) -> LabelSet:
        """Names and colors. Raises ValueError naming the field that is wrong."""
        given = {entry.colour for entry in self.kept}
        spare = iter(c for c in spread_colours(len(self.kept) + len(given)) if c not in given)
        ignore = 255 if self.ignore_index is None else self.ignore_index
        return LabelSet(
            name=self.name,
            names=tuple(entry.name for entry in self.kept),
            palette=tuple(entry.colour or next(spare) for entry in self.kept),
            ignore_index=ignore if len(self.kept) <= ignore <= 255 else 255,
        )

    def values(self) -> list[list[int]]:
        """Return the label values of each class."""
        values = {
            entry.name: [self.first_value + i] if entry.values is None else entry.values
            for i, entry in enumerate(self.classes)
        }
        return [values[entry.name] for entry in self.kept]

    def check_colours(self) -> None:
        """Raise ValueError if labels in colours could not show one of the classes."""
        for entry in self.kept:
            if not entry.label_colours and entry.name not in self.absent:
                raise ValueError(
                    f"labels are in colours, and class {entry.name!r} has none, expected a "
                    "`colour:` of each class"
                )

    def ignored_values(self) -> set[int]:
        """Return the label values that are neither trained nor scored."""
        owners: dict[int, str] = {}
        for entry, values in zip(self.kept, self.values(), strict=True):
            for value in values:
                if owners.setdefault(value, entry.name) != entry.name:
                    raise ValueError(
                        f"label value {value} is that of classes {owners[value]!r} and "
                        f"{entry.name!r}, expected one class: give each its `value:`"
                    )
        ignored = {value for value in self.ignored if isinstance(value, int)}
        for i, entry in enumerate(self.classes):
            if entry.name in self.without:
                ignored.update([self.first_value + i] if entry.values is None else entry.values)
        if self.ignore_index is not None:
            ignored.add(self.ignore_index)
        elif 255 not in owners:
            ignored.add(255)
        if both := sorted(owners.keys() & ignored):
            raise ValueError(
                f"label value {both[0]} is that of class {owners[both[0]]!r} and ignored: give "
                "each class its `value:`, or another ignore_index"
            )
        return ignored


def spread_colours(count: int) -> tuple[Colour, ...]:
    """Choose RGB colors for classes, neighbors far apart: hues by the golden angle."""
    hues = [(index * 0.381966) % 1 for index in range(count)]
    rgb = [colorsys.hsv_to_rgb(hue, 0.78, 0.55 + 0.4 * (i % 3) / 2) for i, hue in enumerate(hues)]
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


# --- reading --------------------------------------------------------------------------------------


def known_datasets() -> dict[str, Path]:
    """Return the files of the package's datasets, by name."""
    folder = share_directory() / "config" / "datasets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@functools.lru_cache(maxsize=64)
def known_dataset(name: str) -> DatasetFile:
    """Read one of the package's datasets."""
    return read_dataset_file(known_datasets()[name])


def kind_of(labels: LabelSet) -> str:
    """Return the name of a known dataset with these classes, or ''."""
    for name in ("cityscapes", "camvid", *known_datasets()):
        if known_dataset(name).labels.names == labels.names:
            return name
    return ""


_FORMS = {
    "classes": "`classes:` as a list of {name, colour: [r, g, b]}",
    "layouts": "`layouts:` as a list of {frames: PATTERN, labels: PATTERN}",
    "splits": "`splits:` as a list of names",
    "ignored": "`ignored:` as a list of label values or of colours [r, g, b]",
}


def read_dataset_file(path: Path) -> DatasetFile:
    """Read a dataset's YAML file; DatasetError names the file, the key and what is expected."""

    def base_path(base: str, named_in: Path) -> Path:
        return known_datasets().get(base, named_in.parent / base)

    try:
        values = read_inherited(path, base_path)
    except SettingsError as error:
        raise DatasetError(f"{error} (expected a list of classes, docs/datasets.md)") from error
    values.setdefault("name", path.parent.name if path.stem == "classes" else path.stem)
    for layer in (values, *(v for v in _as_list(values.get("layouts") or []))):
        if isinstance(layer, dict) and isinstance(layer.get("splits"), list):
            layer["splits"] = {str(split): str(split) for split in layer["splits"]}
    if isinstance(values.get("classes"), list):
        values["classes"] = [
            {"name": entry} if isinstance(entry, str) else entry for entry in values["classes"]
        ]
    try:
        content = DatasetFile.model_validate(values)
        known = {entry.name for entry in content.classes}
        for key in ("without", "absent"):
            for name in getattr(content, key):
                if name not in known:
                    raise ValueError(f"{key}: {name!r}, expected the name of a class")
        _ = content.labels, content.ignored_values()
        if "colours" in (content.encoding, *(layout.encoding for layout in content.layouts)):
            content.check_colours()
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        shown = str(first.get("input"))
        if re.fullmatch(r"classes\.\d+", key) and isinstance(first["input"], (bool, int, float)):
            first["msg"] = "a name needs quotes if it is a number, yes, no, on or off"
        raise DatasetError(
            f"{path}: {key or 'content'}: {first['msg'].removeprefix('Value error, ')}, got "
            f"{shown[:60]!r}; expected {_FORMS.get(key.partition('.')[0], _FORMS['classes'])}, and "
            "so on (docs/datasets.md)"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    return content
