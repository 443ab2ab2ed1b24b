"""Precision, accumulation, compilation and TF32: what each switch of a config changes, and what it must not."""
import argparse
import math

import pytest
import torch
from lab import after_step, differences
from torch import nn

from common.cli import choose_device
from engine.training.trainer import Trainer
from models.layers import PositionalBias, sample_bilinear
from utils import UserError

SGD = {'optimizer': {'name': 'sgd', 'args': {'lr': 0.1}}, 'lr_schedule': None}
HALVES = ('bfloat16', 'float16')


def first_batch(trainer: Trainer) -> dict:
    trainer.sampler.set_position(0, 0)
    return next(iter(trainer.loader))


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trainer.state.model.named_parameters() if p.requires_grad}


# precision

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_positional_bias_keeps_its_digits(dtype):
    """Frequencies up to 1023 times offsets of some 7 units: in half precision the angles would be arbitrary."""
    torch.manual_seed(0)
    bias = PositionalBias(heads=2)
    delta = torch.rand(1, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 14 - 7
    expected = torch.stack(bias(delta, -delta))
    with torch.autocast('cpu', dtype=dtype):
        assert torch.equal(torch.stack(bias(delta, -delta)), expected) and expected.dtype == torch.float32
    halved = torch.stack(bias.to(dtype)(delta, -delta))  # the weights are rounded, the frequencies are not
    assert halved.dtype == torch.float32
    assert 0 < (halved - expected).abs().max() < 64 * torch.finfo(dtype).eps / 8


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_maps_in_half_precision_are_sampled_at_exact_places(dtype):
    """A ramp 0, 1, 2, … of 48 pixels reads as the position itself: pixel units of a coordinate c are 24·c + 23.5."""
    ramp = torch.arange(48, dtype=dtype).view(1, 1, 1, 48).expand(1, 1, 3, 48)
    x = torch.tensor([-0.501, 0.1234, 0.3003, 0.7777], dtype=torch.float64)
    coord = torch.stack([torch.zeros_like(x), x], -1).unsqueeze(0)
    for padding in ('zeros', 'border'):
        samples = sample_bilinear(ramp, coord, padding)
        assert samples.dtype == torch.float32
        assert samples[0, :, 0].tolist() == pytest.approx((24 * x + 23.5).tolist(), abs=1e-4)


@pytest.mark.parametrize('precision', HALVES)
def test_half_precision_is_in_force_where_it_belongs(lab, precision):
    """Convolutions and products; not the bias, nor the prediction, loss, gradients, weights and checkpoint."""
    dtype, seen = getattr(torch, precision), {}
    trainer = lab.trainer(precision=precision, **SGD)

    def watch(name):
        def hook(module, inputs, output):
            seen[name] = (output[0] if isinstance(output, tuple) else output).dtype
        return hook
    for name in ('widen', 'msno.msc.convs.1', 'mssa.position_bias', 'imnet.layers.2', ''):
        trainer.state.model.get_submodule(name).register_forward_hook(watch(name or 'prediction'))
    trainer.state.model.train()
    loss, _ = trainer.train_step(first_batch(trainer))
    assert seen == {'widen': dtype, 'msno.msc.convs.1': dtype, 'imnet.layers.2': dtype, 'mssa.position_bias': torch.float32,
                    'prediction': torch.float32}
    assert loss.dtype == torch.float32
    parameters = list(trainer.state.model.parameters())
    assert {p.dtype for p in parameters} == {g.dtype for g in gradients(trainer).values()} == {torch.float32}

    exact = lab.trainer('exact', **SGD)
    exact.state.model.train()
    right, _ = exact.train_step(first_batch(exact))
    assert loss.item() == pytest.approx(right.item(), rel=2e-2) and loss.item() != right.item()


@pytest.mark.parametrize('precision', HALVES)
def test_resumed_in_half_precision_is_the_same_run(lab, precision):
    assert lab.train('whole', precision=precision).status == 0
    with after_step(lab.monkeypatch, 4, lambda trainer: trainer.request_stop(0, None)):
        assert lab.train('parts', precision=precision).status == 130
    assert lab.train('parts', '-resume', 'auto', precision=precision).status == 0
    assert differences(lab.loaded('whole'), lab.loaded('parts')) == []
    scaler = lab.loaded('whole')['scaler']
    assert scaler == {} if precision == 'bfloat16' else scaler['_growth_tracker'] == 6
    assert all(value.dtype != getattr(torch, precision) for value in lab.loaded('whole')['model']['sd'].values())


def test_scaler_skips_updates_that_overflow_and_its_state_is_resumed(lab):
    """An infinite gradient halves the scale and moves nothing; the loss itself is finite, and the run goes on."""
    trainer = lab.trainer('run', precision='float16', **SGD)
    weights = [p.detach().clone() for p in trainer.state.model.parameters()]
    hook = trainer.state.model.widen.weight.register_hook(lambda gradient: gradient * math.inf)
    trainer.state.model.train()
    trainer.train_step(first_batch(trainer))
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.state.model.parameters()))
    assert trainer.state.scaler.get_scale() == 2 ** 15
    hook.remove()
    trainer.train_step(first_batch(trainer))
    assert not all(torch.equal(a, b) for a, b in zip(weights, trainer.state.model.parameters()))
    trainer.save('epoch-last.pth')
    resumed = lab.trainer('other', resume=lab.save('run', 'epoch-last.pth'), precision='float16', **SGD)
    assert resumed.state.scaler.state_dict() == trainer.state.scaler.state_dict()
    assert resumed.state.scaler.get_scale() == 2 ** 15


def test_gradients_are_clipped_at_their_own_length(lab):
    """Not at that of the scaled ones: a limit that they do not reach leaves them."""
    free = lab.trainer('free', precision='float16', **SGD)
    clipped = lab.trainer('clipped', precision='float16', clip_grad=1e3, **SGD)
    for trainer in (free, clipped):
        trainer.state.model.train()
        trainer.train_step(first_batch(trainer))
    assert differences(free.state.model.state_dict(), clipped.state.model.state_dict()) == []


def test_precision_may_change_between_stop_and_resume(lab):
    for number, (precision, before) in enumerate([('float16', None), ('float32', 'float16'), ('float16', 'float32')], 1):
        done = lab.train('run', '-resume', 'auto', epoch_max=number, precision=precision)
        assert done.status == 0 and (before is None or f'precision {before} → {precision}' in done.out)
    assert lab.loaded('run')['scaler']['_growth_tracker'] == 3


def test_a_checkpoint_without_a_scaler_is_continued(lab):
    """Such as those written before there was one."""
    assert lab.train('run', epoch_max=1).status == 0
    content = lab.loaded('run')
    content.pop('scaler')
    torch.save(content, lab.save('run', 'epoch-last.pth'))
    assert lab.train('run', '-resume', 'auto').status == 0 and lab.train('whole').status == 0
    assert differences(lab.loaded('run'), lab.loaded('whole')) == []


# accumulation

@pytest.mark.parametrize('count', [2, 3, 4, 7])
def test_accumulated_gradient_is_that_of_the_batch(lab, count):
    """To rounding, also where the parts are of different sizes or more than the samples; batch norm in evaluation mode."""
    data = {**lab.config['train_dataset'], 'batch_size': 4}
    results = []
    for accumulate in (1, count):
        trainer = lab.trainer(f'run{accumulate}', train_dataset=data, accumulate=accumulate, **SGD)
        sizes, model = [], trainer.state.model
        model.widen.register_forward_hook(lambda module, inputs, output, sizes=sizes: sizes.append(len(output)))
        model.eval()
        loss, _ = trainer.train_step(first_batch(trainer))
        results.append((loss.item(), gradients(trainer), model.state_dict()))
        assert sizes == {1: [4], 2: [2, 2], 3: [2, 1, 1], 4: [1] * 4, 7: [1] * 4}[accumulate]
    (loss, whole, weights), (other_loss, parts, other_weights) = results
    assert other_loss == pytest.approx(loss, rel=1e-6)
    largest = max(gradient.abs().max() for gradient in whole.values())
    assert all((parts[name] - gradient).abs().max() < 1e-5 * largest for name, gradient in whole.items())
    assert all((other_weights[name].double() - value.double()).abs().max() < 1e-6 for name, value in weights.items())


def test_accumulating_run_resumes(lab):
    assert lab.train('whole', accumulate=2).status == 0
    with after_step(lab.monkeypatch, 4, lambda trainer: trainer.request_stop(0, None)):
        assert lab.train('parts', accumulate=2).status == 130
    assert lab.train('parts', '-resume', 'auto', accumulate=2).status == 0
    assert differences(lab.loaded('whole'), lab.loaded('parts')) == []


# compilation and TF32

@pytest.mark.slow
def test_compiled_run_writes_plain_checkpoints(lab):
    """The compiler's front end alone, which needs no C++: the same numbers, the same names, resumed without it."""
    compiled, compiler = [], torch.compile

    def front_end(network):
        compiled.append(network)
        return compiler(network, backend='eager')
    assert lab.train('plain').status == 0
    lab.monkeypatch.setattr(torch, 'compile', front_end)
    assert lab.train('compiled', compile=True, epoch_max=1).status == 0
    assert len(compiled) == 1 and isinstance(compiled[0], nn.Module)
    assert lab.train('compiled', '-resume', 'auto').status == 0 and len(compiled) == 1
    assert differences(lab.loaded('plain'), lab.loaded('compiled')) == []


@pytest.fixture
def device(monkeypatch):
    """choose_device on a machine with two GPUs; afterwards the flags are as before."""
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)

    def choose(device=None, gpu=None, **settings):
        return choose_device(argparse.Namespace(device=device, gpu=gpu), **settings)
    yield choose
    for flag, value in zip(flags, before):
        flag.allow_tf32 = value


@pytest.mark.parametrize('tf32', [False, True])
def test_tf32(device, tf32):
    device(tf32=tf32)
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is tf32
    device()
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is False


def test_tf32_is_asked_for_by_the_config(lab, device):
    lab.monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert lab.train('run', tf32=True, epoch_max=1).status == 0
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is True


def test_each_process_has_its_gpu(device):
    assert device(local_rank=1) == device(local_rank=1, device='cuda') == torch.device('cuda:1')
    assert device(local_rank=1, device='cpu') == torch.device('cpu')
    with pytest.raises(UserError, match='has 2 GPUs'):
        device(local_rank=2)
    for wrong in ({'gpu': 0}, {'device': 'cuda:1'}, {'device': 'xpu'}):
        with pytest.raises(UserError, match='leave -gpu out'):
            device(local_rank=0, **wrong)


def test_each_process_has_the_cpu_where_there_is_no_gpu(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert device(local_rank=1) == torch.device('cpu')
