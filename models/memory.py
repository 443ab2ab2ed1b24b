"""Measures the memory that a computation holds: no layer has to declare what it allocates.

The bytes of tensors are counted. They are the same on every device and in every run.
"""
import ctypes
import mmap
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMeter(TorchDispatchMode):
    """While it is active, follows the tensors that the operators of this thread make.

    Attributes:
        peak: the most bytes that they held at any time, since the start or since `peak` was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would import PyTorch's compiler to tell it so, which takes longer than most images

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}            # views of them take no memory
        for storage in _storages(result):
            if storage._cdata not in given:
                self._follow(storage)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._known:
            self._known.add(address)
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.held -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def peak_bytes(function: Callable[..., Any], *args: Any) -> int:
    """The most bytes that the tensors made by a call of `function` hold at any time, its result included."""
    with PeakMeter() as meter:
        function(*args)
    return meter.peak


# glibc keeps pieces between blocks in use, and with tensors of many sizes they add up to several times what is in use. Other
# C libraries have no such functions.
_libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
_trim, _mallopt = getattr(_libc, 'malloc_trim', None), getattr(_libc, 'mallopt', None)
EXACT = {'M_TRIM_THRESHOLD': (-1, 2 ** 17), 'M_TOP_PAD': (-2, 0), 'M_MMAP_THRESHOLD': (-3, 2 ** 17)}  # of malloc.h, in bytes


def return_large_blocks() -> None:
    """From now on in this process, the memory of a large tensor goes back to the system when it is freed.

    That is exact. Keeping its pages for the next tensor, as commands do otherwise (`common/start.py`), is faster.
    """
    if _mallopt:
        for number, value in EXACT.values():
            _mallopt(number, value)


def resident_bytes() -> int:
    """Bytes of this process that are in memory; 0 where the system is not Linux."""
    if sys.platform != 'linux':
        return 0
    with open('/proc/self/statm', 'rb') as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def release_unused(limit: int) -> None:
    """Gives the pages of freed tensors back to the system if this process holds more than `limit` bytes. The system clears
    the next ones, which takes time."""
    if _trim and resident_bytes() > limit:
        _trim(0)
