"""The child process that builds TensorRT's engines, started by `engine_builder.py`.

The precision is in the graph's types, as the newest TensorRT requires.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bisenetv2_ros.backends.base import BackendUnavailable
from bisenetv2_ros.backends.engine_target import Target, library_name, load_library
from bisenetv2_ros.backends.tail import enlarge_in_float16, sum_logits_for_nan
from bisenetv2_ros.model_file import INPUT, OUTPUTS

#: The engines of a model by name, with the outputs of each: masks alone do not pay for confidence.
ENGINES = {"mask": OUTPUTS[:1], "mask+confidence": OUTPUTS}
_PERIOD = 0.05  # seconds between reports of progress
#: Bytes of workspace while building on a GPU that shares the system's memory, of which TensorRT
#: would take all.
_INTEGRATED_WORKSPACE = 1 << 30


def _serve(descriptor: int, request: dict[str, Any]) -> None:
    _end_with(request["parent"])
    connection = Connection(descriptor, readable=False)
    try:
        answer: tuple[str, Any] = ("engines", _build(request, connection))
    except _Refused as error:
        answer = ("refused", str(error))
    except _Changed as error:
        answer = ("changed", str(error))
    except BackendUnavailable as error:
        answer = ("unavailable", str(error))
    except Exception as error:
        answer = ("unavailable", " ".join(repr(error).split()))
    connection.send(answer)


class _Refused(Exception):
    """The library's parser read the graph and does not accept it."""


class _Changed(Exception):
    """The file or the library has changed since the build was requested."""


def _end_with(parent: int) -> None:
    """Leave the terminal's signals to the parent, and end when it ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pr_set_pdeathsig = 1  # sys/prctl.h
    with contextlib.suppress(AttributeError, OSError):  # another system than Linux
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        sys.exit(1)


def _build(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    data = Path(request["path"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != request["sha256"]:
        raise _Changed("the file has changed since it was read")
    target = Target(**request["target"])
    library = load_library()
    if (library_name(library), library.__version__) != (target.library, target.version):
        raise _Changed(
            f"expected {target.library} {target.version}, got {library_name(library)} "
            f"{library.__version__}"
        )
    device = None
    if target.gpu:
        from bisenetv2_ros.backends.cuda import Cuda

        device = Cuda(str(target.device))  # current from here on
    logger = make_logger(library)
    monitor = _make_monitor(library, connection)
    engines: dict[str, Any] = {}
    timings: list[Any] = []
    for name, outputs in ENGINES.items():
        monitor.engine = name
        logger.layers = ""
        engine = _build_one(
            library, logger, monitor, _extract(data, outputs), request, target, timings
        )
        engines[name] = _layers(library, logger, engine) if request["describe"] else engine
    if device is not None:
        device.close()
    return engines


def _layers(library: Any, logger: Any, engine: bytes) -> str:
    """Return the list of layers: as logged while building, or by the engine's inspector."""
    if logger.layers:
        return logger.layers
    runtime = library.Runtime(logger)
    inspected = runtime.deserialize_cuda_engine(engine)
    if inspected is None:
        raise BackendUnavailable(f"no list of layers: {logger.last_error}")
    inspector = inspected.create_engine_inspector()
    layers: str = inspector.get_engine_information(library.LayerInformationFormat.ONELINE)
    return layers


def _extract(data: bytes, outputs: Sequence[str]) -> bytes:
    """Return the part of the graph that computes `outputs`."""
    import onnx

    from bisenetv2_ros.backends.subgraph import extract

    model = onnx.load_from_string(data)
    sum_logits_for_nan(model.graph)
    part = extract(model, [INPUT], outputs)
    enlarge_in_float16(part)
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
    except TypeError as error:  # pybind11's error for a null pointer
        raise BackendUnavailable(logger.last_error or f"no builder: {error}") from error
    network = builder.create_network(_network_flags(library))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(graph):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        errors = [f"{e.desc()} (node '{e.node_name()}', {e.node_operator()})" for e in found]
        raise _Refused("; ".join(errors) or logger.last_error)
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    # A float32 file runs in float32, as on the other backends; float16 has its own file.
    config.clear_flag(library.BuilderFlag.TF32)
    if request.get("describe"):
        config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if target.integrated:
        pool = library.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, _INTEGRATED_WORKSPACE)
    # Otherwise engines of TensorRT for RTX for several shapes may allocate while they run, which a
    # CUDA graph cannot record.
    if hasattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
    _set_shape(builder, network, config, request)
    _set_compute_capability(library, config, target)
    if target.library == "tensorrt":  # which times each layer on the device, for minutes
        # All engines of a model share all layers but the last, so those are timed only once.
        timings[:] = timings or [config.create_timing_cache(b"")]
        config.set_timing_cache(timings[0], False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:  # out of memory, no kernels for the GPU, or a node that it cannot place
        raise BackendUnavailable(logger.last_error or "no engine was built")
    return bytes(engine)


def _network_flags(library: Any) -> int:
    flags = library.NetworkDefinitionCreationFlag
    # Optional in TensorRT 10, the only mode in 11, which may drop the flag.
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
    """Build for one GPU if the library would build for several."""
    name = f"SM{target.compute_capability.replace('.', '')}"
    known = getattr(library, "ComputeCapability", None)
    if hasattr(known, name):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(known, name), 0)


_logger: Any = None


def make_logger(library: Any) -> Any:
    """Return the process's logger. It prints nothing and keeps errors, the last in `last_error`.

    There is one per process: the library keeps the first logger that it is given.
    """
    global _logger
    if isinstance(_logger, library.ILogger):
        return _logger

    class Logger(library.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=8)  # the newest, one line each
            self.layers = ""  # of the engine that was built last

        @property
        def last_error(self) -> str:
            return self.errors[-1] if self.errors else ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif message.startswith("Layers:"):
                self.layers = message

    _logger = Logger()
    return _logger


def _make_monitor(library: Any, connection: Connection) -> Any:
    """Report the progress of a build, and cancel it if the parent is gone."""

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
                roots = [p for p, (above, *_) in self._phases.items() if above not in self._phases]
                done = max(map(self._finished, roots), default=0.0)
                try:
                    connection.send(("progress", f"{self.engine} {done:.0%}, {phase.lower()}"))
                except OSError:
                    return False
            return True

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.pop(phase, None)

        def _finished(self, phase: str) -> float:
            """The finished fraction of a phase, 0..1, including the running step's own phases."""
            _, steps, done = self._phases[phase]
            inner = [self._finished(p) for p in self._phases if self._phases[p][0] == phase != p]
            return min(1.0, (done + max(inner, default=0.0)) / steps)

    return Monitor()


def main() -> None:
    """Run the building process. argv holds the descriptor of the pipe and the request."""
    _serve(int(sys.argv[1]), json.loads(sys.argv[2]))
