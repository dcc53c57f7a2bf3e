"""TensorRT, and TensorRT for RTX: the fastest backend on NVIDIA GPUs.

The engines of a model are built when it is first loaded (engine_builder) and kept (engine_cache).
Images and masks cross the bus as uint8, through page-locked memory, on one stream; upload, network
and download are recorded once as a CUDA graph and replayed by a single launch. Frames are resized
into that memory, and masks arrive in what a ROS message can take as it is. Masks alone and masks
with confidence are two engines, the second loaded when it is first asked for.

Engines are built for one image at a time unless told otherwise; a larger batch runs in pieces that
fit.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bisenetv2_ros.backends import engine_cache
from bisenetv2_ros.backends.base import (
    MOST_AT_ONCE,
    Backend,
    BackendUnavailable,
    BatchProfile,
    Masks,
    Report,
    output_memory,
)
from bisenetv2_ros.backends.cuda import Cuda, CudaError
from bisenetv2_ros.backends.engine_builder import (
    ENGINES,
    Target,
    build_engines,
    library_name,
    load_library,
    make_logger,
)
from bisenetv2_ros.backends.engine_cache import Parts
from bisenetv2_ros.model_file import INPUT, ModelFile

_log = logging.getLogger(__name__)


class EngineRefused(RuntimeError):
    """The library does not take an engine here, or the engine is not what it should be."""


class TensorRtBackend(Backend):
    """Devices: '' or 'cuda' (the first GPU), 'cuda:N'. The contract is `Backend`'s."""

    name = "tensorrt"
    gains_from_batches = True

    def __init__(
        self, model: ModelFile, device: str, threads: int, report: Report, batch: BatchProfile
    ) -> None:
        self._describe(model)
        self._library = load_library()
        self._cuda = cuda = Cuda(device)
        try:
            self._load(model, batch, report)
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError):
                cuda.check_alive(error)
            raise

    def _load(self, model: ModelFile, batch: BatchProfile, report: Report) -> None:
        cuda = self._cuda
        version = self._library.__version__
        self._target = Target(
            library_name(self._library),
            version,
            cuda.name,
            cuda.compute_capability,
            cuda.multiprocessors,
            cuda.index,
        )
        self.device = f"{cuda.name} ({self._target.library} {version})"
        self._batch = batch
        self._key = self._target.key(model, batch)
        self._logger = make_logger(self._library)
        try:
            self._runtime = self._library.Runtime(self._logger)
        except TypeError as error:  # pybind11's word for a null pointer: a driver too old, say
            reason = self._logger.last_error or error
            raise BackendUnavailable(
                f"{self._target.library} {version} does not work on {cuda.name}, maybe for an "
                f"old driver: {reason}"
            ) from error
        self._networks: dict[bool, _Network] = {}
        self._tensors: dict[str, _Tensor] = {}
        self._engines = self._obtain(model, report)
        try:
            self._network(confidence=False)
        except EngineRefused as error:
            # It passed every check and is not taken all the same. A new one may be; if not, this
            # GPU or driver is not for this library.
            _log.warning("engine of %s: %s: it is built anew", model.name, error)
            engine_cache.discard(self._key)
            self._engines = self._obtain(model, report)
            try:
                self._network(confidence=False)
            except EngineRefused as again:
                raise BackendUnavailable(
                    f"{self.device} does not run its own engine: {again}"
                ) from again

    def _obtain(self, model: ModelFile, report: Report) -> Parts:
        engines, file = engine_cache.obtain(
            self._key, lambda: build_engines(model, self._target, self._batch, report), report
        )
        _log.info("engines of %s: %s", model.name, file or "in memory")
        return engines

    def _network(self, confidence: bool) -> _Network:
        if confidence not in self._networks:
            name = "mask+confidence" if confidence else "mask"
            with self._cuda.all_or_nothing():
                self._networks[confidence] = self._load_network(name)
        return self._networks[confidence]

    def _load_network(self, name: str) -> _Network:
        plan = self._engines[name]
        free, total = self._cuda.memory()
        self._logger.errors.clear()
        try:
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise EngineRefused(self._logger.last_error or "it cannot be deserialised")
            check_engine(engine, self._library, ENGINES[name], self._input_size, self._batch)
            tensors = {name: self._tensor(name) for name in (INPUT, *ENGINES[name])}
            network = _Network(
                self._cuda, self._library, engine, self._logger, tensors, self._batch
            )
            if network.compiles_kernels:
                self._obtain_kernels(network, name)
            network.prepare(self._batch.optimum)
        except RuntimeError as error:
            # TensorRT's word comes before others: "... Error Code 2: OutOfMemory (Requested ...".
            said = " ".join([str(error), *self._logger.errors])
            if "outofmemory" in re.sub("[ _]", "", said).lower():
                raise RuntimeError(
                    f"{self._cuda.name} has too little memory for model '{self._name}': "
                    f"{free >> 20} of {total >> 20} MiB were free, the weights alone take "
                    f"{len(plan) >> 20} MiB ({error})"
                ) from error
            raise
        self._tensors |= tensors
        return network

    def _obtain_kernels(self, network: _Network, name: str) -> None:
        key = {**self._key, "kernels": name, "driver": self._cuda.call("cuDriverGetVersion")}

        def obtain() -> bytes:
            parts, _ = engine_cache.obtain(
                key, lambda: {"kernels": network.compile_kernels()}, lambda line: None
            )
            return parts["kernels"]

        if not network.take_kernels(obtain()):
            _log.warning("kept kernels of %s are not for this driver: compiled anew", self._name)
            engine_cache.discard(key)
            obtain()

    def _tensor(self, name: str) -> _Tensor:
        """That of the other network, which never runs at the same time, or a new one."""
        if name in self._tensors:
            return self._tensors[name]
        cuda, (width, height), most = self._cuda, self._input_size, self._batch.maximum
        if name == INPUT:
            self._pinned_input = cuda.pinned((most, height, width, 3))
            host = list(self._pinned_input)
        else:
            host = [output_memory((height, width)) for _ in range(most)]
            if not all(cuda.page_lock(image) for image in host):
                host = list(cuda.pinned((most, height, width)))
        return _Tensor(host, cuda.allocate(sum(image.nbytes for image in host)))

    def input_memory(self, count: int) -> np.ndarray:
        """See `Backend`; page-locked for as many images as run at once."""
        if count > self._batch.maximum:
            return super().input_memory(count)
        return self._pinned_input[:count]

    def _infer(self, images: np.ndarray, confidence: bool) -> tuple[Masks, Masks | None]:
        self._cuda.use()
        most = self._batch.maximum
        try:
            network = self._network(confidence)
            if len(images) <= most:
                outputs = network.run(images)
            else:  # each piece is written to the same memory
                outputs = [[] for _ in ENGINES["mask+confidence" if confidence else "mask"]]
                for i in range(0, len(images), most):
                    for output, part in zip(
                        outputs, network.run(images[i : i + most]), strict=True
                    ):
                        output += [image.copy() for image in part]
        except RuntimeError as error:
            self._cuda.check_alive(error)
            raise
        return outputs[0], outputs[1] if confidence else None

    def device_seconds(self, images: np.ndarray) -> dict[str, float]:
        """What the device takes for each part of a call, masks only: upload, network, download.

        images: as for `infer`, at most as many as the profile allows.
        """
        self._cuda.use()
        return self._network(confidence=False).device_seconds(images)

    def close(self) -> None:
        """Free the device's memory, in the order that the library asks for."""
        cuda = vars(self).pop("_cuda", None)
        if cuda is not None:
            with contextlib.suppress(CudaError):  # a lost device
                cuda.use()
        for network in vars(self).pop("_networks", {}).values():
            network.close()
        super().close()
        if cuda is not None:
            cuda.close()


@dataclass(frozen=True)
class _Tensor:
    """A tensor of an engine on both sides, for as many images as run at once."""

    host: list[np.ndarray]  #: page-locked; one array for each image
    device: int  #: address of the first image; the others follow


class _Network:
    """An engine with its tensors; runs 1 to `batch.maximum` images at once."""

    def __init__(
        self,
        cuda: Cuda,
        library: Any,
        engine: Any,
        logger: Any,
        tensors: dict[str, _Tensor],
        batch: BatchProfile,
    ) -> None:
        # A context for each number of images: a recorded graph holds its context's shapes. Both
        # stand before what they are made of, for that is the order in which they go.
        self._launch: dict[int, Callable[[], None]] = {}
        self._contexts: dict[int, Any] = {}
        self._kernel_cache: Any = None
        self._scratch = 0  # address of what layers hand to each other
        self._cuda = cuda
        self._library = library
        self._engine = engine
        self._logger = logger
        self._batch = batch
        self._input = tensors[INPUT]
        self._outputs = [tensor for name, tensor in tensors.items() if name != INPUT]
        self._addresses = {name: tensor.device for name, tensor in tensors.items()}

    def close(self) -> None:
        """Let go of all that runs the engine, then of the engine."""
        self._launch.clear()  # may refer to this object
        self._contexts.clear()
        self._kernel_cache = self._engine = None

    def run(self, images: np.ndarray) -> list[Masks]:
        """Each output of (N, H, W, 3) images, valid until the next run."""
        # Fewer than the engine takes: the rest is whatever lies in the memory.
        count = max(len(images), self._batch.minimum)
        if count not in self._launch:
            self.prepare(count)
        if images.ctypes.data != self._input.host[0].ctypes.data:  # else they are there already
            for image, place in zip(images, self._input.host, strict=False):
                np.copyto(place, image)
        self._launch[count]()
        self._cuda.wait()
        return [output.host[: len(images)] for output in self._outputs]

    def prepare(self, count: int) -> None:
        """Run `count` images once and record that, so that later runs are one launch."""
        context = self._context(count)

        def steps() -> None:
            self._upload(count)
            self._enqueue(context)
            self._download(count)

        steps()  # what a context puts off to its first run must not be in the recording
        self._cuda.wait()
        self._launch[count] = steps
        stream = int(self._cuda.stream)
        if not getattr(context, "is_stream_capturable", lambda _: True)(stream):
            _log.info("TensorRT cannot record this engine: it is queued step by step")
            return
        try:
            self._launch[count] = self._cuda.record(steps)
        except RuntimeError as error:
            self._cuda.check_alive(error)
            _log.info("no CUDA graph: %s: the engine is queued step by step", error)

    def device_seconds(self, images: np.ndarray) -> dict[str, float]:
        """See `TensorRtBackend.device_seconds`."""
        self.run(images)
        count = max(len(images), self._batch.minimum)
        parts = {
            "upload": lambda: self._upload(count),
            "network": lambda: self._enqueue(self._contexts[count]),
            "download": lambda: self._download(count),
        }
        return {name: 1e-3 * self._cuda.milliseconds(part) for name, part in parts.items()}

    def _upload(self, count: int) -> None:
        for number, image in enumerate(self._input.host[:count]):
            self._cuda.upload(self._input.device + number * image.nbytes, image)

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
        shape = (count, *self._input.host[0].shape)
        if not context.set_input_shape(INPUT, shape):
            raise EngineRefused(f"it does not take images {shape}: {self._logger.last_error}")
        for name, address in self._addresses.items():
            context.set_tensor_address(name, address)
        self._contexts[count] = context
        return context

    # TensorRT for RTX leaves the last step, kernels for this very GPU, to the first run. Both are
    # kept: a robot that starts again does not compile again.

    @property
    def compiles_kernels(self) -> bool:
        """Whether the library compiles on the device, so that there is something to keep."""
        config = self._runtime_config()
        return config is not None and hasattr(config, "create_runtime_cache")

    def compile_kernels(self) -> bytes:
        """Run each number of images once; what was compiled for them."""
        counts = set(range(self._batch.minimum, min(self._batch.maximum, MOST_AT_ONCE) + 1))
        for count in sorted(counts | {self._batch.optimum}):
            self._enqueue(self._context(count))
            self._cuda.wait()
        kernels = self._kernel_cache.serialize()
        return b"" if kernels is None else bytes(kernels)

    def take_kernels(self, kernels: bytes) -> bool:
        """Use what `compile_kernels` returned, here or in another process; False if refused."""
        if self._kernel_cache is not None:  # they have been compiled here
            return True
        self._kernel_cache = self._runtime_config().create_runtime_cache()
        return not kernels or self._kernel_cache.deserialize(kernels)

    def _create_context(self) -> Any:
        """For one number of images; of several, one runs at a time, so they share their memory.

        That of each would be for the largest number, and there may be 8 of them.
        """
        strategies = self._library.ExecutionContextAllocationStrategy
        several = self._batch.minimum < self._batch.maximum
        size = getattr(self._engine, "device_memory_size_v2", 0) if several else 0  # not in 10.0
        context = self._context_with(strategies.USER_MANAGED if size else strategies.STATIC)
        if context is not None and size:
            self._scratch = self._scratch or self._cuda.allocate(size)
            context.set_device_memory(self._scratch, size)
        return context

    def _context_with(self, strategy: Any) -> Any:
        config = self._runtime_config()
        if config is None:
            return self._engine.create_execution_context(strategy)
        config.set_execution_context_allocation_strategy(strategy)
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            strategies = type(config.dynamic_shapes_kernel_specialization_strategy)
            # Not in the background, after some frames: a frame's time would depend on its number.
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if hasattr(config, "create_runtime_cache"):
            if self._kernel_cache is None:  # one for all contexts
                self._kernel_cache = config.create_runtime_cache()
            config.set_runtime_cache(self._kernel_cache)
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

    engine: an ICudaEngine of `library`. outputs: of the model file, those that this engine makes.
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
