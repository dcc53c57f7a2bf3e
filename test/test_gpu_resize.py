"""Resize on the GPU: the kernel, compiled for the CPU, makes the pixels that OpenCV makes.

What runs it on a device is in support/on_host_cuda.py, by real cuda-bindings over a strict driver.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from kernels_on_host import COMPILER, HostCuda, HostKernel

from bisenetv2_ros.backends.gpu_resize import GpuResize, area_taps, linear_taps
from bisenetv2_ros.backends.kernels import ARGUMENTS, PTX, SOURCE
from bisenetv2_ros.resize import resize_image, resize_steps

ROOT = Path(__file__).resolve().parents[1]
NETWORK = (640, 480)

needs_compiler = pytest.mark.skipif(
    not shutil.which(COMPILER), reason=f"no {COMPILER} to compile the kernels with"
)


def on_device(
    frame: np.ndarray, size: tuple[int, int], order: str = "rgb", integrated: bool = False
) -> np.ndarray:
    """(H, W, 3) uint8 RGB that GpuResize makes of a frame, on the CPU."""
    out = np.empty((size[1], size[0], 3), np.uint8)
    resize = GpuResize(HostCuda(integrated), HostKernel("resample", ARGUMENTS["resample"]), size)  # type: ignore[arg-type]
    resize(frame, order, 0, out.ctypes.data)  # type: ignore[arg-type]
    return out


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def difference(frame: np.ndarray, size: tuple[int, int]) -> int:
    """The most levels that a pixel differs from the CPU's."""
    expected = resize_image(frame, size).astype(np.int16)
    return int(np.abs(on_device(frame, size) - expected).max())


@needs_compiler
@pytest.mark.parametrize(
    "size",
    [(800, 600), (1280, 720), (1280, 960), (1600, 1200), (1920, 1080), (1920, 1200), (3840, 2160)],
)
def test_the_pixels_of_the_cpu_for_the_sizes_of_cameras(size: tuple[int, int]):
    assert difference(noise(*size), NETWORK) == 0


@needs_compiler
@pytest.mark.parametrize("network", [NETWORK, (1024, 512), (65, 33), (32, 24), (1, 2)])
@pytest.mark.parametrize(
    "size",
    [
        *((1, 1), (2, 1), (1, 900), (900, 1), (5, 3), (320, 240), (641, 481), (639, 960)),
        *((1281, 961), (1919, 1079), (640, 2000), (3000, 100), (4096, 31)),
    ],
)
def test_at_most_one_level_from_the_cpu(size: tuple[int, int], network: tuple[int, int]):
    assert difference(noise(*size), network) <= 1


@needs_compiler
def test_at_most_one_level_from_the_cpu_for_any_sizes():
    rng = np.random.default_rng(1)
    for seed in range(150):
        size, network = (tuple(map(int, 2 ** rng.uniform(0, 9.5, 2))) for _ in range(2))
        if size != network:
            assert difference(noise(*size, seed), network) <= 1, (size, network)


@needs_compiler
@pytest.mark.parametrize("integrated", [False, True])
def test_any_strides_and_either_order(integrated: bool):
    base = noise(1400, 900)
    views = {
        "padded rows": base[:, :1300],
        "a crop": base[100:801, 33:1300],
        "upside down": base[::-1],
        "mirrored": base[:, ::-1],
        "turned": base.transpose(1, 0, 2),
        "other channels": base[..., ::-1],
    }
    for what, view in views.items():
        expected = resize_image(np.ascontiguousarray(view), NETWORK)
        for order, right in (("rgb", expected), ("bgr", expected[..., ::-1])):
            made = on_device(view, NETWORK, order, integrated).astype(np.int16)
            assert np.abs(made - right).max() <= 1, (what, order)


@needs_compiler
@pytest.mark.parametrize("integrated", [False, True])
def test_cameras_of_changing_sizes(integrated: bool):
    """Tables and memory are kept for some sizes and made anew for others."""
    cuda = HostCuda(integrated)
    resize = GpuResize(cuda, HostKernel("resample", ARGUMENTS["resample"]), (64, 48))  # type: ignore[arg-type]
    sizes = [(40 + 7 * n, 30 + 11 * n) for n in range(12)]
    blocks: list[int] = []
    for _ in range(2):
        for n, size in enumerate([*sizes, *reversed(sizes)]):
            frame, out = noise(*size, n), np.empty((48, 64, 3), np.uint8)
            resize(frame, "rgb", n % 3, out.ctypes.data)
            made = out.astype(np.int16) - resize_image(frame, (64, 48))
            assert np.abs(made).max() <= 1, size
        blocks.append(len(cuda.memory))
    assert blocks[0] == blocks[1], "it grows"


def test_weights_of_each_pixel():
    for source in (1, 2, 3, 7, 480, 961):
        for target in (1, 2, 3, 7, 480, 961):
            inside = [linear_taps(source, target, edges=False)]
            inside += [area_taps(source, target)] if target <= source else []
            for first, weights in inside:
                assert first.min() >= 0 and (first + weights.shape[1]).max() <= source
            for each in [*inside, linear_taps(source, target, edges=True)]:
                total = 1 if len(inside) == 2 and each is inside[1] else 2048
                assert np.allclose(each.weights.sum(1), total, rtol=1 / 2048)


def test_steps_end_at_the_size_and_halve_first():
    assert [s.size for s in resize_steps((3840, 2160), NETWORK)] == [
        (1920, 1080),
        (960, 540),
        NETWORK,
    ]
    assert resize_steps(NETWORK, NETWORK) == []


# --- what is shipped -----------------------------------------------------------------------------


def test_the_ptx_is_of_the_source():
    """Else run scripts/compile_kernels.py."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    assert PTX.read_text().startswith(f"// Of {SOURCE.name}, SHA-256 {digest}\n")


def test_the_ptx_has_the_kernels_and_their_arguments():
    text = PTX.read_text()
    assert re.search(r"^\.version 8\.2$", text, re.M), "CUDA 12.2, as drivers of JetPack 6 take it"
    assert re.search(r"^\.target sm_70$", text, re.M)
    assert set(re.findall(r"\.entry (\w+)", text)) == set(ARGUMENTS)
    names = {"c_int": "u32", "c_void_p": "u64"}
    for kernel, types in ARGUMENTS.items():
        (arguments,) = re.findall(rf"\.entry {kernel}\((.*?)\)", text, re.S)
        expected = [names[kind.__name__] for kind in types]
        assert re.findall(r"\.param \.(\w+)", arguments) == expected


def test_sums_are_rounded_as_on_a_cpu():
    """Nothing is fused, and `.rn` keeps the driver from fusing it."""
    text = PTX.read_text()
    assert "mul.rn.f32" in text and "add.rn.f32" in text
    assert not re.findall(r"\b(?:mul|add|sub)\.f32|fma", text)


@pytest.mark.skipif(not shutil.which("ptxas"), reason="no ptxas of NVIDIA's CUDA toolkit")
@pytest.mark.parametrize("compute_capability", ["75", "80", "86", "87", "89", "90", "100", "120"])
def test_the_ptx_is_assembled_for(compute_capability: str, tmp_path: Path):
    command = ["ptxas", f"-arch=sm_{compute_capability}", "-o", str(tmp_path / "out"), str(PTX)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "is not defined for option" in done.stderr:
        pytest.skip(f"this ptxas does not know {compute_capability}")
    assert done.returncode == 0, done.stderr


def test_the_ptx_is_what_nvrtc_makes():
    found = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    libraries = [file for p in places for file in p.glob("cuda_nvrtc/lib/libnvrtc.so.12")]
    if not libraries:
        pytest.skip("no nvidia-cuda-nvrtc-cu12")
    made = _script().compile_kernels(libraries[0])
    if b"V12.2.140" not in made:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not 12.2.140")
    assert made == PTX.read_bytes()


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts/compile_kernels.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
