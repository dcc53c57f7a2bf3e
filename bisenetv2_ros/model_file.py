"""The model file: one self-describing ONNX file from uint8 camera pixels to a uint8 label mask.

    input   image       uint8 (N, H, W, 3)  RGB, 0..255, at the size in the metadata
    output  mask        uint8 (N, H, W)     class index
    output  confidence  uint8 (N, H, W)     largest class probability, 255 = 1.0

Normalization, layout, network, upsampling and argmax are in the graph; class names, colors and
scores are in its metadata. This module reads, checks and writes that contract. It knows nothing of
how a model is run (backends/) or made (training/export.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bisenetv2_ros.files.paths import naming, replacing, share_directory
from bisenetv2_ros.labels import LabelSet, label_set_from_dict, label_set_to_dict

if TYPE_CHECKING:
    import onnx

FORMAT = 1  #: version of the contract above; other versions are refused
MAX_BYTES = 512 * 2**20  #: larger files are not read; the largest BiSeNetV2 needs a tenth
MAX_SIDE = 4096  #: largest width or height of a file, pixels
PRECISIONS = ("float32", "float16", "int8")
DEFAULT_MODEL = "bisenetv2_camvid_640x480"  #: meaning of '', in the package's models/
INPUT = "image"
MASK = "mask"
#: The precisions that a backend runs fastest, best first; '' is for CPUs. TensorRT makes the
#: float16 file itself (`backends.float16`) if there is only a float32 one.
BEST_PRECISIONS = {
    "": ("int8", "float32", "float16"),
    "tensorrt": ("float16", "float32", "int8"),
}
OUTPUTS = (MASK, "confidence")
NO_CLASS = 255  #: mask value if the logits are not finite; `Segmenter` refuses such a frame
_PREFIX = "bisenetv2."

_T = TypeVar("_T")


class ModelFileError(ValueError):
    """The file is not a model of this package; the message has file, received and expected."""


@dataclass(frozen=True)
class ModelInfo:
    """The metadata of a model. Raises ValueError for a value that no model can have."""

    labels: LabelSet
    dataset: str  #: it was trained on, such as 'camvid'
    input_size: tuple[int, int]  #: (width, height) in pixels
    precision: str  #: 'float32', 'float16' or 'int8'
    metrics: dict[str, float]  #: scores by a name with measure and dataset; may be empty
    source_revision: str  #: revision of the code that made it
    licence: str  #: of weights and training data, one line
    #: splits of the dataset, such as 'train' or 'train+val'; '' if not known
    trained_on: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in self.metrics:
            if split := self.memorized(name):
                raise ValueError(
                    f"metric '{name}' is a score on {split}, on which it was trained "
                    f"({self.trained_on}): such a score measures memory"
                )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got '{self.precision}'"
            )
        if not all(1 <= side <= MAX_SIDE for side in self.input_size):
            raise ValueError(
                f"input_size must be within 1..{MAX_SIDE} pixels, "
                f"got {self.input_size[0]}x{self.input_size[1]}"
            )

    def memorized(self, metric: str) -> str:
        """Return the split in a metric's name if the weights were trained on it, otherwise ''.

        Splits are words in the name, such as `camvid_val_miou`. `train` itself is not looked for,
        nor splits of the synthetic street, unless it is the dataset.
        """
        words = metric.replace("_", " ").split()
        another = "synthetic" in words and self.dataset != "synthetic"
        if another or ":" in self.trained_on:  # a part of each split
            return ""
        return next((s for s in self.trained_on.split("+") if s in words and s != "train"), "")


@dataclass(frozen=True)
class ModelFile:
    """A file that has passed all checks of `read_model_file`."""

    path: Path
    sha256: str  #: of the whole file, 64 hexadecimal digits
    info: ModelInfo

    @property
    def name(self) -> str:
        """File name without suffix, used in messages and logs."""
        return self.path.stem


def models_directory() -> Path:
    """The package's own models. Raises FileNotFoundError if it is installed without them."""
    return share_directory() / "models"


def cache_directory() -> Path:
    """The directory for files that can be made again: below $XDG_CACHE_HOME, or ~/.cache.

    Raises RuntimeError if there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "bisenetv2_ros"


def model_path(name_or_path: str | Path = "", backend: str = "") -> Path:
    """Find a model file by path, or the file of a model in several precisions that suits a backend.

    backend: a key of `backends.BACKENDS`; '' for a CPU. See `model_files` for the rest.
    """
    files = model_files(name_or_path)
    order = BEST_PRECISIONS.get(backend, BEST_PRECISIONS[""])
    return next(files[precision] for precision in ("", *order) if precision in files)


def model_files(name_or_path: str | Path = "") -> dict[str, Path]:
    """Find the files of a model by precision; a file that is named itself has the key ''.

    Args:
        name_or_path: a file; a folder that holds `NAME_float32.onnx`, `NAME_float16.onnx` and
            `NAME_int8.onnx`, or some of them, as `bisenetv2 deploy` makes it; the same files' path
            up to `NAME`; the name of one of the package's models, with or without its precision; or
            '' for the package's default.

    Raises:
        ModelFileError: if a folder holds no model or several, or no file or model has the name.
    """
    name = str(name_or_path) or DEFAULT_MODEL
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix == ".safetensors":
            _refuse_run(path.parent, path)
        return {"": path}
    if path.is_dir():
        return _precisions_in(path)
    bare = path.name == name
    places = [path]
    if bare:
        try:
            places.append(models_directory() / name)
        except FileNotFoundError as error:
            raise ModelFileError(f"model '{name}': no such file, and {error}") from None
    for place in places:
        for file in (place, place.with_name(f"{place.name}.onnx")):
            if file.is_file():
                return {"": file}
        files = {p: place.with_name(f"{place.name}_{p}.onnx") for p in PRECISIONS}
        if found := {p: file for p, file in files.items() if file.is_file()}:
            return found
    if not bare:
        return {"": path}
    known = ", ".join(sorted(file.stem for file in places[-1].parent.glob("*.onnx")))
    raise ModelFileError(f"model '{name}': no such file; models in {places[-1].parent}: {known}")


def _precisions_in(folder: Path) -> dict[str, Path]:
    """The files of the one model in a folder, by precision."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.onnx")):
        precision = file.stem.rpartition("_")[2]
        if precision not in PRECISIONS:
            continue
        if precision in found:
            raise ModelFileError(
                f"model {folder}: holds {found[precision].name} and {file.name}, expected "
                "the files of one model: name the file"
            )
        found[precision] = file
    if not found:
        _refuse_run(folder, folder)
        raise ModelFileError(
            f"model {folder}: a folder without a model, expected NAME_PRECISION.onnx in it"
        )
    return found


def _refuse_run(folder: Path, named: Path) -> None:
    """Raise ModelFileError if a folder is that of a training run, of its checkpoints or of one."""
    for run in (folder, folder.parent, folder.parent.parent):
        if (run / "recipe.json").is_file():
            usable = folder if (folder / "model.safetensors").is_file() else run
            raise ModelFileError(
                f"model {named}: a training run, expected a model: make one of it with "
                f"`bisenetv2 deploy {usable} -o my_model`"
            )


def read_model_file(path: str | Path) -> ModelFile:
    """Read and check a model file; performs every check that needs no inference.

    Raises a one-line ModelFileError if the file is missing, a directory, empty, over MAX_BYTES or
    not ONNX; if it lacks or contradicts a metadata key, has other inputs or outputs or operators
    beyond standard ONNX, or keeps tensors in other files or in sparse form (with which runtimes
    have been made to read out of bounds and outside the directory).
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        model = _parse(data)
        _check_self_contained(model)
        info = _read_info({entry.key: entry.value for entry in model.metadata_props})
        _check_signature(model.graph, info.input_size)
    except ValueError as error:
        raise ModelFileError(f"model file {path}: {error}") from None
    return ModelFile(path, hashlib.sha256(data).hexdigest(), info)


def write_metadata(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Describe `model` by `info`, replacing earlier metadata of this package.

    Raises ValueError for metrics that are not finite, which JSON cannot express.
    """
    values = {
        "format": str(FORMAT),
        "labels": json.dumps(label_set_to_dict(info.labels)),
        "dataset": info.dataset,
        "input_size": f"{info.input_size[0]}x{info.input_size[1]}",
        "precision": info.precision,
        "metrics": json.dumps(info.metrics, allow_nan=False),
        "source_revision": info.source_revision,
        "licence": info.licence,
        **({"trained_on": info.trained_on} if info.trained_on else {}),
    }
    kept = [entry for entry in model.metadata_props if not entry.key.startswith(_PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in values.items():
        model.metadata_props.add(key=_PREFIX + key, value=value)


def write_model_file(model: onnx.ModelProto, info: ModelInfo, path: Path) -> ModelFile:
    """Write `model`, described by `info`, to `path`, and read it back with all checks.

    If it fails, the previous file at `path` stays. Raises OSError, ModelFileError, or
    onnx.checker.ValidationError.
    """
    import onnx

    write_metadata(model, info)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as partial, naming(path):
        onnx.save(model, partial)
        written = read_model_file(partial)
    return dataclasses.replace(written, path=path)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            with path.open("rb") as file:  # a device has no size in advance, and no end
                data = file.read((size or MAX_BYTES) + 1)
            size = len(data)
    except OSError as error:
        raise ModelFileError(f"model file {path}: {error.strerror}") from None
    if size > MAX_BYTES:
        raise ModelFileError(f"model file {path}: {size} bytes, at most {MAX_BYTES} are accepted")
    if not data:
        raise ModelFileError(f"model file {path}: empty, expected an ONNX model")
    return data


def _parse(data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load_model_from_string(data)
    except DecodeError:
        raise ValueError(f"{len(data)} bytes that are no (whole) ONNX model") from None


def _messages(message: Any) -> Iterator[Any]:
    """Every protobuf message inside `message`, itself included."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(child)


def _check_self_contained(model: onnx.ModelProto) -> None:
    import onnx

    for message in _messages(model):
        if isinstance(message, onnx.SparseTensorProto):
            raise ValueError("holds a sparse tensor, expected dense ones only")
        if isinstance(message, onnx.TensorProto) and (
            message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
        ):
            raise ValueError(f"tensor '{message.name}' lies in another file, expected one file")
        if isinstance(message, onnx.NodeProto) and message.domain not in ("", "ai.onnx"):
            raise ValueError(
                f"operator {message.domain}.{message.op_type} is not standard ONNX "
                f"(node '{message.name}')"
            )


def _read_info(metadata: dict[str, str]) -> ModelInfo:
    def value(key: str, parse: Callable[[str], _T], expected: str) -> _T:
        key = _PREFIX + key
        if key not in metadata:
            raise ValueError(f"metadata key '{key}' is missing: not a model of bisenetv2_ros")
        try:
            return parse(metadata[key])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            text = metadata[key] if len(metadata[key]) <= 60 else f"{metadata[key][:60]}..."
            raise ValueError(
                f"metadata key '{key}' is '{text}', expected {expected} ({error!r})"
            ) from None

    version = value("format", int, f"the integer {FORMAT}")
    if version != FORMAT:
        raise ValueError(
            f"metadata key '{_PREFIX}format' is {version}, this version reads {FORMAT}"
        )
    return ModelInfo(
        labels=value("labels", _parse_labels, "JSON with name, names, palette, ignore_index"),
        dataset=value("dataset", str, "a name"),
        input_size=value("input_size", _parse_size, "WIDTHxHEIGHT"),
        precision=value("precision", str, "a name"),
        metrics=value("metrics", _parse_metrics, "JSON of names and numbers"),
        source_revision=value("source_revision", str, "a revision"),
        licence=value("licence", str, "a line"),
        trained_on=metadata.get(f"{_PREFIX}trained_on", ""),
    )


def _parse_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def _parse_labels(text: str) -> LabelSet:
    return label_set_from_dict(json.loads(text))


def _parse_metrics(text: str) -> dict[str, float]:
    return {str(name): float(number) for name, number in dict(json.loads(text)).items()}


def _check_signature(graph: onnx.GraphProto, input_size: tuple[int, int]) -> None:
    width, height = input_size
    _check_tensors("input", graph.input, {INPUT: f"uint8 (N, {height}, {width}, 3)"})
    output = f"uint8 (N, {height}, {width})"
    _check_tensors("output", graph.output, dict.fromkeys(OUTPUTS, output))


def _check_tensors(kind: str, tensors: Any, expected: dict[str, str]) -> None:
    received = {tensor.name: _describe(tensor) for tensor in tensors}
    if received.keys() != expected.keys():
        raise ValueError(
            f"{kind}s are {', '.join(received) or 'none'}, expected {', '.join(expected)}"
        )
    for name, description in expected.items():
        if received[name] != description:
            raise ValueError(f"{kind} '{name}' is {received[name]}, expected {description}")


def _describe(tensor: onnx.ValueInfoProto) -> str:
    """Type and shape in the notation of the module docstring, with N for a free dimension."""
    import onnx

    kind = tensor.type.tensor_type
    sides = [str(side.dim_value) if side.HasField("dim_value") else "N" for side in kind.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(kind.elem_type).lower()} ({', '.join(sides)})"
