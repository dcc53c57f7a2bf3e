"""The layers of an engine: its kernels, the precision of each, and the bytes it moves.

Parses the library's own list of layers; TensorRT for RTX logs it while building, so it is available
without a GPU. Knows nothing of how engines are built.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_NO_KERNELS = ("signal", "wait")  # layers that only order streams
_TENSOR = re.compile(
    r"\{ Name: .*?, Dimensions: \[([\d,]*)\].*?(?:Datatype|Format/Datatype): ([\w ]+)"
)
_BYTES = {"float": 4, "half": 2, "bfloat16": 2, "int32": 4, "int64": 8}  # of others: 1
_SHORT = (("fp32", "Float"), ("fp16", "Half"), ("uint8", "UInt8"), ("int8", "Int8"))


@dataclass(frozen=True)
class Layer:
    """A kernel of an engine."""

    name: str
    kind: str  #: the library's name: 'correlation' is a convolution, 'kgen' is elementwise
    inputs: tuple[str, ...]  #: type of each, such as 'Half'
    outputs: tuple[str, ...]
    bytes_moved: int  #: read and written, without weights

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, with or without fused operations."""
        return self.kind.lower() in ("correlation", "convolution") or "Corr" in self.name

    @property
    def precision(self) -> str:
        """Type of the first input and the first output, such as 'Int8→Float'."""
        return f"{self.inputs[0] if self.inputs else ''}→{self.outputs[0] if self.outputs else ''}"


def read_layers(text: str) -> list[Layer]:
    """Parse the library's list of layers, one per line. Raises ValueError if it has none."""
    layers = []
    for line in text.splitlines():
        found = re.match(r"\s*Name: (.*?), LayerType: (\w+), Inputs: (.*)", line)
        if found is None or found[2].lower() in _NO_KERNELS:
            continue
        inputs, _, rest = found[3].partition(", Outputs: ")
        read = _tensors(inputs.partition(", Constants: ")[0])
        written = _tensors(rest.partition(", TacticName: ")[0])
        layers.append(
            Layer(
                name=found[1],
                kind=found[2],
                inputs=tuple(kind for kind, _ in read),
                outputs=tuple(kind for kind, _ in written),
                bytes_moved=sum(size for _, size in read + written),
            )
        )
    if not layers:
        raise ValueError(f"the library lists no layers: {' '.join(text.split())[:200]}")
    return layers


def _tensors(text: str) -> list[tuple[str, int]]:
    """Type and bytes of each tensor."""
    tensors = []
    for sides, kind in _TENSOR.findall(text):
        kind = next((short for word, short in _SHORT if word in kind.lower()), kind.strip())
        size = _BYTES.get(kind.lower(), 1)
        for side in sides.split(","):
            size *= int(side or 1)
        tensors.append((kind, size))
    return tensors


def layer_table(layers: list[Layer]) -> str:
    """A Markdown table of kernels by kind and precision, largest traffic first."""
    count: Counter[tuple[str, str]] = Counter()
    moved: Counter[tuple[str, str]] = Counter()
    for layer in layers:
        key = ("convolution" if layer.is_convolution else layer.kind, layer.precision)
        count[key] += 1
        moved[key] += layer.bytes_moved
    rows = [
        f"| {kind} | {precision} | {count[kind, precision]} | {size / 1e6:.1f} |"
        for (kind, precision), size in moved.most_common()
    ]
    return "\n".join(
        [
            "| kernel | input→output | number | MB moved |",
            "|---|---|---|---|",
            *rows,
            f"| **all** | | {len(layers)} | {sum(moved.values()) / 1e6:.1f} |",
        ]
    )


HEAD = (
    "| precision | compute capability | kernels | convolutions | in Half | in Int8 | MB moved |\n"
    "|---|---|---|---|---|---|---|"
)


def summary_row(precision: str, compute_capability: str, layers: list[Layer]) -> str:
    """A line of the Markdown table that starts with HEAD."""
    convolutions = [layer for layer in layers if layer.is_convolution]
    kinds = Counter(layer.inputs[0] for layer in convolutions if layer.inputs)
    moved = sum(layer.bytes_moved for layer in layers) / 1e6
    return (
        f"| {precision} | {compute_capability} | {len(layers)} | {len(convolutions)} | "
        f"{kinds['Half']} | {kinds['Int8']} | {moved:.0f} |"
    )
