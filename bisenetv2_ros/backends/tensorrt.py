"""TensorRT, and TensorRT for RTX: the fastest backend on NVIDIA GPUs.

The engines of a model are built on first load (engine_builder) and cached (engine_cache). Images
and masks cross the bus as uint8, through page-locked memory, on one stream; upload, network and
download are one launch (engine_runner). Frames are resized on the GPU (gpu_resize) if it can, and
masks arrive in memory that a ROS message takes without a copy. Masks alone and masks with
confidence are two engines. Both are ready once the model is loaded, so that the first subscriber of
confidence delays no frame.

Engines are built for batch size 1 by default; a larger batch runs in pieces.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from bisenetv2_ros.backends import engine_cache
from bisenetv2_ros.backends.base import (
    Backend,
    BackendUnavailable,
    BatchProfile,
    Masks,
    Report,
    output_memory,
)
from bisenetv2_ros.backends.cuda import Cuda, CudaError, Gpu
from bisenetv2_ros.backends.engine_builder import build_engines
from bisenetv2_ros.backends.engine_cache import Parts
from bisenetv2_ros.backends.engine_process import ENGINES, make_logger
from bisenetv2_ros.backends.engine_runner import (
    EngineRefused,
    EngineRunner,
    Scratch,
    Tensor,
    check_engine,
    scratch_size,
)
from bisenetv2_ros.backends.engine_target import cuda_needed, load_library, target_of
from bisenetv2_ros.backends.gpu_resize import GpuResize
from bisenetv2_ros.backends.kernels import load_kernels
from bisenetv2_ros.model_file import INPUT, ModelFile

_log = logging.getLogger(__name__)
_PERIOD = 0.05  # seconds between reports

#: How TensorRT logs CUDA errors, which a new build does not fix: "(cudaError 35: ...)",
#: "CUDA initialization failure with error: 35", "Error Code 1: Cuda Runtime (...)".
_OF_CUDA = re.compile(r"cuda ?error|cuda initiali[sz]ation failure|cuda (runtime|driver) \(", re.I)
#: EngineInvalidityDiagnostics that a new build does not fix.
_NOT_THE_ENGINE = ("UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "CUDA_ERROR")


class TensorRtBackend(Backend):
    """Devices: '' or 'cuda' (the first GPU), 'cuda:N'. See `Backend` for the contract."""

    name = "tensorrt"
    gains_from_batches = True

    @classmethod
    def check_available(cls, device: str) -> None:
        """See `Backend`."""
        load_library()
        Gpu(device)

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
        self._target = target_of(self._library, self._cuda)
        self.device = f"{self._cuda.name} ({self._target.library} {self._target.version})"
        self._batch = batch
        self._key = self._target.key(model, batch)
        self._logger = make_logger(self._library)
        self._logger.errors.clear()
        try:
            self._runtime = self._library.Runtime(self._logger)
        except TypeError as error:  # pybind11's error for a null pointer
            raise self._cuda_failed(self._logger.last_error or str(error)) from error
        self._networks: dict[bool, EngineRunner] = {}
        self._tensors: dict[str, Tensor] = {}
        self._laid: set[int] = set()  # indices of images of the next call that are on the device
        reason = ""  # not the error itself: its traceback would keep the engine alive
        for attempt in (1, 2):
            try:
                self._load_engines(self._obtain(model, report), report)
                self._resize = self._make_resize()
                return
            except EngineRefused as error:
                reason = str(error)
            # It passed every check and is refused all the same. A new engine may be accepted; if
            # not, the library does not support this GPU or driver.
            if attempt == 1:
                _log.warning("engine of %s: %s: it is built anew", model.name, reason)
                engine_cache.discard(self._key)
        raise BackendUnavailable(f"{self.device} does not run its own engine: {reason}")

    def _make_resize(self) -> GpuResize | None:
        """Prepare resizing frames on the GPU; None if it fails, then the CPU resizes them."""
        reason = "its pixels are not those of the CPU"
        try:
            kernel = load_kernels(self._cuda)["resample"]
            with self._cuda.all_or_nothing() as memory:
                resize = GpuResize(self._cuda, kernel, self._input_size)
                right = resize.is_right(self._tensors[INPUT].device, self._pinned_input[0])
            memory.close()
            if right:
                return GpuResize(self._cuda, kernel, self._input_size)
        except CudaError as error:
            self._cuda.check_alive(error)
            reason = str(error)
        _log.warning("frames are resized on the CPU, not on %s: %s", self._cuda.name, reason)
        return None

    def _cuda_failed(self, reason: str) -> BackendUnavailable:
        needed = cuda_needed(self._library)
        return BackendUnavailable(
            f"{self._target.library} {self._target.version} does not work on {self._cuda.name}, "
            f"maybe for an old driver: CUDA {self._cuda.driver_cuda} found, "
            f"{f'CUDA {needed}' if needed else 'that of the library'} or newer needed: {reason}"
        )

    def _obtain(self, model: ModelFile, report: Report) -> Parts:
        engines, file = engine_cache.obtain(
            self._key, lambda: build_engines(model, self._target, self._batch, report), report
        )
        _log.info("engines of %s: %s", model.name, file or "in memory")
        return engines

    def _load_engines(self, plans: Parts, report: Report) -> None:
        free, total = self._cuda.memory()
        self._logger.errors.clear()
        try:
            with self._cuda.all_or_nothing():
                self._networks = self._make_networks(plans, report)
        except RuntimeError as error:
            self._explain(error, free, total, sum(map(len, plans.values())))
            raise

    def _make_networks(self, plans: Parts, report: Report) -> dict[bool, EngineRunner]:
        """Return a runner for masks alone, and one for masks with confidence."""
        engines = {name: self._deserialize(plans[name], name) for name in ENGINES}
        scratch = self._scratch(list(engines.values()))
        tensors = self._tensors = {}  # shared: one engine runs at a time
        networks: dict[bool, EngineRunner] = {}
        try:
            for name, engine in engines.items():
                tensors |= {t: self._tensor(t) for t in (INPUT, *ENGINES[name]) if t not in tensors}
                network = EngineRunner(
                    self._cuda,
                    self._library,
                    engine,
                    self._logger,
                    {tensor: tensors[tensor] for tensor in (INPUT, *ENGINES[name])},
                    self._batch,
                    scratch,
                )
                networks["confidence" in ENGINES[name]] = network
                if network.compiles_kernels:
                    self._obtain_kernels(network, name, report)
                for count in network.counts():
                    network.prepare(count)
        except BaseException:
            for network in networks.values():  # before their scratch memory
                network.close()
            raise
        return networks

    def _explain(self, error: RuntimeError, free: int, total: int, weights: int) -> None:
        """Raise a clearer error if it is one of memory or of CUDA."""
        # TensorRT's own wording takes precedence: "... Error Code 2: OutOfMemory (Requested ...".
        reported = " ".join([str(error), *self._logger.errors])
        if "outofmemory" in re.sub("[ _]", "", reported).lower():
            raise RuntimeError(
                f"{self._cuda.name} has too little memory for model '{self._name}': "
                f"{free >> 20} of {total >> 20} MiB were free, the weights alone take "
                f"{weights >> 20} MiB ({error})"
            ) from error
        of_cuda = [line for line in [str(error), *self._logger.errors] if _OF_CUDA.search(line)]
        if of_cuda and not isinstance(error, (CudaError, BackendUnavailable)):
            raise self._cuda_failed(of_cuda[0]) from error

    def _deserialize(self, plan: bytes, name: str) -> Any:
        self._check_validity(plan)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineRefused(self._logger.last_error or "it cannot be deserialised")
        check_engine(engine, self._library, ENGINES[name], self._input_size, self._batch)
        return engine

    def _check_validity(self, plan: bytes) -> None:
        """Refuse an engine that will not run here, if the library reports it (TensorRT for RTX)."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, flags = self._runtime.get_engine_validity(
            plan[: self._runtime.engine_header_size]
        )
        known = self._library.EngineInvalidityDiagnostics.__members__.items()
        reasons = [name for name, flag in known if int(flags) & int(flag)]
        text = ", ".join(reasons) or "no reason given"
        if validity == self._library.EngineValidity.SUBOPTIMAL:
            _log.info("the engine is not the best one for %s: %s", self.device, text)
        if validity != self._library.EngineValidity.INVALID:
            return
        if set(reasons) & set(_NOT_THE_ENGINE):
            raise self._cuda_failed(": ".join([text, *list(self._logger.errors)[-1:]]))
        raise EngineRefused(f"it is not valid here: {self._logger.last_error or text}")

    def _scratch(self, engines: list[Any]) -> Scratch | None:
        sizes = [scratch_size(engine) for engine in engines]
        if None in sizes:
            return None
        size = max(1, *(size or 0 for size in sizes))  # 0 bytes cannot be allocated
        return Scratch(self._cuda.allocate(size), size)

    def _obtain_kernels(self, network: EngineRunner, name: str, report: Report) -> None:
        key = {**self._key, "kernels": name, "driver": self._cuda.driver_version}

        def compile_kernels() -> Parts:
            for count in network.counts():
                line = f"compiling kernels of {name} for {count} image{'s' * (count > 1)}"
                self._in_background(partial(network.compile_kernels, count), report, line)
            return {"kernels": network.kernels()}

        def obtain() -> bytes:
            return engine_cache.obtain(key, compile_kernels, report)[0]["kernels"]

        if not network.take_kernels(obtain()):
            _log.warning("kept kernels of %s are not for this driver: compiled anew", self._name)
            engine_cache.discard(key)
            obtain()

    def _in_background(self, work: Callable[[], None], report: Report, line: str) -> None:
        """Run `work` in a thread and report meanwhile; exceptions of `report` are raised
        afterwards.

        The library cannot be interrupted, so cancelling takes until the step ends.
        """
        errors: list[BaseException] = []

        def run() -> None:
            try:
                self._cuda.use()
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="compile kernels")
        thread.start()
        try:
            while thread.is_alive():
                report(line)
                thread.join(_PERIOD)
        finally:
            thread.join()
        if errors:
            raise errors.pop()  # a list that keeps it keeps this frame, and so the engine

    def _tensor(self, name: str) -> Tensor:
        cuda, (width, height), most = self._cuda, self._input_size, self._batch.maximum
        if name == INPUT:
            self._pinned_input = cuda.pinned((most, height, width, 3))
            return Tensor(self._pinned_input, cuda.allocate(self._pinned_input.nbytes))
        host = [output_memory((height, width)) for _ in range(most)]
        if not all(cuda.page_lock(image) for image in host):
            host = list(cuda.pinned((most, height, width)))
        return Tensor(host, cuda.allocate(most * height * width))

    def input_memory(self, count: int) -> np.ndarray:
        """See `Backend`; page-locked for as many images as the profile allows."""
        self._laid.clear()
        if count > self._batch.maximum:
            return super().input_memory(count)
        return self._pinned_input[:count]

    def lay(self, image: np.ndarray, order: Literal["rgb", "bgr"], place: np.ndarray) -> None:
        """See `Backend`: frames of another size are resized on the device."""
        number, rest = divmod(place.ctypes.data - self._pinned_input.ctypes.data, place.nbytes)
        pinned = not rest and 0 <= number < self._batch.maximum
        if self._resize is None or not pinned or image.shape == place.shape:
            super().lay(image, order, place)
            return
        try:
            self._cuda.use()
            target = self._tensors[INPUT].device + number * place.nbytes
            self._resize(image, order, number, target)
            self._laid.add(number)
        except CudaError as error:  # such as one of memory
            self._cuda.check_alive(error)
            _log.warning("frames are resized on the CPU from here on: %s", str(error))
            self._resize = None
            super().lay(image, order, place)

    def _infer(self, images: np.ndarray, confidence: bool) -> tuple[Masks, Masks | None]:
        most = self._batch.maximum
        network = self._networks[confidence]
        try:
            self._cuda.use()
            if images.ctypes.data == self._pinned_input.ctypes.data:
                laid, self._laid = self._laid, set()
                outputs = network.run(images, laid)
            elif len(images) <= most:
                outputs = network.run(images)
            else:  # all pieces use the same memory
                outputs = [[] for _ in range(1 + confidence)]
                for i in range(0, len(images), most):
                    parts = network.run(images[i : i + most])
                    for output, part in zip(outputs, parts, strict=True):
                        output += [image.copy() for image in part]
        except RuntimeError as error:
            self._cuda.check_alive(error)
            raise
        return outputs[0], outputs[1] if confidence else None

    def device_seconds(self, images: np.ndarray) -> dict[str, float]:
        """Device time of each part of a call, masks only, in seconds: upload, network, download.

        images: as for `infer`, at most as many as the profile allows.
        """
        self._cuda.use()
        return self._networks[False].device_seconds(images)

    def close(self) -> None:
        """Free the device's memory in the order that the library requires."""
        cuda = vars(self).pop("_cuda", None)
        if cuda is not None:
            with contextlib.suppress(CudaError):  # the device is lost
                cuda.use()
        for network in vars(self).pop("_networks", {}).values():
            network.close()
        super().close()
        if cuda is not None:
            cuda.close()
