"""How much memory a computation holds, by measuring it: nobody has to count by hand what a layer allocates.

The bytes of tensors are counted, which are the same on every device and in every run.
"""
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMeter(TorchDispatchMode):
    """While it is on, follows the tensors that operators of this thread make.

    Attributes:
        peak: bytes that these held at most at a time, since the start or since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

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
    """Bytes of the tensors that a call of `function` makes and holds at most at a time, its result among them."""
    with PeakMeter() as meter:
        function(*args)
    return meter.peak
