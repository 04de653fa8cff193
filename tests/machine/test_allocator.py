"""What is freed stays or goes, seen in the resident memory of a process."""

import os
import subprocess
import sys

import pytest

from depthlab.machine import allocator

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
@pytest.mark.parametrize(
    ("setting", "low", "high"), [("keep_blocks", -1, 8), ("return_blocks", 240, 257), ("keep_whole_blocks", 240, 257)]
)
def test_freed_blocks(setting, low, high):
    """Of 256 MiB that are freed."""
    code = [sys.executable, "-c", CODE.format(setting)]
    returned = float(subprocess.run(code, check=True, capture_output=True, text=True).stdout)
    assert low <= returned <= high


GAPS = """
import resource
import torch
import depthlab
from depthlab.machine import allocator
allocator.{}()
torch.set_num_threads(1)
net = depthlab.network("depth=56 data=digits width=16").train().to(memory_format=torch.channels_last)
net.recompute = True
x = torch.randn(128, 1, 16, 16)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2):
    net(x).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 2**10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_whole_blocks_are_used_again_without_gaps_and_without_going_back():
    def megabytes(code, **variables):
        code = [sys.executable, "-c", code]
        done = subprocess.run(code, check=True, capture_output=True, text=True, env=os.environ | variables)
        return float(done.stdout)

    uncached = {allocator.TUNABLES: allocator.UNCACHED}
    assert megabytes(GAPS.format("keep_whole_blocks"), **uncached) < 0.92 * megabytes(GAPS.format("keep_blocks"))
    assert megabytes(CODE.format("keep_whole_blocks"), **uncached) < 8


BEGIN = """
import os, sys
from depthlab.machine import allocator
print(os.getpid(), flush=True)
allocator.start_uncached()
print(os.getpid(), os.environ[allocator.TUNABLES], sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_a_command_begins_again_once_with_its_words(tmp_path):
    (tmp_path / "begin.py").write_text(BEGIN)
    tunables = "glibc.malloc.arena_max=4"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "begin.py", "recompute=true", "output_dir=my runs"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {allocator.TUNABLES: tunables, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first, again, last = done.stdout.splitlines()
    assert first == again  # the same process, so that signals reach it
    assert last == f"{first} {tunables}:{allocator.UNCACHED} ['recompute=true', 'output_dir=my runs']"


def test_a_process_that_is_not_the_commands_own_goes_on(monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it would be replaced"))
    monkeypatch.setattr(sys, "argv", ["train.py", "recompute=true"])
    monkeypatch.delenv(allocator.TUNABLES, raising=False)
    allocator.start_uncached()
    assert allocator.TUNABLES not in os.environ
