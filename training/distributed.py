"""The processes of a run: this process's rank, values they agree on, and requests to stop.

A run is one process, or if started by torchrun, one per device on one or several machines. Knows
nothing of networks or data.
"""

from __future__ import annotations

import datetime
import os
import signal
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# The first process validates while the others wait for it.
PATIENCE = datetime.timedelta(hours=1)
ONE_REQUEST = 2.0  # seconds, see StopRequest


@dataclass(frozen=True)
class Place:
    """Rank of this process, number of processes, and the device it computes on."""

    rank: int
    processes: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def any(self, fact: bool) -> bool:
        """Return whether it is true in any process. A collective call."""
        if self.processes == 1:
            return fact
        vote = torch.tensor(float(fact), device=self.device)
        torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MAX)
        return vote.item() > 0

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Return the mean of each scalar over the processes. A collective call.

        Waits for the device once.
        """
        together = torch.stack(list(values.values()))
        if self.processes > 1:
            torch.distributed.all_reduce(together)
            together /= self.processes
        return dict(zip(values, together.tolist(), strict=True))

    def from_first(self, value: T) -> T:
        """Return the first process's value in every process. A collective call.

        For hosts without a shared disk, on which only the first process can read the run.
        """
        if self.processes == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def find_place(device: str) -> Place:
    """Return this process's rank, alone or from torchrun's environment, without joining.

    Args:
        device: `cpu`, `cuda`, `cuda:1`; empty picks CUDA if present, each process its own.

    Raises:
        ValueError: if there is no such device.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not device:
        device = "cuda" if available else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: expected cpu, cuda or cuda:N") from error
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local if chosen.index is None else chosen.index)
        if chosen.index >= available:
            raise ValueError(f"device {chosen}: torch {torch.__version__} sees {available} here")
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = True
    return Place(rank, processes, chosen)


def join_processes(device: str) -> Place:
    """Join the other processes of the run; arguments and errors as in `find_place`."""
    place = find_place(device)
    if place.processes > 1:
        backend = "nccl" if place.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    return place


def leave_processes(place: Place) -> None:
    """Wait for every process, then end the process group."""
    if place.processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


class StopRequest:
    """SIGTERM and SIGINT request a stop after the current step; a second one is not caught.

    With several processes, the system (systemd, Slurm) may signal each of them, and torchrun passes
    the signal on once more. Signals within ONE_REQUEST therefore count as one.
    """

    def __init__(self, processes: int = 1) -> None:
        self.asked = ""  # name of the received signal
        self._alone = processes == 1
        self._first: dict[int, float] = {}
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.asked = signal.Signals(number).name
        now = time.monotonic()
        late = now - self._first.setdefault(number, now) >= ONE_REQUEST
        if self._alone or late:
            signal.signal(number, self._previous[number])
        if late:
            signal.raise_signal(number)
