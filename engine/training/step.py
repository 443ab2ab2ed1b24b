"""The training step: one update of the weights from one batch. Nothing in it waits for a GPU but the checks of the loss.

Shapes: b samples of a micro-batch, H×W the LR crop, Q queries.
"""
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.registry import SpecError
from datasets.sampling import DrawSampler
from engine.distributed import World
from engine.training.losses import LOSSES
from engine.training.schedule import SCHEDULES
from engine.training.state import RunState, trainable

CHECK_EVERY = 10  # iterations between two checks of the loss on a GPU, which has to be waited for
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class Update(NamedTuple):
    """What a step did: the loss of the batch, a scalar on the device, and the learning rate of the first group."""
    loss: Tensor
    learning_rate: float


class TrainingStep:
    """Computes the gradients of batches and updates the weights of a run.

    Args:
        config: of the run.
        state: of the run.
        network: what computes predictions: the state's model, or what wraps it.
        sampler: knows the samples of each batch, and how many of them are for this process.
        world: the processes that train together.
    """

    def __init__(self, *, config: dict, state: RunState, network: nn.Module, sampler: DrawSampler, world: World):
        self.state, self.network, self.sampler, self.world = state, network, sampler, world
        self.loss = LOSSES.make(config.get('loss', {'name': 'l1'}), 'loss')
        self.schedule = SCHEDULES.make(config.get('lr_schedule', {'name': 'constant'}), 'lr_schedule')
        self.lr_factors = (1.0, *config.get('lr_factors', {}).values())  # of the optimiser's groups
        self.dtype = DTYPES[config.get('precision', 'float32')]
        self.memory_format = torch.channels_last if config.get('channels_last') else torch.contiguous_format
        self.parts, self.clip_grad = config.get('accumulate', 1), config.get('clip_grad')

    def __call__(self, sample: dict) -> Update:
        """One update, from a batch of which `sample` is this process's share."""
        state, optimizer, scaler = self.state, self.state.optimizer, self.state.scaler
        learning_rate = self.set_learning_rate()
        optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=state.device)  # the loss, and the samples at a lowered scale
        for part, context in self.micro_batches(sample):
            with context:
                loss = self.part_loss(part)
            scaler.scale(loss * self.world.size).backward()  # processes are averaged, but each has a part of the sum
            sums += torch.stack([loss.detach(), part['lowered'].sum()])
        loss, lowered = self.world.total(sums)
        state.advance(loss, lowered > 0)
        if self.checks_loss(state.iteration):
            state.check_loss()
        else:
            discard_gradients(state.model, ~loss.isfinite())
        if self.clip_grad:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trainable(state.model), self.clip_grad)
        scaler.step(optimizer)
        scaler.update()
        if state.average:
            state.average.update(state.model)
        return Update(loss, learning_rate)

    def set_learning_rate(self) -> float:
        """Gives each group of the optimiser its learning rate for this iteration; returns that of the first group."""
        state = self.state
        learning_rate = self.schedule(state.epoch, state.run_iteration, state.optimizer.defaults['lr'])
        for group, factor in zip(state.optimizer.param_groups, self.lr_factors):
            group['lr'] = learning_rate * factor
        return learning_rate

    def micro_batches(self, sample: dict) -> Iterator[tuple[dict, contextlib.AbstractContextManager]]:
        """This process's share of a batch in `accumulate` parts, on the device, each with the context to compute it in.

        As many parts in every process, since they exchange sums in each; in the smallest batches some are empty.
        """
        batch = self.state.iteration
        largest = -(-self.sampler.batch_samples(batch) // self.world.size)
        count = min(self.parts, largest)
        samples = self.sampler.share(batch)
        parts = zip(*(value[:samples].tensor_split(count) for value in sample.values()))
        for number, values in enumerate(parts, 1):
            # gradients travel once, after the last part
            last = self.world.size == 1 or number == count
            waiting = contextlib.nullcontext() if last else self.network.no_sync()  # type: ignore[operator]
            yield {key: value.to(self.state.device, non_blocking=True) for key, value in zip(sample, values)}, waiting

    def part_loss(self, part: dict) -> Tensor:
        """The loss of a micro-batch: the sum over its numbers, divided by the numbers of the whole batch."""
        lr = part['inp'].contiguous(memory_format=self.memory_format)                # (b, 3, H, W)
        with torch.autocast(lr.device.type, self.dtype, enabled=self.dtype != torch.float32):
            prediction = self.network(lr, part['coord'], part['cell'])               # (b, Q, 3)
        normalise = self.state.model.normalise_rgb
        values = self.loss(normalise(prediction.float()), normalise(part['gt']))     # (b, Q, 3)
        if values.shape != part['gt'].shape:
            raise SpecError(f"loss: expected the loss of every number, of shape {tuple(part['gt'].shape)}, got "
                            f'{tuple(values.shape)}')
        return values.sum() / (self.sampler.batch_samples(self.state.iteration) * part['gt'].shape[1:].numel())

    def checks_loss(self, iteration: int) -> bool:
        """Whether the loss of this iteration of the epoch, from 1, is checked before it changes the weights."""
        return self.state.device.type == 'cpu' or iteration % CHECK_EVERY == 0


def discard_gradients(model: nn.Module, condition: Tensor) -> None:
    """Zeroes all gradients if the scalar bool `condition`, on their device, is true; does not wait for the device.

    So a loss that is not finite leaves the weights usable until it is found by the next check.
    """
    for parameter in trainable(model):
        if parameter.grad is not None:
            parameter.grad.masked_fill_(condition, 0)
