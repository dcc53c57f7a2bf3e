"""Runs a TensorRT engine: its execution contexts, CUDA graphs and compiled kernels.

An engine takes batches of 1 to `batch.maximum` images. Each batch size has an execution context and
a CUDA graph of its own, recorded after its first run, which uploads the images, runs the engine and
downloads the outputs in one launch, and a second graph for images that are on the device already.
Knows nothing of model files or of how engines are built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from bisenetv2_ros.backends.base import MOST_AT_ONCE, BatchProfile, Masks
from bisenetv2_ros.backends.cuda import Cuda, Recording
from bisenetv2_ros.model_file import INPUT

_log = logging.getLogger(__name__)


class EngineRefused(RuntimeError):
    """The library rejects the engine, or the engine does not match the model file."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of an engine in host and device memory, for `batch.maximum` images."""

    host: list[np.ndarray] | np.ndarray  #: page-locked; one for each image, of inputs in one array
    device: int  #: address of the first image; the others follow


@dataclass(frozen=True)
class Scratch:
    """Device memory that engines work in. One engine runs at a time, so they share it."""

    address: int
    size: int  #: bytes, at least 1


def scratch_size(engine: Any) -> int | None:
    """Bytes of `Scratch` that an engine needs; None if it allocates its own (TensorRT 10.0)."""
    return getattr(engine, "device_memory_size_v2", None)


class EngineRunner:
    """An engine with its tensors. Not thread-safe; `cuda` has to be current."""

    def __init__(
        self,
        cuda: Cuda,
        library: Any,
        engine: Any,
        logger: Any,
        tensors: dict[str, Tensor],
        batch: BatchProfile,
        scratch: Scratch | None,
    ) -> None:
        # Declared first so that they are destroyed before the engine they depend on.
        #: By batch size, and whether the images are uploaded.
        self._launch: dict[tuple[int, bool], Callable[[], None]] = {}
        self._contexts: dict[int, Any] = {}  # one per batch size: a CUDA graph keeps its shapes
        self._kernel_cache: Any = None
        self._cuda = cuda
        self._library = library
        self._engine = engine
        self._logger = logger
        self._batch = batch
        self._scratch = scratch
        self._images = np.asarray(tensors[INPUT].host)  # itself: it is one array
        self._outputs = [tensor for name, tensor in tensors.items() if name != INPUT]
        self._addresses = {name: tensor.device for name, tensor in tensors.items()}

    def close(self) -> None:
        """Free the graphs, then the contexts that they run, then the engine."""
        for launch in self._launch.values():
            if isinstance(launch, Recording):
                launch.close()
        self._launch.clear()  # may refer to this object
        self._contexts.clear()
        self._kernel_cache = self._engine = None

    def run(self, images: np.ndarray, laid: Set[int] = frozenset()) -> list[Masks]:
        """Run (N, H, W, 3) uint8 images; return each output, valid until the next run.

        laid: indices of images that are on the device already. If there are any, `images` has to be
        the host memory of the input tensor.
        """
        count = self._count(len(images))
        if (count, True) not in self._launch:
            self.prepare(count)
        if images.ctypes.data != self._images.ctypes.data:  # not already in place
            np.copyto(self._images[: len(images)], images)
        if laid:
            for number in set(range(len(images))) - laid:
                image = self._images[number]
                self._cuda.upload(self._addresses[INPUT] + number * image.nbytes, image)
        self._launch[count, not laid]()
        self._cuda.wait()
        return [list(output.host[: len(images)]) for output in self._outputs]

    def prepare(self, count: int) -> None:
        """Run a batch of `count` once and record it, so that later runs are one launch."""
        context = self._context(count)

        def on_device() -> None:
            self._enqueue(context)
            self._download(count)

        def all_steps() -> None:
            self._upload(count)
            on_device()

        all_steps()  # must do lazy initialization before the recording
        self._cuda.wait()
        self._launch |= {(count, True): all_steps, (count, False): on_device}
        stream = int(self._cuda.stream)
        if not getattr(context, "is_stream_capturable", lambda _: True)(stream):
            _log.info("TensorRT cannot record this engine: it is queued step by step")
            return
        try:
            self._launch[count, True] = self._cuda.record(all_steps)
            self._launch[count, False] = self._cuda.record(on_device)
        except RuntimeError as error:
            self._cuda.check_alive(error)
            # As text: whoever keeps the record would keep the error, its frames and the engine.
            _log.info("no CUDA graph: %s: the engine is queued step by step", str(error))

    def device_seconds(self, images: np.ndarray) -> dict[str, float]:
        """Device time of each part of a run, in seconds: upload, network, download."""
        self.run(images)
        count = self._count(len(images))
        parts = {
            "upload": lambda: self._upload(count),
            "network": lambda: self._enqueue(self._contexts[count]),
            "download": lambda: self._download(count),
        }
        return {name: 1e-3 * self._cuda.milliseconds(part) for name, part in parts.items()}

    def _count(self, images: int) -> int:
        """The batch size to run: at least the engine's minimum. Unused places keep their
        content."""
        return max(images, self._batch.minimum)

    def _upload(self, count: int) -> None:
        self._cuda.upload(self._addresses[INPUT], self._images[:count])

    def _download(self, count: int) -> None:
        for output in self._outputs:
            for number, image in enumerate(output.host[:count]):
                self._cuda.download(image, output.device + number * image.nbytes)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._cuda.stream)):
            raise RuntimeError(self._logger.last_error or "the engine could not be queued")

    def _context(self, count: int) -> Any:
        if count in self._contexts:
            return self._contexts[count]
        context = self._create_context()
        if context is None:
            raise EngineRefused(self._logger.last_error or "no execution context for it")
        if self._scratch:
            context.set_device_memory(self._scratch.address, self._scratch.size)
        shape = (count, *self._images.shape[1:])
        if not context.set_input_shape(INPUT, shape):
            raise EngineRefused(f"it does not take images {shape}: {self._logger.last_error}")
        for name, address in self._addresses.items():
            self._check(context.set_tensor_address(name, address), f"set_tensor_address({name})")
        self._contexts[count] = context
        return context

    def _check(self, accepted: bool | None, call: str) -> None:
        if accepted is False:
            raise EngineRefused(f"{call} fails: {self._logger.last_error or 'no reason given'}")

    # TensorRT for RTX leaves the last step, kernels for this very GPU, to the first run.

    @property
    def compiles_kernels(self) -> bool:
        """Whether the library compiles kernels on the device, which can be cached."""
        config = self._runtime_config()
        return config is not None and hasattr(config, "create_runtime_cache")

    def counts(self) -> list[int]:
        """The batch sizes to compile kernels and record runs for ahead of time."""
        most = min(self._batch.maximum, MOST_AT_ONCE)
        return sorted({*range(self._batch.minimum, most + 1), self._batch.optimum})

    def compile_kernels(self, count: int) -> None:
        """Run a batch of `count`, without upload or download."""
        self._enqueue(self._context(count))
        self._cuda.wait()

    def kernels(self) -> bytes:
        """Return the compiled kernels for `take_kernels`; b'' if the library has none to keep."""
        kernels = self._kernel_cache.serialize()
        return b"" if kernels is None else bytes(kernels)

    def take_kernels(self, kernels: bytes) -> bool:
        """Use the `kernels` of another process; False if the library refuses them."""
        if self._kernel_cache is not None:  # they were compiled here
            return True
        self._kernel_cache = self._runtime_config().create_runtime_cache()
        return not kernels or self._kernel_cache.deserialize(kernels)

    def _create_context(self) -> Any:
        strategies = self._library.ExecutionContextAllocationStrategy
        # User-managed also for one shape: engines of TensorRT for RTX are built to require it.
        strategy = strategies.USER_MANAGED if self._scratch else strategies.STATIC
        config = self._runtime_config()
        if config is None:  # before TensorRT 10.11
            return self._engine.create_execution_context(strategy)
        config.set_execution_context_allocation_strategy(strategy)
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            strategies = type(config.dynamic_shapes_kernel_specialization_strategy)
            # Compile eagerly: kernels swapped in later would make a frame's time depend on its
            # number.
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if hasattr(config, "create_runtime_cache"):
            if self._kernel_cache is None:  # one for all contexts
                self._kernel_cache = config.create_runtime_cache()
            self._check(config.set_runtime_cache(self._kernel_cache), "set_runtime_cache")
        return self._engine.create_execution_context(config)

    def _runtime_config(self) -> Any:
        make = getattr(self._engine, "create_runtime_config", None)
        return make() if make else None


def check_engine(
    engine: Any,
    library: Any,
    outputs: Sequence[str],
    input_size: tuple[int, int],
    batch: BatchProfile,
) -> None:
    """Raise EngineRefused unless names, types and shapes are those of the model file.

    Args:
        engine: an ICudaEngine of `library`.
        outputs: those of the model file that this engine computes.
        input_size: width and height in pixels.
        batch: what it was built for.
    """
    width, height = input_size
    fixed = batch.minimum == batch.maximum
    count = batch.maximum if fixed else -1
    modes = library.TensorIOMode
    expected: _Tensors = {INPUT: (modes.INPUT, library.uint8, (count, height, width, 3))}
    for name in outputs:
        expected[name] = (modes.OUTPUT, library.uint8, (count, height, width))
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    received = {
        name: (
            engine.get_tensor_mode(name),
            engine.get_tensor_dtype(name),
            tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    }
    if received != expected:
        raise EngineRefused(
            f"its tensors are {_describe(received)}, expected {_describe(expected)}"
        )
    if fixed:
        return
    sizes = [next(iter(shape)) for shape in engine.get_tensor_profile_shape(INPUT, 0)]
    wanted = [batch.minimum, batch.optimum, batch.maximum]
    if sizes != wanted:
        raise EngineRefused(f"it takes min, opt, max {sizes} images, expected {wanted}")


_Tensors = dict[str, tuple[Any, Any, tuple[int, ...]]]  # name: mode, type, shape


def _describe(tensors: _Tensors) -> str:
    return ", ".join(
        f"{mode.name.lower()} {name} {dtype.name.lower()} {shape}"
        for name, (mode, dtype, shape) in sorted(tensors.items())
    )
