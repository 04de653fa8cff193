"""The C library's allocator, told what to do with large blocks that are freed; nothing where it is not glibc."""

import ctypes
import os
import sys

# mallopt(3)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
# No small freed blocks are laid aside; read when a process begins, and not later.
TUNABLES, UNCACHED = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"


def keep_blocks() -> None:
    """Freed blocks stay with the process for the next step, instead of costing page faults each time."""
    _mallopt({M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26})


def keep_whole_blocks() -> None:
    """The same with fewer gaps. torch asks for aligned blocks, of which glibc cuts the rest off. It lays small freed
    blocks aside, these rests too, and what is left is too small for the next tensor of the same size. Here nothing
    is laid aside, where the process began by `start_uncached`; elsewhere blocks are returned.
    """
    (keep_blocks if UNCACHED in os.environ.get(TUNABLES, "") else return_blocks)()


def start_uncached() -> None:
    """Replaces the process by the same command, whose allocator lays no small blocks aside; nothing where it is so
    already, where the process is not this command's alone, or without glibc.
    """
    before = os.environ.get(TUNABLES, "")
    own = len(sys.argv) > 1 and sys.orig_argv[-len(sys.argv) + 1 :] == sys.argv[1:]
    if own and UNCACHED not in before and "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}):
        os.environ[TUNABLES] = f"{before}:{UNCACHED}".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def return_blocks() -> None:
    """Freed blocks from a mebibyte on go back to the system, so that the gaps between others do not add up."""
    _mallopt({M_MMAP_THRESHOLD: 2**20, M_TRIM_THRESHOLD: 2**20, M_TOP_PAD: 0})


def _mallopt(settings: dict[int, int]) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for parameter, value in settings.items():
            mallopt(parameter, value)
