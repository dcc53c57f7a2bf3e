"""Builds TensorRT engines of a model file, in a process of their own.

Building takes from a second (TensorRT for RTX) to minutes (TensorRT), inside one call of a C++
library. A process can be ended in the middle of that, at once and without a trace; what it crashes
on does not take the node along; and its memory, on the device too, is given back when it is done.

One module for `tensorrt` 10 and 11 and for `tensorrt_rtx`: the precision is in the types of the
graph, as the newest of them asks for. Knows nothing of where engines are kept or how they are run.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bisenetv2_ros.backends.base import BackendUnavailable, BatchProfile, Report, refused
from bisenetv2_ros.backends.engine_cache import Parts
from bisenetv2_ros.model_file import INPUT, OUTPUTS, ModelFile

#: The engines of a model by name, with the outputs of each: masks alone do not pay for confidence.
ENGINES = {"mask": OUTPUTS[:1], "mask+confidence": OUTPUTS}
OLDEST = 10  #: version of TensorRT; older ones know no graphs with types of their own
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")  #: as tried; each may be there
_PERIOD = 0.05  # seconds between looks at what the builder says; as often, a cancel is noticed


@dataclass(frozen=True)
class Target:
    """What an engine is built for. Without a GPU, only TensorRT for RTX can build."""

    library: str  #: of `load_library`
    version: str
    gpu: str = ""  #: name; '' for none
    compute_capability: str = ""  #: such as '8.9'
    multiprocessors: int = 0  #: all Orins have one name; they, and power modes, differ in these
    device: int = 0  #: number of the GPU for CUDA; no part of the engine's identity

    def key(self, model: ModelFile, batch: BatchProfile) -> dict[str, Any]:
        """Everything that decides what the engines of a model are, for the cache."""
        return {
            "model_sha256": model.sha256,
            "precision": model.info.precision,
            "input_size": list(model.info.input_size),
            "batch": list(dataclasses.astuple(batch)),
            "library": self.library,
            "version": self.version,
            "platform": os.uname().machine,
            "gpu": self.gpu,
            "compute_capability": self.compute_capability,
            "multiprocessors": self.multiprocessors,
        }


def load_library() -> Any:
    """Import TensorRT or TensorRT for RTX, whichever is there, in this order.

    BackendUnavailable, saying what to install, where neither is.
    """
    reasons = []
    for name in MODULES:
        try:
            library = importlib.import_module(name)
        # Their __init__ loads shared libraries and raises what comes along.
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(" ".join(str(error).split()))
            continue
        if not hasattr(library, "Builder"):
            reasons.append(f"'{name}' has no Builder")
        elif name == "tensorrt" and int(library.__version__.partition(".")[0]) < OLDEST:
            reasons.append(f"tensorrt is {library.__version__}, expected {OLDEST} or newer")
        else:
            return library
    raise BackendUnavailable(
        f"backend 'tensorrt' cannot be imported ({'; '.join(reasons)}): run `pip install "
        "tensorrt-rtx cuda-bindings`, or install TensorRT 10 or newer (part of JetPack)"
    )


def library_name(library: Any) -> str:
    """'tensorrt' or 'tensorrt_rtx'."""
    return "tensorrt_rtx" if "rtx" in library.__name__ else "tensorrt"


def build_engines(model: ModelFile, target: Target, batch: BatchProfile, report: Report) -> Parts:
    """Build the ENGINES of a model in a new process.

    `report` is called at least every 0.1 s; what it raises ends the process and comes out of here.
    Raises ModelFileError where the library does not take the file, BackendUnavailable where it
    does not work on this machine, RuntimeError where the process ends without an answer.
    """
    request = {
        "path": str(model.path.absolute()),
        "sha256": model.sha256,
        "input_size": model.info.input_size,
        "target": dataclasses.asdict(target),
        "batch": dataclasses.astuple(batch),
        "parent": os.getpid(),
    }
    started = time.monotonic()
    with _child(json.dumps(request)) as (process, connection):
        state = "starting"
        while True:
            report(f"building for {target.library}: {state}, {time.monotonic() - started:.0f} s")
            try:
                if not connection.poll(_PERIOD):
                    continue
                kind, content = connection.recv()
            except EOFError:
                code = process.wait()
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise RuntimeError(
                    f"the process that built {model.name} for {target.library} ended without an "
                    f"engine ({how})"
                ) from None
            if kind == "engines":
                return content
            if kind == "refused":
                raise refused(model, target.library, RuntimeError(content))
            if kind == "unavailable":
                raise BackendUnavailable(f"{target.library} {target.version}: {content}")
            if kind == "failure":
                raise RuntimeError(f"{target.library} cannot build {model.name}: {content}")
            state = content


@contextlib.contextmanager
def _child(request: str) -> Iterator[tuple[subprocess.Popen, Connection]]:
    """The building process, and what it sends: (kind, content) until the end of the pipe."""
    ours, theirs = os.pipe()
    connection = Connection(ours, writable=False)
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs), request],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs],
            )
        finally:
            os.close(theirs)
        try:
            yield process, connection
        finally:
            process.kill()
            process.wait()
    finally:
        connection.close()


# From here on, the building process


def _serve(descriptor: int, request: dict[str, Any]) -> None:
    _end_with(request["parent"])
    connection = Connection(descriptor, readable=False)
    try:
        answer: tuple[str, Any] = ("engines", _build(request, connection))
    except _Refused as error:
        answer = ("refused", str(error))
    except BackendUnavailable as error:
        answer = ("unavailable", str(error))
    except Exception as error:
        answer = ("failure", " ".join(repr(error).split()))
    connection.send(answer)


class _Refused(Exception):
    """The library read the graph and does not take it."""


def _end_with(parent: int) -> None:
    """Leave signals of the terminal to the parent, and end when it does, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pr_set_pdeathsig = 1  # sys/prctl.h
    with contextlib.suppress(AttributeError, OSError):  # another system than Linux
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        sys.exit(1)


def _build(request: dict[str, Any], connection: Connection) -> Parts:
    data = Path(request["path"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != request["sha256"]:
        raise RuntimeError("the file has changed since it was read")
    target = Target(**request["target"])
    library = load_library()
    if (library_name(library), library.__version__) != (target.library, target.version):
        raise RuntimeError(
            f"expected {target.library} {target.version}, got {library_name(library)} "
            f"{library.__version__}"
        )
    device = None
    if target.gpu:
        from bisenetv2_ros.backends.cuda import Cuda

        device = Cuda(str(target.device))  # and current from here on
    logger = make_logger(library)
    monitor = _make_monitor(library, connection)
    engines = {}
    timings: list[Any] = []
    for name, outputs in ENGINES.items():
        monitor.engine = name
        engines[name] = _build_one(
            library, logger, monitor, _extract(data, outputs), request, target, timings
        )
    if device is not None:
        device.close()
    return engines


def _extract(data: bytes, outputs: Sequence[str]) -> bytes:
    """The graph that makes no more than `outputs`."""
    import onnx.utils

    part = onnx.utils.Extractor(onnx.load_from_string(data)).extract_model([INPUT], list(outputs))
    return part.SerializeToString()


def _build_one(
    library: Any,
    logger: Any,
    monitor: Any,
    graph: bytes,
    request: dict[str, Any],
    target: Target,
    timings: list[Any],
) -> bytes:
    try:
        builder = library.Builder(logger)
    except TypeError as error:  # pybind11's word for a null pointer
        raise BackendUnavailable(logger.last_error or f"no builder: {error}") from error
    network = builder.create_network(_network_flags(library))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(graph):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        errors = [f"{e.desc()} (node '{e.node_name()}', {e.node_operator()})" for e in found]
        raise _Refused("; ".join(errors) or logger.last_error)
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    # A float32 file runs in float32, as on the other backends; float16 is a file of its own.
    config.clear_flag(library.BuilderFlag.TF32)
    # Else engines of TensorRT for RTX for several shapes may allocate while they run, and what does
    # cannot be recorded as a CUDA graph.
    if hasattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
    _set_shape(builder, network, config, request)
    _set_compute_capability(library, config, target)
    if target.library == "tensorrt":  # which times each layer on the device, for minutes
        # All engines of a model have the same layers but for the last: they are timed once.
        timings[:] = timings or [config.create_timing_cache(b"")]
        config.set_timing_cache(timings[0], False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _Refused(logger.last_error or "no engine was built")
    return bytes(engine)


def _network_flags(library: Any) -> int:
    flags = library.NetworkDefinitionCreationFlag
    # What was the exception in 10 is the rule in 11, where the flag may be gone one day.
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _set_shape(builder: Any, network: Any, config: Any, request: dict[str, Any]) -> None:
    width, height = request["input_size"]
    minimum, optimum, maximum = request["batch"]
    image = network.get_input(0)
    if minimum == maximum:  # a fixed shape is built faster and runs faster
        image.shape = (maximum, height, width, 3)
        return
    profile = builder.create_optimization_profile()
    profile.set_shape(image.name, *((n, height, width, 3) for n in (minimum, optimum, maximum)))
    config.add_optimization_profile(profile)


def _set_compute_capability(library: Any, config: Any, target: Target) -> None:
    """Build for the GPU that is there, where the library would build for several."""
    name = f"SM{target.compute_capability.replace('.', '')}"
    known = getattr(library, "ComputeCapability", None)
    if target.gpu and hasattr(known, name):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(known, name), 0)


def make_logger(library: Any) -> Any:
    """A logger that remembers errors, the last in `last_error`, and prints nothing."""

    class Logger(library.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=8)  # the newest, one line each

        @property
        def last_error(self) -> str:
            return self.errors[-1] if self.errors else ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def _make_monitor(library: Any, connection: Connection) -> Any:
    """Sends how far a build is; a parent that is gone cancels it."""

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.engine = ""
            self._lock = threading.Lock()  # the library calls from any of its threads
            self._phases: dict[str, list] = {}  # name: [parent, steps, steps done]
            self._due = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[phase] = [parent, max(steps, 1), 0]

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                if phase in self._phases:
                    self._phases[phase][2] = step + 1
                now = time.monotonic()
                if now < self._due:
                    return True
                self._due = now + _PERIOD
                share = max((self._share(p) for p in self._phases if self._is_root(p)), default=0)
                try:
                    connection.send(("progress", f"{self.engine} {share:.0%}, {phase.lower()}"))
                except OSError:
                    return False
            return True

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.pop(phase, None)

        def _is_root(self, phase: str) -> bool:
            return self._phases[phase][0] not in self._phases

        def _share(self, phase: str) -> float:
            """Done of a phase, 0..1: its steps, and of the present one what its own phases have."""
            _, steps, done = self._phases[phase]
            inner = [self._share(p) for p in self._phases if self._phases[p][0] == phase != p]
            return min(1.0, (done + max(inner, default=0.0)) / steps)

    return Monitor()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), json.loads(sys.argv[2]))
