"""A dataset as a YAML file: where its frames and labels are, and the meaning of label values.

Known datasets are in `config/datasets/`; docs/datasets.md explains the keys. Knows nothing of
joined splits, training or networks.
"""

from __future__ import annotations

import colorsys
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
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
from bisenetv2_ros.training.datasets import (
    DatasetError,
    Decode,
    FileDataset,
    Pixels,
    read_label,
    white_of,
)
from bisenetv2_ros.training.settings import SettingsError, read_inherited

NEAR = 12  # maximum difference per channel between a color and its JPEG version
UNKNOWN = 254  # in lookup tables: a value that is neither a class nor ignored

Value = Annotated[int, Field(ge=0, le=65535)]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_name(value: Any) -> Any:
    """A name as text; YAML reads `yes`, `no`, `on` and `off` as truth values."""
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
        encoding: what label files hold: the `values` of the classes, their place in the list
            (`index`), or their `colors`. None takes that of the dataset, or `values`.
        splits: the splits there are; a mapping tells what `{split}` is for each, where that is not
            its name. None takes those of the dataset.
        names_in: file with the frames of a split, one a line, the first word of which is `entry`.
        entry: pattern of such a word, with the placeholders of `frames`.
        only: for a split the placeholders' values that belong to it: a list of patterns with `*`,
            ranges `first..last`, or either with `!` in front for all others.
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
        """Refuse a pattern that could match no file, whatever the folder holds."""
        rest = _PLACEHOLDER.sub("", text)
        if not text or text.startswith(("/", "~")):
            raise ValueError("a path below the folder of the dataset (--data) is expected")
        if "\\" in text:
            raise ValueError("folders are separated by / on every system")
        if "{" in rest or "}" in rest:
            raise ValueError("a placeholder is a word of letters, digits and _ in braces: {name}")
        if "**" in text:
            raise ValueError("each folder on the way needs a placeholder of its own, not **")
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
        name: of the label set, short; two datasets with the same classes share it.
        title, where, licence, source: for people: what it is, where to get it, under which terms,
            and where layout and values are published.
        classes: in the order of the class indices; an entry may be the name alone.
        first_value: label value of the first class, if classes state no values.
        ignored: label values, or with `colors` colors, that are neither trained nor scored.
        without: names of classes that are left out; their label values are ignored.
        absent: names of classes that no label has; `check-data` does not miss them.
        splits: see `Layout`; a list of names, or a mapping.
        layouts: tried in turn.
        encoding: of layouts that state none, and of a folder without `layouts`; there None goes by
            the labels themselves.
        ignore_index: label value that is ignored. 255 is, unless a class has it.
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
        """Names and colors. Raises ValueError names the field that is wrong."""
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
        """The label values of each class."""
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
        """Label values that are neither trained nor scored."""
        taken = {value for values in self.values() for value in values}
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
        elif 255 not in taken:
            ignored.add(255)
        if both := sorted(taken & ignored):
            owner = next(
                e.name for e, v in zip(self.kept, self.values(), strict=True) if both[0] in v
            )
            raise ValueError(
                f"label value {both[0]} is that of class {owner!r} and ignored: give each class "
                "its `value:`, or another ignore_index"
            )
        return ignored


def spread_colours(count: int) -> tuple[Colour, ...]:
    """RGB colors of as many classes, neighbors far apart: hues by the golden angle."""
    hues = [(index * 0.381966) % 1 for index in range(count)]
    rgb = [colorsys.hsv_to_rgb(hue, 0.78, 0.55 + 0.4 * (i % 3) / 2) for i, hue in enumerate(hues)]
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


# --- reading --------------------------------------------------------------------------------------


def known_datasets() -> dict[str, Path]:
    """The datasets that come with the package, by name."""
    folder = share_directory() / "config" / "datasets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@functools.lru_cache(maxsize=64)
def known_dataset(name: str) -> DatasetFile:
    """A dataset that comes with the package."""
    return read_dataset_file(known_datasets()[name])


def kind_of(labels: LabelSet) -> str:
    """The known dataset with these classes, preferably the one named after them; '' if none."""
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


# --- patterns -------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::([^}]*))?\}", re.ASCII)


class Pattern:
    """A path with placeholders; matches files and extracts the placeholders' values."""

    def __init__(self, text: str) -> None:
        self.text = text
        expression, end, seen = "", 0, set()
        for match in _PLACEHOLDER.finditer(text):
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
        self.glob = _PLACEHOLDER.sub("*", text)

    def find(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """Matching files below `root`, sorted; skips hidden ones."""
        for path in sorted(root.glob(self.glob)):
            relative = path.relative_to(root)
            found = self.match(relative.as_posix())
            if found is not None and not any(part.startswith(".") for part in relative.parts):
                yield path, found

    def match(self, text: str) -> dict[str, str] | None:
        """The values of the placeholders, or None if the text does not match."""
        match = self._expression.fullmatch(text)
        return match.groupdict() if match else None

    def fill(self, found: dict[str, str]) -> str:
        """The path with the placeholders filled in; others become `*`."""
        return _PLACEHOLDER.sub(lambda match: found.get(match[1], "*"), self.text)


def _literal(text: str) -> str:
    return "[^/]*".join(map(re.escape, text.split("*")))


def _belongs(value: str, patterns: Iterable[str]) -> bool:
    """Whether a value matches one of the patterns of `Layout.only`."""

    def fits(pattern: str) -> bool:
        first, dots, last = pattern.partition("..")
        return first <= value <= last if dots else fnmatchcase(value, pattern)

    return any(fits(p.removeprefix("!")) != p.startswith("!") for p in patterns)


# --- a split --------------------------------------------------------------------------------------


def open_dataset(content: DatasetFile, root: Path, split: str) -> FileDataset:
    """The frames of one split and their labels, by the first layout that has both.

    Raises:
        DatasetError: no such folder, no frame of the split in any layout.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    best: FileDataset | None = None
    problems = []
    for layout in content.layouts:
        try:
            found = _open_layout(content, layout, root, split)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if any(label.is_file() for _, label in found.pairs):
            return found
        best = best or found
    if best is None:
        raise DatasetError("; ".join(dict.fromkeys(problems)) or f"{root}: no layouts")
    return best  # frames without a label are reported when they are read


def _open_layout(content: DatasetFile, layout: Layout, root: Path, split: str) -> FileDataset:
    splits = layout.splits if layout.splits is not None else content.splits
    known = {"split": splits.get(split, split)}
    frames = Pattern(Pattern(layout.frames).fill({**_kept(layout.frames), **known}))
    labels = Pattern(Pattern(layout.labels).fill({**_kept(layout.labels), **known}))
    if layout.names_in:
        found = _listed(
            root / layout.names_in.replace("{split}", known["split"]), layout, frames, root
        )
    else:
        found = list(frames.find(root))
        every = len(found)
        if layout.only and split not in layout.only:
            raise DatasetError(f"split {split!r}, expected one of {', '.join(layout.only)}")
        for name, patterns in layout.only.get(split, {}).items():
            found = [(path, values) for path, values in found if _belongs(values[name], patterns)]
        if every and not found:
            raise DatasetError(
                f"{root}: {every} frames as {frames.text}, none of which `only:` takes for {split}"
            )
    if not found:
        folder = root / frames.glob.partition("*")[0].rpartition("/")[0]
        what = "no frames" if folder.is_dir() else "no such folder"
        raise DatasetError(
            f"{folder}: {what}, expected {frames.text}"
            + (f" (splits: {', '.join(splits)})" if splits and split not in splits else "")
        )
    pairs = [(frame, _label_path(root, labels.fill(values))) for frame, values in found]
    named = {
        label for _, label in pairs
    }  # labels in the folder of their frames match the frames' pattern too
    pairs = [(frame, label) for frame, label in pairs if frame not in named]
    if not pairs:
        raise DatasetError(f"{root}: no frames: {layout.labels} names the frames themselves")
    used: dict[Path, Path] = {}
    for frame, label in pairs:
        if used.setdefault(label, frame) != frame:
            raise DatasetError(
                f"{label}: the label of two frames, {used[label]} and {frame}, expected `labels:` "
                f"to tell them apart by the placeholders of {layout.frames}, got {layout.labels}"
            )
    encoding = layout.encoding or content.encoding or "values"
    whole = not (layout.names_in or layout.only)
    return FileDataset(
        content.labels,
        pairs,
        make_decoder(content, encoding, root / layout.panoptic if layout.panoptic else None),
        (lambda: [path for path, _ in labels.find(root)]) if whole else None,
        content.values() if encoding == "values" and not layout.panoptic else None,
        content.absent,
    )


def _kept(text: str) -> dict[str, str]:
    """Each placeholder of a pattern as its own value, so that `fill` keeps it."""
    return {match[1]: match[0] for match in _PLACEHOLDER.finditer(text)}


def _label_path(root: Path, text: str) -> Path:
    if "*" not in text:
        return root / text
    found = sorted(root.glob(text))
    return found[0] if found else root / text


def _listed(
    path: Path, layout: Layout, frames: Pattern, root: Path
) -> list[tuple[Path, dict[str, str]]]:
    """The frames that a split's list names."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing, expected the list of the frames of the split")
    entry = Pattern(layout.entry)
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        values = entry.match(line.split()[0])
        if values is None:
            raise DatasetError(f"{path}: {line.split()[0]!r}, expected {layout.entry}")
        found.append((root / frames.fill(values), values))
    return found


# --- label values ---------------------------------------------------------------------------------


def make_decoder(content: DatasetFile, encoding: str, panoptic: Path | None = None) -> Decode:
    """Make a function from a label file to its (H, W) uint8 class indices.

    It raises DatasetError for a value or color that is neither a class nor ignored.
    """
    labels = content.labels
    if encoding == "colours":
        return _colour_decoder(content)
    values = [[i] for i in range(len(labels))] if encoding == "index" else content.values()
    ignored = {255} if encoding == "index" else content.ignored_values()
    table = np.full(65536, UNKNOWN, np.uint8)
    known = np.zeros(65536, bool)
    for i, of_class in enumerate(values):
        table[of_class] = i
        known[of_class] = True
    table[list(ignored)] = labels.ignore_index
    known[list(ignored)] = True
    white = white_of(values)
    segments = _panoptic_segments(panoptic) if panoptic else None

    def decode(path: Path) -> Pixels:
        if segments:
            label = segments(path)
        else:
            label = _read_matlab(path) if path.suffix == ".mat" else read_label(path, white=white)
        if label.ndim == 3:
            raise DatasetError(f"{path}: label map is in colours, expected grey, one byte a pixel")
        wrong = ~known[label]
        if wrong.any():
            first = labels.ignore_index
            others = sorted(ignored - {first})
            raise DatasetError(
                f"{path}: label value {int(label[wrong][0])}, expected "
                f"{_ranges(v for of_class in values for v in of_class)}"
                + (f" or {first}" if first in ignored else "")
                + (f", or {_ranges(others)} (ignored)" if others else "")
            )
        return table[label]

    return decode


def _colour_decoder(content: DatasetFile) -> Decode:
    try:
        content.check_colours()
    except ValueError as error:
        raise DatasetError(f"{content.name}: {error}") from error
    colours: dict[int, int] = {}
    for ignored in content.ignored:
        if isinstance(ignored, tuple):
            colours[_packed(ignored)] = content.labels.ignore_index
    for index, entry in enumerate(content.kept):
        for colour in entry.label_colours:
            other = colours.setdefault(_packed(colour), index)
            if other not in (index, content.labels.ignore_index):
                raise DatasetError(
                    f"{content.name}: colour {colour} is that of classes "
                    f"{content.kept[other].name!r} and {entry.name!r}, expected one class"
                )
            colours[_packed(colour)] = index
    keys = np.array(sorted(colours), np.int64)
    classes = np.array([colours[key] for key in keys.tolist()], np.uint8)

    def decode(path: Path) -> Pixels:
        rgb = read_label(path, colours=True).astype(np.int64)
        packed = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        where = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        wrong = keys[where] != packed
        if wrong.any():
            colour = tuple(int(v) for v in rgb[wrong][0])
            raise DatasetError(
                f"{path}: colour {colour}, expected one of the {len(keys)} of {content.name}; one "
                f"that means nothing belongs under `ignored:`{_if_near(colour, content)}"
            )
        return classes[where]

    return decode


def _if_near(colour: tuple[int, ...], content: DatasetFile) -> str:
    """Return the likely cause of a color close to a class's color, or '' if it is not close."""
    for entry in content.kept:
        for own in entry.label_colours:
            if max(abs(a - b) for a, b in zip(colour, own, strict=True)) <= NEAR:
                return (
                    f"; it is nearly that of {entry.name!r}: a mask that was a JPEG, or was "
                    "resized with smooth edges, has lost its values"
                )
    return ""


def _packed(colour: Sequence[int]) -> int:
    return (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _panoptic_segments(path: Path) -> Callable[[Path], NDArray[np.uint16]]:
    """A function from a label file of segment numbers (COCO's panoptic format) to its values."""
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        segments = {
            str(a["file_name"]): {int(s["id"]): int(s["category_id"]) for s in a["segments_info"]}
            for a in annotations
        }
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: expected annotations in COCO's panoptic format") from error

    def read(label: Path) -> NDArray[np.uint16]:
        if label.name not in segments:
            raise DatasetError(f"{label}: not among the annotations of {path}")
        rgb = read_label(label, colours=True).astype(np.int64)
        number = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        category = segments[label.name]
        used, inverse = np.unique(number, return_inverse=True)
        missing = [int(n) for n in used if n and int(n) not in category]
        if missing:
            raise DatasetError(f"{label}: segment {missing[0]} is not in {path}")
        values = np.array([category.get(int(n), 0) for n in used], np.uint16)
        return values[inverse.reshape(number.shape)]

    return read


def _read_matlab(path: Path) -> NDArray[Any]:
    """The label map `S` of one of COCO-Stuff 10k's MATLAB files."""
    try:
        from scipy.io import loadmat

        return np.asarray(loadmat(path)["S"]).astype(np.uint16)
    except ModuleNotFoundError as error:
        raise DatasetError(f"{path}: MATLAB files need scipy: `pip install scipy`") from error
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"{path}: not a MATLAB file with a label map S: {error}") from error


def _ranges(values: Iterable[int]) -> str:
    """Format values as 0..3, 7, 9..10."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(f"{a}..{b}" if a < b else f"{a}" for a, b in parts)
