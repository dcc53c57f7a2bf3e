"""Builds the TensorRT engines of a model file in a child process.

Building takes from a second (TensorRT for RTX) to minutes (TensorRT), inside one call of a C++
library. A child process can be cancelled at any time, its crash does not end the node, and its
memory, also on the device, is freed when it ends.

One module for `tensorrt` 10 and 11 and for `tensorrt_rtx`: the precision is in the graph's types,
as the newest of them requires. Knows nothing of where engines are kept or how they run.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib
import json
import os
import re
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
from typing import TYPE_CHECKING, Any

from bisenetv2_ros.backends.base import BackendUnavailable, BatchProfile, Report, refused
from bisenetv2_ros.backends.engine_cache import Parts
from bisenetv2_ros.backends.tail import enlarge_in_float16, sum_logits_for_nan
from bisenetv2_ros.model_file import INPUT, OUTPUTS, ModelFile

if TYPE_CHECKING:
    from bisenetv2_ros.backends.cuda import Gpu

#: The engines of a model by name, with the outputs of each: masks alone do not pay for confidence.
ENGINES = {"mask": OUTPUTS[:1], "mask+confidence": OUTPUTS}
RECIPE = 3  #: version of how engines are built here; changing it rebuilds all engines
OLDEST = 10  #: TensorRT version; older ones do not support strongly typed graphs
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")  #: in the order they are tried
_PERIOD = 0.05  # seconds between checks of the builder's progress and for cancellation
#: Bytes of workspace while building on a GPU that shares the system's memory, of which TensorRT
#: would take all.
_INTEGRATED_WORKSPACE = 1 << 30


@dataclass(frozen=True)
class Target:
    """What an engine is built for. Without a GPU, only TensorRT for RTX can build."""

    library: str  #: of `load_library`
    version: str
    gpu: str = ""  #: name; '' for none
    compute_capability: str = ""  #: such as '8.9'; '' for all that TensorRT for RTX knows
    multiprocessors: int = 0  #: Orin models and power modes share a name and differ in these
    device: int = 0  #: CUDA's number of the GPU; not part of the engine's identity
    integrated: bool = False  #: the GPU shares the system's memory, as on Jetson

    def key(self, model: ModelFile, batch: BatchProfile) -> dict[str, Any]:
        """Everything that determines the engines of a model, as the cache key."""
        return {
            "recipe": RECIPE,
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


def target_of(library: Any, gpu: Gpu) -> Target:
    """Return the target for a GPU.

    Raises BackendUnavailable if the library does not support the GPU or its driver.
    """
    name, version = library_name(library), library.__version__
    check_compute_capability(library, gpu.compute_capability, gpu.name)
    needed = cuda_needed(library)
    if gpu.driver_version < 1000 * needed:
        raise BackendUnavailable(
            f"{name} {version} needs a driver of CUDA {needed} or newer, {gpu.name} has one of "
            f"CUDA {gpu.driver_cuda}: update NVIDIA's driver, or install TensorRT for that CUDA"
        )
    return Target(
        name,
        version,
        gpu.name,
        gpu.compute_capability,
        gpu.multiprocessors,
        gpu.index,
        gpu.integrated,
    )


def check_compute_capability(library: Any, compute_capability: str, gpu: str = "") -> None:
    """Raise BackendUnavailable if TensorRT for RTX has no kernels for a compute capability."""
    known = supported_compute_capabilities(library)
    if known and compute_capability not in known:
        raise BackendUnavailable(
            f"{library_name(library)} {library.__version__} supports compute capability "
            f"{', '.join(known)}, {gpu or 'it'} has {compute_capability}: install TensorRT "
            "(`import tensorrt`), which on Jetson is part of JetPack"
        )


def supported_compute_capabilities(library: Any) -> list[str]:
    """The capabilities of TensorRT for RTX, such as '8.9'; [] for TensorRT, which lists none."""
    known = getattr(getattr(library, "ComputeCapability", None), "__members__", {})
    return [f"{name[2:-1]}.{name[-1]}" for name in known if re.fullmatch(r"SM\d+", name)]


def cuda_needed(library: Any) -> int:
    """Return the CUDA major version that a library from PyPI is built with, else 0.

    It does not run on a driver of an older major version.
    """
    place = Path(getattr(library, "__file__", None) or "/nowhere/").parent.parent
    prefix = f"{library_name(library)}_cu"
    versions = [path.name.removeprefix(prefix) for path in place.glob(f"{prefix}*.dist-info")]
    found = [re.match(r"\d+", version) for version in versions]
    return max((int(match[0]) for match in found if match), default=0)


def load_library() -> Any:
    """Import TensorRT, or else TensorRT for RTX.

    Raises BackendUnavailable, saying what to install, if both are missing.
    """
    reasons = []
    for name in MODULES:
        try:
            library = importlib.import_module(name)
        # Their __init__ loads shared libraries and may raise any exception.
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

    `report` is called at least every 0.1 s; if it raises, the process is ended and the exception
    passed on. Raises ModelFileError if the library's parser does not accept the file,
    BackendUnavailable if no engine can be built on this machine, RuntimeError if the file has
    changed since it was read.
    """
    return _run_child(model, target, batch, report, describe=False)


def describe_engines(
    model: ModelFile, target: Target, batch: BatchProfile, report: Report
) -> dict[str, str]:
    """Build as `build_engines` does; return the library's own list of layers of each engine.

    See `engine_layers` for its contents. These engines contain layer names and are not for use.
    """
    return _run_child(model, target, batch, report, describe=True)


def _run_child(
    model: ModelFile, target: Target, batch: BatchProfile, report: Report, describe: bool
) -> Any:
    request = {
        "path": str(model.path.absolute()),
        "sha256": model.sha256,
        "input_size": model.info.input_size,
        "target": dataclasses.asdict(target),
        "batch": dataclasses.astuple(batch),
        "parent": os.getpid(),
        "describe": describe,
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
                raise BackendUnavailable(
                    f"the process that built {model.name} for {target.library} ended without an "
                    f"engine ({how})"
                ) from None
            if kind == "engines":
                return content
            if kind == "refused":
                raise refused(model, target.library, RuntimeError(content))
            if kind == "unavailable":
                raise BackendUnavailable(
                    f"{target.library} {target.version} cannot build {model.name}: {content}"
                )
            if kind == "changed":
                raise RuntimeError(f"{target.library} cannot build {model.name}: {content}")
            state = content


@contextlib.contextmanager
def _child(request: str) -> Iterator[tuple[subprocess.Popen, Connection]]:
    """The building process, and what it sends: (kind, content) until the end of the pipe."""
    # Isolated from its working directory and from Python's environment variables: it imports from
    # the directories of this process. If nothing else finds this package, the last entry does.
    package = str(Path(__file__).resolve().parents[2])
    path = [entry for entry in sys.path if entry] + [package]
    code = f"import sys; sys.path[:] = sys.argv.pop().split({os.pathsep!r}); "
    code += f"from {__name__} import main; main()"
    ours, theirs = os.pipe()
    connection = Connection(ours, writable=False)
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, str(theirs), request, os.pathsep.join(path)],
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
            """The finished fraction of a phase, 0..1, including the running step's own phases."""
            _, steps, done = self._phases[phase]
            inner = [self._share(p) for p in self._phases if self._phases[p][0] == phase != p]
            return min(1.0, (done + max(inner, default=0.0)) / steps)

    return Monitor()


def main() -> None:
    """Run the building process. argv holds the descriptor of the pipe and the request."""
    _serve(int(sys.argv[1]), json.loads(sys.argv[2]))
