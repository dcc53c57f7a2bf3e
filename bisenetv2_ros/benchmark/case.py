"""What the frame benchmark runs, and what it measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

STAGES = ("decode", "resize", "network", "tail", "message")


# References, not backends.
PLAIN = "plain"  # float32 in ONNX Runtime; the caller normalizes, and takes the argmax at full size
NNCF = "nncf"  # the same quantized by NNCF, in OpenVINO; the caller as for PLAIN
TORCH = "torch"  # torch eager, of a checkpoint, or random weights of a model file's shape
TORCH_COMPILE = "torch.compile"  # the same, compiled
REFERENCES = (PLAIN, NNCF, TORCH, TORCH_COMPILE)
COMPARED = (PLAIN, NNCF, TORCH)  #: the columns of ratios


@dataclass(frozen=True)
class Case:
    """One way to run a network.

    `backend` may be PLAIN or NNCF, then `path` is a float32 model file, or TORCH or TORCH_COMPILE,
    then it is one, too, or a checkpoint.
    """

    path: Path
    backend: str
    device: str = ""
    threads: int = 0  #: 0: one per core
    network_only: Path | None = None  #: the model without its tail, to tell the tail's time apart
    camera_size: bool = False  #: masks at the frames' size, not the network's


@dataclass
class Result:
    """What a case took. `seconds` holds one value a frame and stage, over all of its turns."""

    case: Case
    model: str
    precision: str
    input_size: tuple[int, int]  #: (width, height)
    runs_on: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})
    cpu_seconds: float = 0.0  #: of all threads, over all frames
    peak_memory: int = 0  #: bytes resident at most, Python and libraries included
    mean_iou: float = float("nan")  #: on CamVid val, as the model file states it
    #: Seconds of upload, network and download on the device, of a backend that can tell.
    device_seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def frames(self) -> list[float]:
        """Seconds of each whole frame, all stages."""
        return [sum(stages) for stages in zip(*self.seconds.values(), strict=True)]

    @property
    def cpu_per_frame(self) -> float:
        """CPU seconds of a frame."""
        return self.cpu_seconds / len(self.frames)


# -> mask, seconds of resize, network, tail
Segment = Callable[[np.ndarray, str], tuple[np.ndarray, float, float, float]]
