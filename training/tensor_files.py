"""Reads files of tensors as untrusted input: nothing in them can run.

PyTorch's own `weights_only` refuses a whole checkpoint because of one object of a foreign class,
which training frameworks often store beside the weights. Here such objects become inert, without
content or behavior, and the tensors beside them can be read.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_TENSOR_BYTES = 1 << 32

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ImportWeightsError(ValueError):
    """A file cannot be imported; the message names the file, and the keys that do not fit."""


class Inert:
    """Stands for an object of an unknown class. Accepts anything and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __call__(self, *args: Any, **options: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Ignore an item of a former list."""

    def extend(self, values: Any) -> None:
        """Ignore items of a former list."""


def read_tensor_file(path: Path) -> tuple[Any, list[str]]:
    """Read the content of a file of tensors.

    Args:
        path: of PyTorch (`.pth`, `.pt`, `.ckpt`) or `.safetensors`.

    Returns:
        The content as nested dictionaries, lists, plain values and tensors, and the names of
        unknown classes, whose objects are `Inert`.

    Raises:
        ImportWeightsError: if the file is unreadable or of another kind, which is named.
    """
    bad = f"{path}: not a file of plain tensors"
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ImportWeightsError(f"{bad}: {error.strerror}") from error
    if what := name_of(start):
        raise ImportWeightsError(f"{path}: {what}, expected weights: a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), []
        except (SafetensorError, OSError) as error:
            raise ImportWeightsError(f"{bad}: {_line(error)}") from error
    if start.startswith(b"PK"):
        return _read_archive(path)
    try:  # written by PyTorch before 1.6
        return torch.load(path, map_location="cpu", weights_only=True), []
    except Exception as error:  # parsers of damaged files raise anything
        raise ImportWeightsError(
            f"{bad}: neither an archive of PyTorch nor its older form"
        ) from error


def name_of(start: bytes) -> str:
    """Return the kind of a file that cannot hold tensors, by its first bytes, or ''."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "the file is empty"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a web page, as a browser saves it, or a server sends it for an error"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which stands for the file: run `git lfs pull`"
    if text.startswith((b"{", b"[")) and b"\0" not in start:
        return "JSON text"
    for magic, kind in ((b"\x1f\x8b", "a gzip"), (b"7z\xbc\xaf", "a 7z"), (b"Rar!", "a RAR")):
        if start.startswith(magic):
            return f"{kind} archive, to be unpacked first"
    return ""


def _read_archive(path: Path) -> tuple[Any, list[str]]:
    """Read PyTorch's zip archive: a pickle, and a file for each storage."""
    bad = f"{path}: not a file of plain tensors"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.endswith("/data.pkl")]
            if any(name.endswith("/constants.pkl") for name in names):
                raise ImportWeightsError(
                    f"{path}: a TorchScript program, expected weights (a state_dict)"
                )
            if len(pickles) != 1:
                raise ImportWeightsError(f"{path}: a zip archive without weights of PyTorch")
            reader = _Reader(archive, pickles[0])
            content = reader.load()
            return content, sorted(reader.strange)
    except ImportWeightsError:
        raise
    except (zipfile.BadZipFile, EOFError) as error:
        raise ImportWeightsError(f"{bad}: cut off or damaged ({_line(error)})") from error
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise ImportWeightsError(f"{bad}: {_line(error)}") from error


class _Storage(NamedTuple):
    values: Tensor


class _Reader(pickle.Unpickler):
    """Unpickles tensors and plain containers; every other class is `Inert`."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self._archive, self._folder = archive, name.removesuffix("data.pkl")
        self._storages: dict[str, _Storage] = {}
        self.strange: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a name in the pickle."""
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch", "Size"): tuple,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        self.strange.add(f"{module}.{name}")
        return Inert

    def persistent_load(self, pid: Any) -> _Storage:
        """Load the storage of a tensor."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"a storage of kind {dtype}")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            if entry.file_size > MAX_TENSOR_BYTES:
                raise ValueError(f"a tensor of {entry.file_size} bytes")
            data = bytearray(self._archive.read(entry))
            values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            if values.numel() != count:
                raise ValueError(f"{values.numel()} values, expected {count}")
            self._storages[key] = _Storage(values)
        return self._storages[key]


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or (
        0 not in size and last >= storage.values.numel()
    ):
        raise ValueError(f"a tensor of {tuple(size)} beyond its storage")
    return storage.values.as_strided(size, stride, offset)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
