"""The C library's memory allocator: whether freed memory stays with the process."""

from __future__ import annotations

import ctypes
import sys

# of glibc's malloc.h; an int holds no more than 2 GiB - 1
_TRIM_THRESHOLD, _MMAP_MAX, _MOST = -1, -4, 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, up to 2 GiB, for the rest of its life.

    A training update on a CPU allocates and frees the same large activations each time. By itself glibc takes
    each from the kernel and gives it back, and the kernel clears every page anew. The command line calls this
    once at its start; a library has no business to, so elsewhere it is for the program to decide.

    Returns:
        True where it had an effect: with glibc, on Linux.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))
