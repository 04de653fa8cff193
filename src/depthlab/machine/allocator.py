"""The C library's allocator, told what to do with large blocks that are freed; nothing where it is not glibc."""

import ctypes
import sys

# mallopt(3)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_blocks() -> None:
    """Freed blocks stay with the process for the next step, instead of costing page faults each time."""
    _mallopt({M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26})


def return_blocks() -> None:
    """Freed blocks from a mebibyte on go back to the system, so that the gaps between others do not add up."""
    _mallopt({M_MMAP_THRESHOLD: 2**20, M_TRIM_THRESHOLD: 2**20, M_TOP_PAD: 0})


def _mallopt(settings: dict[int, int]) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for parameter, value in settings.items():
            mallopt(parameter, value)
