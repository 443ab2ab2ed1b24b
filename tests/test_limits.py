"""Numbers without bounds, networks without bounds, and damaged or foreign tensors are refused in one line, and fast."""
import os
import time

import pytest
import torch
from config_files import change, refusal
from helpers import message

import models
from common.ranges import AtMost
from datasets.sampling import DrawSampler
from engine.config import TRAIN_KEYS, load_config
from engine.training.schedule import OPTIMIZERS
from models.checkpoint import read_checkpoint
from models.registries import MODELS
from utils import RunError

ENCODER = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'no_upsampling': True}}
MSIT = {'name': 'msit', 'args': {'encoder_spec': ENCODER, 'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [8]}},
                                 'base_dim': 8, 'heads': 2, 'msc_convs': 2, 'mssa_projections': 2,
                                 'pb_spec': {'name': 'posenc', 'args': {'enc_dims': 8}}}}
HUGE = (10 ** 9 + 1, 10 ** 400, -10 ** 30)
NOT_FINITE = (float('inf'), float('nan'))


@pytest.mark.parametrize(('limit', 'value', 'problem'), [
    (AtMost(5), 5, None), (AtMost(5), -5, None), (AtMost(5), [1, [2.5], {'a': 5}], None), (AtMost(5), 'text', None),
    (AtMost(5), True, None), (AtMost(5), None, None), (AtMost(5), 6, 'expected a number of at most 5, got 6'),
    (AtMost(5), [1, [6]], 'expected a number of at most 5, got 6'), (AtMost(5), -5.5, 'at most 5, got -5.5'),
    (AtMost(5), float('nan'), 'expected a finite number, got nan'), (AtMost(5), {'a': float('inf')}, 'got inf'),
    (AtMost(5, length=2), [1, 2, 3], 'expected at most 2 values, got 3'),
    (AtMost(), 10 ** 9, None), (AtMost(), 10 ** 9 + 1, 'at most 1,000,000,000'),
    pytest.param(AtMost(), 10 ** 5000, 'too many digits', id='digits')])
def test_limits_by_hand(limit, value, problem):
    found = limit.problem(value)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize('path', [
    'train_dataset.batch_size', 'train_dataset.epoch_batches', 'train_dataset.num_workers', 'clip_grad', 'accumulate',
    'epoch_max', 'epoch_val', 'epoch_save', 'save_every', 'train_dataset.dataset.args.repeat', 'lr_factors.encoder',
    'train_dataset.dataset.args.first_k', 'train_dataset.wrapper.args.inp_size', 'train_dataset.wrapper.args.scale_max',
    'train_dataset.wrapper.args.sample_q', 'model.args.base_dim', 'model.args.heads', 'model.args.radius',
    'model.args.encoder_spec.args.n_resblocks', 'model.args.encoder_spec.args.n_feats', 'optimizer.args.lr',
    'model.args.encoder_spec.args.res_scale', 'model.args.imnet_spec.args.hidden_list', 'optimizer.args.weight_decay',
    'data_norm.inp.sub'])
def test_every_number_of_a_config_has_a_range(tmp_path, train_config, path):
    if path.startswith('lr_factors'):
        train_config = change(train_config, 'lr_factors', {'encoder': 1})
    for value in (*HUGE, *NOT_FINITE):
        wrong = change(train_config, path, [value] if path.endswith(('list', 'sub')) else value)
        start = time.perf_counter()
        refused = refusal(tmp_path, wrong)
        assert refused.startswith(path) and len(refused) < 300 and time.perf_counter() - start < 5, refused


@pytest.mark.parametrize(('key', 'value'), [('lr', 10 ** 12), ('betas', [0.9, 10 ** 12]), ('eps', float('nan'))])
def test_arguments_that_torch_annotates(key, value):
    refused = message(OPTIMIZERS.check, {'name': 'adam', 'args': {key: value}}, 'optimizer')
    assert refused.startswith(f'optimizer.args.{key}: ')


@pytest.mark.parametrize(('images', 'batch', 'batches'), [(10 ** 9, 1, None), (4, 65_536, 10 ** 7), (10 ** 9, 1, 1)])
def test_an_epoch_that_no_memory_holds(images, batch, batches):
    assert 'expected at most 134,217,728' in message(DrawSampler, range(images), batch, batches, 0)


# networks

@pytest.mark.parametrize('args', [
    {'n_resblocks': 512, 'n_feats': 4096}, {'n_resblocks': 100, 'n_feats': 2048}])
def test_a_network_of_absurd_size_takes_no_memory(args):
    """(9·F² + F) numbers in each of 2·N + 1 convolutions, F = 2048 and N = 100: 7.6·10⁹."""
    start = time.perf_counter()
    refused = message(models.make, {'name': 'edsr-baseline', 'args': args})
    assert refused.startswith('model: this network has ') and refused.endswith('expected at most 2,147,483,648')
    assert time.perf_counter() - start < 10


def test_a_small_file_of_a_large_network(tmp_path):
    """base_dim 4096 would be built in 10 GB; its file has the tensors of base_dim 8."""
    state = models.make(MSIT).state_dict()
    path = tmp_path / 'small.pth'
    torch.save({'model': {**change(MSIT, 'args.base_dim', 4096), 'sd': state}}, path)
    assert 'of another shape' in message(models.load, path)


def test_the_check_of_the_size_draws_no_random_numbers():
    torch.manual_seed(0)
    made = models.make(MSIT).state_dict()
    torch.manual_seed(0)
    direct = MODELS.make(MSIT).state_dict()
    assert all(torch.equal(made[key], direct[key]) for key in direct)


# tensors and numbers in files

def damaged(tmp_path, change_state, **content):
    """A checkpoint file of MSIT after `change_state` on its state."""
    torch.manual_seed(0)
    state = dict(models.make(MSIT).state_dict())
    change_state(state)
    path = tmp_path / 'damaged.pth'
    torch.save({'model': {**MSIT, 'sd': state}, **content}, path)
    return path


WEIGHT, STRIDE = 'encoder.head.0.weight', 'msno.fem.stride'


@pytest.mark.parametrize('key', [WEIGHT, STRIDE, 'imnet.layers.0.bias'])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e300])
def test_weights_that_are_not_finite(tmp_path, key, value):
    def poison(state):
        state[key] = state[key].double()
        state[key].view(-1)[-1] = value
    assert f'{key} holds values that are not finite' in message(models.load, damaged(tmp_path, poison))


@pytest.mark.parametrize('value', [1e5, 1e9, 1e30])
def test_an_absurd_stride(tmp_path, value):
    assert 'would depend on' in message(models.load, damaged(tmp_path, lambda state: state.update({
        STRIDE: torch.full_like(state[STRIDE], value)})))


@pytest.mark.parametrize('make', [
    lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), lambda w: w.to_sparse(), lambda w: w.to(torch.complex64),
    lambda w: w.to('meta'), lambda w: torch.nested.nested_tensor([w[0], w[1]]), lambda w: w.flatten(1).to_sparse_csr(),
    lambda w: torch.nested.nested_tensor([w[0], w[1]], layout=torch.jagged), lambda w: w.tolist(), lambda w: None,
    lambda w: w.to(torch.float8_e4m3fn), lambda w: 'text', lambda w: w[:1].expand(10 ** 9, -1, -1, -1)])
@pytest.mark.filterwarnings('ignore')
def test_foreign_tensors(tmp_path, make):
    path = damaged(tmp_path, lambda state: state.update({WEIGHT: make(state[WEIGHT])}))
    refused = message(models.load, path)
    assert refused.startswith(str(path)) and len(refused) < 500


@pytest.mark.parametrize('value', [1e300, -1e300, 10 ** 400, float('nan'), 0, True, '1', None, [1], 1e-30])
def test_absurd_normalisation(tmp_path, value):
    norm = {'inp': {'sub': [0.5], 'div': [value]}, 'gt': {'sub': [0.5], 'div': [0.5]}}
    path = damaged(tmp_path, lambda state: None, data_norm=norm)
    refused = message(models.load, path)
    assert refused.startswith(f'{path}: data_norm.inp.div: expected') and len(refused) < 500


def test_an_output_that_is_not_finite_is_no_image(tmp_path):
    """Finite weights of 10³⁸ overflow in the first sum."""
    path = damaged(tmp_path, lambda state: state.update({WEIGHT: torch.full_like(state[WEIGHT], 1e38)}))
    model = models.load(path)
    assert 'output is not finite' in message(model.upscale, torch.ones(1, 3, 6, 6), (9, 9), kind=RunError)


# names and values that no file has

@pytest.mark.parametrize('name', ['a\0b', 'n' * 5000, 'loop', 'loop/x'])
@pytest.mark.parametrize('use', [models.load, lambda path: load_config(path, TRAIN_KEYS)], ids=['model', 'config'])
def test_names_that_cannot_be_opened(tmp_path, name, use):
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    refused = message(use, f'{tmp_path}/{name}')
    assert 'cannot be opened' in refused and len(refused) < 200


@pytest.mark.parametrize('name', ['a\\0b', 'n' * 5000])
def test_bases_that_cannot_be_opened(tmp_path, name):
    path = tmp_path / 'config.yaml'
    path.write_text(f'base: "{name}"')
    assert 'cannot be opened' in message(load_config, path, TRAIN_KEYS)


@pytest.mark.parametrize('value', [
    '!!bool "maybe"', '!!int "x"', '!!float "x"', '!!timestamp "x"', '!!binary "x"', '!!omap {a: 1}', '!!null 3',
    '!!set [1]', '!!python/object:os.system {}', '2026-13-01'])
def test_values_that_are_not_of_their_tag(tmp_path, train_config, value):
    path = tmp_path / 'config.yaml'
    path.write_text(f'seed: {value}')
    assert message(load_config, path, TRAIN_KEYS).startswith(f'{path}: ')


# protocols of pickle

@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_intact_files_of_every_protocol_open(tmp_path, protocol):
    made, path, note = models.make(MSIT), tmp_path / 'file.pth', ['torch', 'x' * 300, (1, 2.5, None, True), 2 ** 70]
    torch.save({'model': {**MSIT, 'sd': made.state_dict()}, 'note': note}, path, pickle_protocol=protocol)
    loaded = models.load(path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in made.state_dict().items())
    assert read_checkpoint(path)['note'] == note


class Stranger:
    """Runs a command when a pickle of it is opened without care."""

    def __reduce__(self):
        return os.mkdir, ('opened',)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_no_protocol_runs_code(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    torch.save({'model': {**MSIT, 'sd': {}}, 'x': Stranger()}, 'file.pth', pickle_protocol=protocol)
    assert 'carries more than tensors' in message(models.load, 'file.pth')
    assert not (tmp_path / 'opened').exists()
