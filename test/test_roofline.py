"""What a device's time is compared with: counted work, measured rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu import needs_gpu

from bisenetv2_ros.benchmark.roofline import (
    Rates,
    Work,
    measure_cpu,
    measure_gpu,
    roofline_seconds,
    work_of,
)


def test_multiply_adds_are_those_that_torch_counts(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from small_network import SIZE, small_network, street_frames
    from tiny_model import tiny_info
    from torch.utils.flop_counter import FlopCounterMode

    from bisenetv2_ros.training.export import export_model

    network = small_network()
    path = tmp_path / "small.onnx"
    export_model(network, tiny_info(SIZE), path, street_frames(1))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, SIZE[1], SIZE[0], 3, dtype=torch.uint8))
    assert work_of(path).multiply_adds == counter.get_total_flops() // 2
    parameters = sum(p.numel() for p in network.network.parameters())
    pixels = 4 * SIZE[0] * SIZE[1]
    # Batch norms are folded into their convolutions: up to three numbers fewer a channel.
    assert 0.8 * 4 * parameters < work_of(path).bytes_moved - pixels < 1.05 * 4 * parameters


def test_the_slower_of_arithmetic_and_memory_is_the_floor():
    rates = Rates("a GPU", multiply_adds=1e12, bytes_moved=1e9)
    assert roofline_seconds(Work(2 * 10**9, 10**6), rates) == pytest.approx(2e-3)
    assert roofline_seconds(Work(2 * 10**9, 10**7), rates) == pytest.approx(1e-2)


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_rates_are_a_cpu_s(precision: str):
    pytest.importorskip("openvino")
    rates = measure_cpu(precision, threads=1)
    assert rates and 1e8 < rates.multiply_adds < 1e14
    assert str(rates).startswith(f"1 threads, {precision}, 3x3 convolutions in OpenVINO: ")
    assert roofline_seconds(Work(10**9, 10**12), rates) == 1e9 / rates.multiply_adds


@needs_gpu
def test_rates_are_a_gpu_s():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is a build for CPUs")
    rates = measure_gpu()
    assert rates and rates.multiply_adds > 1e11 and rates.bytes_moved > 1e10
