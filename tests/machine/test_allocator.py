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
    ("setting", "tunables", "low", "high"),
    [
        ("keep_blocks", "", -1, 8),
        ("return_blocks", "", 240, 257),
        ("keep_whole_blocks", "", 240, 257),
        ("keep_whole_blocks", allocator.UNCACHED, -1, 8),
    ],
)
def test_freed_blocks(setting, tunables, low, high):
    """Of 256 MiB that are freed."""
    code = [sys.executable, "-c", CODE.format(setting)]
    variables = os.environ | {allocator.TUNABLES: tunables}
    returned = float(subprocess.run(code, check=True, capture_output=True, text=True, env=variables).stdout)
    assert low <= returned <= high


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
