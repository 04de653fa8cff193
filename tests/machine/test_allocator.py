"""What is freed stays or goes, seen in the resident memory of a process."""

import subprocess
import sys

import pytest

CODE = """
import torch
from depthlab.machine import allocator
allocator.{}()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
blocks = [torch.ones(2**20) for _ in range(64)]  # 4 MiB each
pins, full = [torch.ones(1) for _ in range(64)], resident()
blocks = None
print((full - resident()) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
@pytest.mark.parametrize(("setting", "low", "high"), [("keep_blocks", -1, 8), ("return_blocks", 240, 257)])
def test_freed_blocks(setting, low, high):
    """Of 256 MiB that are freed."""
    code = [sys.executable, "-c", CODE.format(setting)]
    returned = float(subprocess.run(code, check=True, capture_output=True, text=True).stdout)
    assert low <= returned <= high
