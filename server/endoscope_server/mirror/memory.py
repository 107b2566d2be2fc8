"""How a step's memory is come by.

Each step takes and frees the same buffers. Memory that went back to the system has to be mapped and cleared
page by page when it is taken again, which can be a fifth of a step.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# glibc takes no larger one.
_OWN_MAPPING = 32 << 20
_KEPT = 512 << 20


@functools.cache
def prepare() -> bool:
    """Makes memory cheap to take again, for the whole process.

    glibc is asked to keep up to 512 MiB that were freed, and torch to ask for huge pages, which it does if it
    hasn't made a tensor yet and the variable ``THP_MEM_ALLOC_ENABLE`` doesn't say otherwise.

    Returns:
        Whether the C library has been told; False where it isn't glibc.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_MMAP_THRESHOLD, _OWN_MAPPING) and libc.mallopt(_TRIM_THRESHOLD, _KEPT))
