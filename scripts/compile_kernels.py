#!/usr/bin/env python3
"""Compile bisenetv2_ros/backends/kernels.cu to kernels.ptx beside it, with NVRTC.

    pip install nvidia-cuda-nvrtc-cu12==12.2.140
    python3 scripts/compile_kernels.py .../nvidia/cuda_nvrtc/lib/libnvrtc.so.12

The driver compiles the PTX for its GPU. A driver accepts PTX of its own CUDA version and older, so
this file needs a driver of CUDA 12.2 or newer, as in JetPack 6, and compute capability 7.0.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "bisenetv2_ros/backends/kernels.cu"
#: No fused multiply-add, so that results are bit-identical to the CPU's.
OPTIONS = (b"--gpu-architecture=compute_70", b"--fmad=false")


def compile_kernels(nvrtc: Path) -> bytes:
    """Compile SOURCE to PTX with this libnvrtc. Raises RuntimeError with its log on failure."""
    library = ctypes.CDLL(str(nvrtc))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), SOURCE.read_bytes(), SOURCE.name.encode(), 0, None, None
    )
    if made:
        raise RuntimeError(f"{nvrtc}: nvrtcCreateProgram returns {made}")
    options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
    failed = library.nvrtcCompileProgram(program, len(options), options)
    what = "ProgramLog" if failed else "PTX"
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, text)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"{SOURCE}: {text.value.decode()}")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    return f"// Of {SOURCE.name}, SHA-256 {digest}\n".encode() + text.value


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("nvrtc", type=Path, help="path of libnvrtc.so.12")
    target = SOURCE.with_suffix(".ptx")
    target.write_bytes(compile_kernels(parser.parse_args().nvrtc))
    print(target)


if __name__ == "__main__":
    main()
