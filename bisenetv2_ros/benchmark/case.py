"""What the frame benchmark runs, and what it measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

STAGES = ("decode", "resize", "network", "tail", "message")


# References, not backends.
PLAIN = "plain"  # float32 in ONNX Runtime; normalization and argmax at full size by the caller
NNCF = "nncf"  # the same quantized by NNCF, in OpenVINO; the caller as for PLAIN
TORCH = "torch"  # eager, with the weights of a checkpoint, or random ones in a model file's shape
TORCH_COMPILE = "torch.compile"  # the same, compiled
REFERENCES = (PLAIN, NNCF, TORCH, TORCH_COMPILE)
COMPARED = (PLAIN, NNCF, TORCH)  #: columns of ratios


@dataclass(frozen=True)
class Case:
    """One way to run a network.

    For PLAIN and NNCF as `backend`, `path` is a float32 model file; for TORCH and TORCH_COMPILE it
    is one or a checkpoint.
    """

    path: Path
    backend: str
    device: str = ""
    threads: int = 0  #: 0: one per core
    network_only: Path | None = None  #: the model up to its logits, to time the rest separately
    camera_size: bool = False  #: masks at the frames' size, not the network's


@dataclass
class Result:
    """Measurements of a case. `seconds` holds one value per frame and stage, over all turns."""

    case: Case
    model: str
    precision: str
    input_size: tuple[int, int]  #: (width, height)
    runs_on: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})
    cpu_seconds: float = 0.0  #: of all threads, over all frames
    peak_memory: int = 0  #: most resident bytes, Python and libraries included
    mean_iou: float = float("nan")  #: on CamVid val, from the model file
    #: Seconds of upload, network and download on the device, if the backend measures them.
    device_seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def frames(self) -> list[float]:
        """Seconds of each whole frame, all stages."""
        return [sum(stages) for stages in zip(*self.seconds.values(), strict=True)]

    @property
    def cpu_per_frame(self) -> float:
        """CPU seconds per frame."""
        return self.cpu_seconds / len(self.frames)


# -> mask, seconds of resize, network, tail
Segment = Callable[[np.ndarray, str], tuple[np.ndarray, float, float, float]]
