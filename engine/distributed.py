"""Training on several processes, as `torchrun` starts them: the rank of this one, and what they exchange.

Every process runs the whole program on a part of each batch. Gradients, losses and batch-norm sums are exchanged between
the devices (NCCL on GPUs, gloo on CPUs); flags and plain values between the hosts, over gloo, so that no GPU is waited for.
"""
import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from common.cli import verdict
from utils import RunError

LAUNCHED = {'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'}  # set by torchrun in each process

Network = TypeVar('Network', bound=nn.Module)


class World:
    """The processes of a run, and this one's rank among them. With a single process every method is trivial.

    Attributes:
        rank, size: number of this process, from 0, and of all of them.
        local_rank: its number on its machine; None for a single process.
    """

    def __init__(self, *, rank: int = 0, size: int = 1, local_rank: int | None = None, store: Any = None):
        self.rank, self.size, self.local_rank, self.store = rank, size, local_rank, store
        self.device = torch.device('cpu')
        self.hosts: Any = None  # the group that exchanges plain values

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def connect(self, device: torch.device) -> None:
        """Joins the other processes, whose devices are of the same kind."""
        self.device = device
        if self.size > 1:
            backend = 'nccl' if device.type == 'cuda' else 'gloo'
            if device.type == 'cuda':
                torch.cuda.set_device(device)
            dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size)
            self.hosts = dist.new_group(backend='gloo')

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` as the training step calls it: its gradients become the mean over all processes.

        Weights and buffers are those of the first process from now on; see `synchronise_batch_norm`, which comes before.
        """
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == 'cuda' else None,
                                       find_unused_parameters=model.may_idle)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, on the device."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.hosts)
        return bool(flags)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self.any(False)

    def broadcast(self, value: Any) -> Any:
        """The first process's value."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self.hosts)
        return values[0]

    def interleave(self, values: list) -> list:
        """The list of which each process has every size-th item, its `values` → the whole list, in every process."""
        if self.size == 1:
            return values
        parts: list[list] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, values, group=self.hosts)
        whole: list = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank::self.size] = part
        return whole


ALONE = World()


@contextlib.contextmanager
def join() -> Iterator[World]:
    """This process's `World`, not yet connected; `ALONE` unless torchrun started several.

    An error in any process ends all: the first to fail reports its error, every other one ends with the same exit status
    and reports nothing. Those that wait for it notice by the broken connection.
    """
    if not os.environ.keys() >= LAUNCHED or os.environ['WORLD_SIZE'] == '1':
        yield ALONE
        return
    store, rank, size = next(rendezvous('env://'))
    try:
        yield World(rank=rank, size=size, local_rank=int(os.environ['LOCAL_RANK']), store=store)
    except (Exception, KeyboardInterrupt) as error:
        lost = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ('gloo', 'nccl'))
        if lost:
            error = RunError('another process of this run has ended; the last checkpoint is intact')
        try:
            first = store.add('failures', 1) == 1
            if first:
                store.set('status', str(verdict(error)[0]))
            status = int(store.get('status'))
        except RuntimeError:  # the store ends with the process that keeps it
            first, status = not lost, 1
        if not first:
            raise SystemExit(status) from None
        raise error
    if dist.is_initialized():  # not after a command that had nothing to compute
        dist.destroy_process_group()


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is summed likewise."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all processes together, on any device; B may be 0 in some.

    PyTorch's own nn.SyncBatchNorm, which is faster, knows GPUs only. Shapes: (B, C, H, W).
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()
        count = wide.new_tensor([x.numel() // x.shape[1]])
        total, count = SumOverProcesses.apply(torch.cat([wide.sum((0, 2, 3)), count])).split([x.shape[1], 1])
        mean = total / count                                                         # (C,)
        centred = wide - mean.view(-1, 1, 1)
        variance = SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count   # (C,)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)


def synchronise_batch_norm(model: Network, device: torch.device) -> Network:
    """`model` with the statistics of its batch norms taken over all processes; tensors and their names stay."""
    if device.type == 'cuda':
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            synchronised = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
            for tensor in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
                setattr(synchronised, tensor, getattr(child, tensor))
            setattr(model, name, synchronised)
        else:
            synchronise_batch_norm(child, device)
    return model
