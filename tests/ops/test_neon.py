"""The kernels as NEON code: cross-compiled, and run under QEMU's emulation of a 64-bit Arm."""

import os
from pathlib import Path

import pytest

from c_code import call, tool

ROOT = Path(__file__).parents[2]
SYSROOT = "/usr/aarch64-linux-gnu"


@pytest.mark.device
def test_the_kernels_own_tests_pass_as_neon_code(tmp_path):
    """Every cell, forward and backward, against plain loops: tests/ops/kernels_test.cpp."""
    emulator, compiler = tool("qemu-aarch64"), tool("aarch64-linux-gnu-g++")
    call(
        tool("cmake"), "-S", ROOT, "-B", tmp_path, "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}", "-DBPTT_MODULE=OFF",
        "-DBPTT_DRIVER=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O2",
    )  # fmt: skip
    call(tool("cmake"), "--build", tmp_path, "--parallel", "2")
    run = [emulator, "-L", SYSROOT, tmp_path / "bptt_kernel_tests"]
    assert call(*run, "--isas").strip() == "neon"
    # An emulated thread is a real one, and the emulator's locks cost more than a second core gives.
    said = call(*run, env={**os.environ, "OMP_NUM_THREADS": "1"})
    passed, _ = said.split(" passed, 0 failed")
    assert int(passed) > 1000
