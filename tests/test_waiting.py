"""Nothing in a training step waits for a GPU, but the check of the loss in every tenth iteration.

A GPU says so itself (`torch.cuda.set_sync_debug_mode`). Without one, two runs count what would wait:

- A step on fake tensors of a GPU, which have devices and shapes but no values: uploads, forward, loss, optimiser, average.
  It sees every copy between the devices, and every number or size that depends on values. PyTorch runs no backward there.
- Forward and backward on the CPU, which see the same numbers and sizes, but no copies.

Neither sees the kernels of Triton, NCCL, or what PyTorch's CUDA code does by itself.
"""
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models
from benchmarks.steps import make_step, noise_batch, step_of
from engine.distributed import ALONE
from engine.training.build import build_loader
from engine.training.step import CHECK_EVERY

GPU = torch.device('cuda', 0)
CPU = torch.device('cpu')
# operators whose results, or the sizes of these, the host has to know
KNOWN_BY_HOST = {'_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive',
                 'unique_dim_consecutive', 'bincount', 'equal'}


class Waits(TorchDispatchMode):
    """Lists the operators for which the host waits for a device. `device`: whose values the host does not know."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.found = device, []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name, kwargs = operator.name().split('::')[1].split('.')[0], kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.device.type == self.device.type for tensor in tensors)
        masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
        if on_device and (name in KNOWN_BY_HOST or (name in ('index', 'index_put_') and masks)
                          or (name == 'repeat_interleave' and kwargs.get('output_size') is None)):
            self.found.append(name)
        if name == '_local_scalar_dense' and self.device == GPU:
            return 1.0  # fake tensors have no values
        result = operator(*args, **kwargs)
        kinds = {leaf.device.type for leaf in tree_leaves((tensors, result)) if isinstance(leaf, Tensor)}
        waits = not kwargs.get('non_blocking') or result.device.type == 'cpu'
        if name in ('_to_copy', 'copy_') and len(kinds) > 1 and waits:
            self.found.append(f'{name} {tensors[-1].device.type} → {result.device.type}')
        return result


@pytest.fixture(params=['stage 1', 'everything'])
def config(request, train_config):
    """A config, and one with every switch whose work is on the device."""
    train_config |= {'fused': False, 'epoch_max': 1}
    if request.param == 'everything':
        train_config |= {'ema_decay': 0.9, 'accumulate': 2, 'channels_last': True}
        train_config['model']['args']['reparam'] = 'rim'
    else:
        del train_config['clip_grad']
    return train_config


def put_on_fake_gpu(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The same network with fake tensors of a GPU, in place."""
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(mode.from_tensor(tensor).detach().to(GPU), tensor.requires_grad))
        for name, tensor in [*module.named_buffers(recurse=False)]:
            setattr(module, name, mode.from_tensor(tensor).to(GPU))
    return model


def without_backward(loss: Tensor, *_, **__) -> None:
    """In the place of `Tensor.backward`: every parameter that the loss depends on gets a gradient."""
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
        if hasattr(node, 'variable'):
            node.variable.grad = torch.zeros_like(node.variable)


@pytest.mark.slow
def test_a_step_on_a_fake_gpu_waits_only_to_check_the_loss(config, monkeypatch):
    monkeypatch.setattr(Tensor, 'backward', without_backward)
    model = models.make(config['model']).use_kernels(False)
    sample = noise_batch(config, CPU, 2)
    waits = []
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        step = step_of(put_on_fake_gpu(model, mode), config, GPU, 2)
        for _ in range(CHECK_EVERY):
            with Waits(GPU) as found:
                step({key: mode.from_tensor(value) for key, value in sample.items()})
            waits.append(found.found)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert waits == [[]] * (CHECK_EVERY - 1) + [['_local_scalar_dense']]


def test_forward_and_backward_wait_for_no_values(config):
    step, sample = make_step(config, CPU, 2)
    with Waits(CPU) as found:
        for part, _ in step.micro_batches(sample):
            step.part_loss(part).backward()
    assert found.found == []
    assert all(parameter.grad is not None for parameter in step.state.model.parameters() if parameter.requires_grad)


WAITING = {
    'a number': (lambda x: x.sum().item(), ['_local_scalar_dense']),
    'a branch': (lambda x: bool(x.sum() > 0), ['_local_scalar_dense']),
    'a list': (lambda x: x.tolist(), ['_local_scalar_dense'] * 3),
    'a copy': (lambda x: x.cpu(), ['_to_copy cuda → cpu']),
    'an upload': (lambda x: x + torch.ones(3).to(GPU), ['_to_copy cpu → cuda']),
    'a copy into a tensor': (lambda x: x.copy_(torch.ones(3)), ['copy_ cpu → cuda']),
    'a mask': (lambda x: x.index_put_((x > 0,), x.new_zeros(())), ['index_put_']),
    'nothing': (lambda x: torch.where(x > 0, x, 0).sum() + torch.ones(3).to(GPU, non_blocking=True), [])}


@pytest.mark.parametrize('what', WAITING)
def test_what_waits_is_seen(what):
    function, expected = WAITING[what]
    with FakeTensorMode():
        x = torch.ones(3, device=GPU)
        with Waits(GPU) as waits:
            function(x)
    assert waits.found == expected


def test_batches_for_a_gpu_are_pinned(lab):
    for device in (GPU, CPU):
        loader, _ = build_loader(lab.config, lab.folder / 'data', device, ALONE)
        assert loader.pin_memory == (device == GPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_a_step_on_a_gpu_waits_only_to_check_the_loss(config):
    step, sample = make_step(config, GPU, 2)
    step(sample)  # warms up
    try:
        torch.cuda.set_sync_debug_mode('error')
        for _ in range(CHECK_EVERY - 2):
            step(sample)
        with pytest.raises(RuntimeError, match='synchronizing'):
            step(sample)
    finally:
        torch.cuda.set_sync_debug_mode('default')
