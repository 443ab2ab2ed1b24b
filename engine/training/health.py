"""Dead channels: a ReLU channel that is zero for every input gets no gradient and learns nothing more."""
import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def watch_relus(network: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Watches the outputs (B, C, H, W) of all ReLUs of a network while the context lasts.

    Yields: for each ReLU that was called, which of its channels were above zero anywhere: (C,) bool.
    """
    live: dict[nn.Module, Tensor] = {}

    def watch(relu: nn.Module, inputs: tuple, output: Tensor) -> None:
        passed = (output > 0).any(3).any(2).any(0)                                   # (C,)
        live[relu] = live[relu] | passed if relu in live else passed
    hooks = [module.register_forward_hook(watch) for module in network.modules() if isinstance(module, nn.ReLU)]
    try:
        yield live
    finally:
        for hook in hooks:
            hook.remove()


def dead_share(live: dict[nn.Module, Tensor]) -> float:
    """The fraction of the channels of `watch_relus` that were zero everywhere, in [0, 1]."""
    return 1 - torch.cat(list(live.values())).float().mean().item()
