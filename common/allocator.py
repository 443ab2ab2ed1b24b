"""glibc's allocator: whether the memory that tensors free stays with the process. Other C libraries have no such settings.

Imports no torch: commands call it before.
"""
import ctypes
import mmap
import os
import sys

# numbers of the settings in malloc.h
SETTINGS = {'M_TRIM_THRESHOLD': -1, 'M_TOP_PAD': -2, 'M_MMAP_THRESHOLD': -3}
# values that may be tried, in bytes; no limit is -1
KEPT = {'M_TRIM_THRESHOLD': [-1], 'M_TOP_PAD': [2 ** 26], 'M_MMAP_THRESHOLD': [2 ** 30, 2 ** 25]}
RETURNED = {'M_TRIM_THRESHOLD': [2 ** 17], 'M_TOP_PAD': [0], 'M_MMAP_THRESHOLD': [2 ** 17]}

_libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
_mallopt, _malloc_trim = getattr(_libc, 'mallopt', None), getattr(_libc, 'malloc_trim', None)


def keep_freed_memory() -> None:
    """From now on in this process, what tensors free is kept for the next ones.

    By default large blocks go back at once, and the system clears every page of the next block: a third of the time of a
    large image (docs/speed.md). Settings of the caller's environment stay.
    """
    if not any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ):
        _set(KEPT)


def return_large_blocks() -> None:
    """From now on in this process, the memory of a large tensor goes back to the system when it is freed. That is exact, and
    slower."""
    _set(RETURNED)


def release_unused(limit: int) -> None:
    """Gives the pages of freed tensors back to the system if this process holds more than `limit` bytes.

    glibc keeps pieces between blocks in use, and with tensors of many sizes they add up to several times what is in use. The
    system clears the next pages, which takes time.
    """
    if _malloc_trim and resident_bytes() > limit:
        _malloc_trim(0)


def resident_bytes() -> int:
    """Bytes of this process that are in memory; 0 where the system is not Linux."""
    if sys.platform != 'linux':
        return 0
    with open('/proc/self/statm', 'rb') as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def _set(values: dict[str, list[int]]) -> None:
    """Sets each to the first of its values that this version of glibc accepts."""
    if _mallopt:
        for name, tried in values.items():
            any(_mallopt(SETTINGS[name], value) for value in tried)
