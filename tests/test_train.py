"""train.py: what a run writes, exact resuming, one training step by hand, refusals, and every shipped config."""
import copy
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lab import (
    BATCHES,
    after_step,
    checkpoints_of,
    differences,
    epoch_lines,
    hashes,
    one_error_line,
    scalars,
    slow_except,
)
from PIL import Image
from recipes import Recipe, recipes

import engine.training.state
import models
import train
from common.cli import run
from engine.config import TRAIN_KEYS, load_config
from engine.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent


# what a run writes

def test_run_writes_its_folder(lab):
    done = lab.train('run')
    assert (done.status, done.err) == (0, '')
    assert {path.name for path in lab.save('run').iterdir()} == {
        'config.yaml', 'log.txt', 'tensorboard', 'epoch-last.pth', 'epoch-best.pth', 'epoch-1.pth', 'epoch-2.pth'}
    assert load_config(lab.save('run', 'config.yaml'), TRAIN_KEYS) == load_config(lab.folder / 'tiny.yaml', TRAIN_KEYS)
    log = lab.save('run', 'log.txt').read_text()
    assert [line[20:] for line in log.splitlines()] == done.out.splitlines()
    # the cosine at 2 of 4
    assert re.search(r'epoch 2/2: loss 0\.\d{4}, learning rate 5\.00e-04, PSNR ×2 \d+\.\d{3}, ×3 \d+\.\d{3}', log)
    curves = scalars(lab.save('run'))
    assert set(curves) == {'train/loss', 'train/lr', 'train/lowered_scales', 'train/msno.fem.stride',
                           'val/psnr_x2', 'val/psnr_x3', 'val/dead_channels'}
    assert [step for step, _ in curves['train/loss']] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in curves['val/psnr_x2']] == [step for step, _ in curves['val/psnr_x3']] == [3, 6]
    mean = np.mean([value for _, value in curves['train/loss'][3:]])
    assert f'epoch 2/2: loss {mean:.4f}' in log
    assert f'×3 {curves["val/psnr_x3"][1][1]:.3f}' in log


def test_base_is_resolved_in_the_run_folder(lab):
    lab.write_config()
    (lab.folder / 'child.yaml').write_text('base: tiny.yaml\nepoch_max: 1\nmodel: {args: {reparam: rim}}\n')
    lab.monkeypatch.setattr(sys, 'argv', ['train.py', '--config', 'child.yaml', '--device', 'cpu'])
    run(train.main)
    resolved = yaml.safe_load(lab.save('child', 'config.yaml').read_text())
    expected = copy.deepcopy({**lab.config, 'epoch_max': 1})
    expected['model']['args']['reparam'] = 'rim'
    assert resolved == expected


@pytest.mark.parametrize('file', ['epoch-last.pth', 'epoch-best.pth', 'epoch-1.pth'])
def test_checkpoints_give_working_models(lab, file):
    lab.train('run')
    content = lab.loaded('run', file)
    assert content['model']['name'] == 'msit' and content['model']['args'] == lab.config['model']['args']
    fresh = models.make(lab.config['model'])
    fresh.load_state_dict(content['model']['sd'])
    lr = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    upscaled = models.load(lab.save('run', file)).upscale(lr, (16, 23))
    assert upscaled.shape == (1, 3, 16, 23)
    assert torch.allclose(upscaled, fresh.eval().upscale(lr, (16, 23)), atol=1e-6)


def test_saved_epochs_differ_and_count(lab):
    lab.train('run', epoch_max=3, epoch_save=2)
    assert not lab.save('run', 'epoch-1.pth').exists() and not lab.save('run', 'epoch-3.pth').exists()
    second, last = lab.loaded('run', 'epoch-2.pth'), lab.loaded('run')
    assert (second['epoch'], last['epoch'], last['batch']) == (2, 3, 0)
    assert differences(second['model']['sd'], last['model']['sd'])
    assert {int(state['step']) for state in second['optimizer']['sd']['state'].values()} == {2 * BATCHES}


def test_best_is_the_epoch_of_the_highest_mean(lab):
    scores = iter([{2: 20.0, 3: 30.0}, {2: 27.0, 3: 25.0}, {2: 31.0, 3: 20.0}, {2: 25.9, 3: 26.0}])
    lab.monkeypatch.setattr(Trainer, 'validate', lambda trainer: next(scores))
    lab.train('run', epoch_max=3)
    assert (lab.loaded('run', 'epoch-best.pth')['epoch'], lab.loaded('run', 'epoch-best.pth')['best']) == (2, 26.0)
    assert lab.train('run', '-resume', 'auto', epoch_max=4).status == 0
    assert lab.loaded('run', 'epoch-best.pth')['epoch'] == 2 and lab.loaded('run')['best'] == 26.0


def test_validates_every_epoch_val_and_at_the_end(lab):
    validated = []
    lab.monkeypatch.setattr(Trainer, 'validate', lambda trainer: validated.append(trainer.state.epoch) or {2: 1.0})
    lab.train('run', epoch_max=5, epoch_val=2)
    assert validated == [2, 4, 5]


def test_without_validation(lab):
    assert lab.train('run', val_dataset=None, epoch_save=None).status == 0
    assert {path.name for path in lab.save('run').glob('*.pth')} == {'epoch-last.pth'}


# resuming

@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_after_an_epoch_is_the_same_run(lab, workers):
    common = {'train_dataset': lab.with_workers(workers)}
    assert lab.train('whole', **common).status == 0
    assert lab.train('parts', epoch_max=1, **common).status == 0
    assert lab.loaded('parts')['epoch'] == 1
    done = lab.train('parts', '-resume', 'auto', **common)
    assert done.status == 0 and 'after epoch 1, iteration 0; changed since: epoch_max' in done.out
    assert differences(lab.loaded('whole'), lab.loaded('parts')) == []
    assert epoch_lines(lab.save('parts', 'log.txt')) == [
        epoch_lines(lab.save('whole', 'log.txt'))[0].replace('1/2', '1/1'), epoch_lines(lab.save('whole', 'log.txt'))[1]]


def test_workers_change_nothing(lab):
    lab.train('none')
    lab.train('two', train_dataset=lab.with_workers(2))
    none, two = lab.loaded('none'), lab.loaded('two')
    for content in (none, two):
        content.pop('config')
    assert differences(none, two) == []


@pytest.mark.parametrize('step, workers, number', slow_except(
    [(1, 0, signal.SIGINT), (BATCHES, 0, signal.SIGTERM), (BATCHES + 2, 2, signal.SIGTERM)],
    itertools.product([1, BATCHES, BATCHES + 2], [0, 2], [signal.SIGINT, signal.SIGTERM])))
def test_stopped_by_a_signal_is_the_same_run(lab, number, workers, step):
    """Step 1 is amid the first epoch, step 3 its last one, step 5 amid the second."""
    common = {'train_dataset': lab.with_workers(workers), 'epoch_max': 3}
    assert lab.train('whole', **common).status == 0
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with after_step(lab.monkeypatch, step, lambda trainer: os.kill(os.getpid(), number)):
        done = lab.train('parts', **common)
    assert done.status == 130 and one_error_line(done, 'interrupted', 'save/parts/epoch-last.pth', '-resume auto')
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    stopped = lab.loaded('parts')
    assert stopped['epoch'] * BATCHES + stopped['batch'] == step

    assert lab.train('parts', '-resume', 'auto', **common).status == 0
    whole, parts = lab.loaded('whole'), lab.loaded('parts')
    assert differences(whole, parts) == []
    assert epoch_lines(lab.save('parts', 'log.txt')) == epoch_lines(lab.save('whole', 'log.txt'))
    assert scalars(lab.save('parts')) == scalars(lab.save('whole'))


def test_second_signal_stops_at_once(lab):
    def twice(trainer):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert lab.train('run', epoch_max=1).status == 0
    before = hashes(lab.save('run'))['epoch-last.pth']
    with after_step(lab.monkeypatch, 2, twice):
        done = lab.train('run', '-resume', 'auto', epoch_max=3)
    assert done.status == 130 and one_error_line(done, 'interrupted')
    assert hashes(lab.save('run'))['epoch-last.pth'] == before


STRUCK = '''
import os, signal, sys
root, action = sys.argv.pop(1), sys.argv.pop(1)
sys.path.insert(0, root)
import train
from common.cli import run
from engine.training.trainer import Trainer
original, done = Trainer.train_step, []
def step(trainer, sample):
    done.append(original(trainer, sample))
    if len(done) == 5:
        exec(action)
    return done[-1]
Trainer.train_step = step
run(train.main)
'''


def train_struck(lab, name: str, action: str) -> subprocess.CompletedProcess:
    """Runs train.py on lab's last config in a separate process group, which does `action` after the fifth step."""
    command = [sys.executable, '-W', 'ignore', '-c', STRUCK, str(ROOT), action,
               '-config', 'tiny.yaml', '-name', name, '-device', 'cpu']
    return subprocess.run(command, cwd=lab.folder, capture_output=True, text=True, timeout=120, start_new_session=True)


@pytest.mark.parametrize('number', slow_except(['SIGTERM'], ['SIGINT', 'SIGTERM']))
@pytest.mark.slow
def test_signal_to_the_whole_group(lab, number):
    """Terminals and batch systems signal the data loader's workers too: the step is finished and saved all the same."""
    lab.write_config(train_dataset={**lab.with_workers(2), 'epoch_batches': 40})
    struck = train_struck(lab, 'run', f'os.killpg(0, signal.{number}); import time; time.sleep(0.5)')
    assert struck.returncode == 130
    assert struck.stderr == 'interrupted: saved save/run/epoch-last.pth; continue with -resume auto\n'
    assert lab.loaded('run')['batch'] == 5


@pytest.mark.slow
def test_killed_run_continues_from_its_last_checkpoint(lab):
    assert lab.train('whole', epoch_max=3).status == 0
    killed = train_struck(lab, 'killed', 'os.kill(os.getpid(), signal.SIGKILL)')
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, '')
    assert lab.loaded('killed')['epoch'] == 1
    assert lab.train('killed', '-resume', 'auto', epoch_max=3).status == 0
    assert differences(lab.loaded('whole'), lab.loaded('killed')) == []
    assert not list(lab.save('killed').glob('.*'))


@pytest.mark.parametrize('reparam', ['rim', 'refconv'])
def test_second_stage_starts_at_the_validation_of_the_first(lab, reparam):
    """Before its first iteration stage 2 scores as stage 1 did, and its curves go on where those of stage 1 ended."""
    assert lab.train('first').status == 0
    first = scalars(lab.save('first'))
    model = {'name': 'msit', 'args': {**lab.config['model']['args'], 'reparam': reparam}}
    done = lab.train('second', '-pretrain', lab.save('first', 'epoch-last.pth'), model=model)
    assert done.status == 0 and ('10 start afresh' if reparam == 'rim' else ' 5 start afresh') in done.out
    second = scalars(lab.save('second'))
    for curve in ('val/psnr_x2', 'val/psnr_x3'):
        step, value = first[curve][-1]
        assert second[curve][0][0] == step == 2 * BATCHES
        assert second[curve][0][1] == pytest.approx(value, abs=1e-6)
    assert [step for step, _ in second['train/loss']] == list(range(2 * BATCHES + 1, 4 * BATCHES + 1))
    assert lab.loaded('second')['global_batch'] == 4 * BATCHES and lab.loaded('second')['epoch'] == 2
    before = hashes(lab.folder)
    refused = lab.train('third', '-pretrain', lab.save('second', 'epoch-last.pth'), model=model)
    assert refused.status == 2 and one_error_line(refused, f'second-stage file (reparam: {reparam})')
    assert hashes(lab.folder) == before


def test_resume_auto_with_nothing_starts_afresh(lab):
    assert lab.train('plain').status == 0
    done = lab.train('fresh', '-resume', 'auto')
    assert done.status == 0 and 'resumed' not in done.out
    assert differences(lab.loaded('plain'), lab.loaded('fresh')) == []


def test_resume_from_a_named_file(lab):
    assert lab.train('a').status == 0
    before = hashes(lab.save('a'))
    done = lab.train('b', '--resume', lab.save('a', 'epoch-1.pth'))
    assert done.status == 0 and 'epoch-1.pth after epoch 1, iteration 0\n' in done.out
    assert differences(lab.loaded('a'), lab.loaded('b')) == []
    assert hashes(lab.save('a')) == before and not lab.save('b', 'epoch-1.pth').exists()


def test_resuming_a_finished_run_changes_no_weights(lab):
    assert lab.train('run').status == 0
    before = hashes(lab.save('run'))
    assert lab.train('run', '-resume', 'auto').status == 0
    assert checkpoints_of(hashes(lab.save('run'))) == checkpoints_of(before)


def test_changed_keys_are_named_in_the_log(lab):
    lab.train('run')
    lab.train('run', '-resume', 'auto', epoch_max=3, clip_grad=0.5, lr_schedule=None)
    line = next(line for line in lab.save('run', 'log.txt').read_text().splitlines() if 'resumed' in line)
    assert re.search(
        r'after epoch 2, iteration 0; changed since: clip_grad none → 0\.5, epoch_max 2 → 3, '
        r'lr_schedule \{args: \{cosine: 4, start_lr: 0\.0.*… → none\Z', line)
    lab.train('run', '-resume', 'auto', epoch_max=3, clip_grad=0.5, lr_schedule=None)
    assert lab.save('run', 'log.txt').read_text().splitlines()[-2].endswith('after epoch 3, iteration 0')


# refusals

def test_existing_run_is_refused(lab):
    assert lab.train('run').status == 0
    before = hashes(lab.folder / 'save')
    done = lab.train('run')
    assert done.status == 2 and one_error_line(done, 'error: save/run', '-resume auto')
    assert hashes(lab.folder / 'save') == before


def drop(*keys):
    def edit(content: dict) -> None:
        for key in keys:
            content.pop(key)
    return edit


@pytest.mark.parametrize('edit', [
    drop('optimizer'),
    drop('epoch', 'batch', 'best', 'loss_sum', 'lowered', 'random_state', 'config', 'optimizer'),
    drop('batch'),
    drop('random_state'),
    drop('config'),
    lambda content: content.update(optimizer=None),
    lambda content: content['optimizer'].pop('sd'),
    lambda content: content['model']['sd'].pop('widen.weight'),
    lambda content: content.update(random_state={'torch': 3}),
], ids=['no optimizer', 'weights only', 'no batch', 'no random state', 'no config', 'optimizer None', 'no optimizer state',
        'tensor missing', 'bad random state'])
def test_file_that_holds_no_run_is_refused(lab, edit):
    lab.train('run', epoch_max=1)
    content = lab.loaded('run')
    edit(content)
    torch.save(content, lab.folder / 'other.pth')
    done = lab.train('new', '-resume', 'other.pth')
    assert done.status == 2 and one_error_line(done, 'error: other.pth')
    assert not lab.save('new').exists()


def test_missing_file_to_resume_is_refused(lab):
    done = lab.train('new', '-resume', 'nowhere.pth')
    assert done.status == 2 and one_error_line(done, 'error: nowhere.pth')
    assert not (lab.folder / 'save').exists()


@pytest.mark.parametrize('changes', [
    {'optimizer': {'name': 'sgd', 'args': {'lr': 0.1}}},
    {'model': {'name': 'edsr-baseline', 'args': {}}},
], ids=['optimizer', 'model'])
def test_run_of_another_kind_is_not_continued(lab, changes):
    lab.train('run', epoch_max=1)
    before = hashes(lab.save('run'))
    done = lab.train('run', '-resume', 'auto', **changes)
    assert done.status == 2 and one_error_line(done, 'save/run/epoch-last.pth')
    assert hashes(lab.save('run')) == before


@pytest.mark.parametrize('problem', [{'crop': 4}, {'lr_path': 'nowhere'}], ids=['crop', 'lr_path'])
def test_unusable_validation_set_is_found_before_training(lab, problem):
    """An image too small for its protocol, or a missing folder of LR images, must not cost an epoch."""
    args = {'name': 'V', 'protocol': 'benchmark', 'scales': [2], **problem}
    done = lab.train('run', val_dataset={**lab.config['val_dataset'], 'wrapper': {'name': 'sr-evaluation', 'args': args}})
    assert done.status == 2 and one_error_line(done)
    assert not lab.save('run').exists()


# one step by hand

NORM = {'inp': {'sub': [0.4], 'div': [0.5]}, 'gt': {'sub': [0.4, 0.45, 0.5], 'div': [0.25, 0.5, 1.0]}}
SGD = {'optimizer': {'name': 'sgd', 'args': {'lr': 0.5}}, 'lr_schedule': None, 'data_norm': NORM}


def first_batch(trainer: Trainer) -> dict:
    trainer.sampler.set_position(0, 0)
    return next(iter(trainer.loader))


def loss_by_hand(trainer: Trainer, sample: dict) -> tuple[torch.nn.Module, torch.Tensor]:
    """A copy of the model, and the mean absolute difference of (x − sub) / div on the batch."""
    model = copy.deepcopy(trainer.state.model).train()
    prediction = model(sample['inp'], sample['coord'], sample['cell'])
    sub, div = torch.tensor(NORM['gt']['sub']), torch.tensor(NORM['gt']['div'])
    difference = (prediction - sub) / div - (sample['gt'] - sub) / div
    return model, difference.abs().sum() / (2 * 16 * 3)                              # batch, queries, channels


def test_loss_is_l1_on_normalised_rgb(lab):
    trainer = lab.trainer(**SGD)
    _, expected = loss_by_hand(trainer, first_batch(trainer))
    trainer.train()
    curve = scalars(lab.save('direct'))['train/loss']
    assert curve[0] == (1, pytest.approx(expected.item(), rel=1e-5))


@pytest.mark.parametrize('clip', [None, 0.01, 1e6], ids=['unclipped', 'clipped', 'limit not reached'])
def test_sgd_update(lab, clip):
    """w ← w − lr·g, with g scaled to the norm of clip_grad where it is longer."""
    trainer = lab.trainer(**SGD, clip_grad=clip)
    sample = first_batch(trainer)
    model, loss = loss_by_hand(trainer, sample)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
    assert 0.02 < norm < 1e5
    factor = clip / norm if clip == 0.01 else 1.0
    expected = [p.detach() - 0.5 * factor * g for p, g in zip(model.parameters(), gradients)]
    trainer.state.model.train()
    value, learning_rate = trainer.train_step(sample)
    assert (value, learning_rate) == (pytest.approx(loss.item(), rel=1e-5), 0.5)
    moved = 0.0
    for old, new, right in zip(model.parameters(), trainer.state.model.parameters(), expected):
        assert torch.allclose(new, right, atol=1e-6, rtol=1e-5)
        moved += (new - old).square().sum().item()
    assert math.sqrt(moved) == pytest.approx(0.5 * factor * norm, rel=2e-3)


@pytest.mark.parametrize('unit, expected', [
    ('batch', [2e-4, 6e-4, 1e-3, 1e-3, 8.535534e-4, 5e-4, 1.464466e-4, 0, 0]),
    ('epoch', [2e-4] * 3 + [6e-4] * 3 + [1e-3] * 3),
])
def test_learning_rate_of_each_step_follows_the_schedule(lab, unit, expected):
    """Warm-up from 2e-4 to 1e-3 in 2 units, a cosine over 4; a stop in between must not move it."""
    used = []
    original = torch.optim.Adam.step
    lab.monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: used.append(self.param_groups[0]['lr']) or original(self))
    schedule = {'name': 'warmup-cosine', 'args': {'start_lr': 2e-4, 'warmup': 2, 'cosine': 4, 'unit': unit}}
    with after_step(lab.monkeypatch, 4, lambda trainer: trainer.request_stop(0, None)):
        assert lab.train('run', epoch_max=3, lr_schedule=schedule).status == 130
    assert lab.train('run', '-resume', 'auto', epoch_max=3, lr_schedule=schedule).status == 0
    assert used == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert [value for _, value in scalars(lab.save('run'))['train/lr']] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_parts_of_the_network_have_separate_learning_rates(lab):
    """Also after a stop, and with another factor then; another part would meet the wrong moments and is refused."""
    used = []
    original = torch.optim.Adam.step
    lab.monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: original(self) or used.append(
        {group['lr']: sum(p.numel() for p in group['params']) for group in self.param_groups}))
    assert lab.train('run', epoch_max=1, lr_schedule=None, lr_factors={'imnet': 3}).status == 0
    assert lab.train('run', '-resume', 'auto', epoch_max=2, lr_schedule=None, lr_factors={'imnet': 0.5}).status == 0
    base = lab.config['optimizer']['args']['lr']
    width, hidden = 9 * 16 + 2, 16                                                   # K²·C values and the cell
    decoder = (width + 1) * hidden + (hidden + 1) * 3
    assert len(used) == 2 * BATCHES
    for number, groups in enumerate(used):
        (rest, others), (factored, count) = groups.items()
        assert (rest, factored) == pytest.approx((base, base * (3 if number < BATCHES else 0.5))) and count == decoder
        assert others + count == sum(p.numel() for p in models.make(lab.config['model']).parameters())
    assert [value for _, value in scalars(lab.save('run'))['train/lr']] == pytest.approx([base] * 2 * BATCHES)
    done = lab.train('run', '-resume', 'auto', epoch_max=3, lr_schedule=None, lr_factors={'mssa': 3})
    assert done.status == 2 and one_error_line(done, 'lr_factors of [imnet], but the config has [mssa]')


# non-finite losses

def test_exploding_learning_rate_stops_the_run(lab):
    assert lab.train('run', epoch_max=1, lr_schedule=None).status == 0
    before = hashes(lab.save('run'))
    done = lab.train('run', '-resume', 'auto', lr_schedule=None, optimizer={'name': 'adam', 'args': {'lr': 1e4}})
    assert done.status == 1 and one_error_line(done, 'loss', 'epoch 2, iteration 2')
    assert checkpoints_of(hashes(lab.save('run'))) == checkpoints_of(before)


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_loss_that_is_no_number_names_epoch_and_iteration(lab, value):
    with after_step(lab.monkeypatch, 4, lambda trainer: trainer.state.model.imnet.layers[-1].register_forward_hook(
            lambda module, inputs, output: output * value)):
        done = lab.train('run')
    assert done.status == 1 and one_error_line(done, str(value), 'epoch 2, iteration 2')
    assert lab.loaded('run')['epoch'] == 1
    assert lab.train('run', '-resume', 'auto').status == 0
    assert lab.train('whole').status == 0
    assert differences(lab.loaded('whole'), lab.loaded('run')) == []


def test_weights_that_blew_up_are_not_saved(lab):
    """The update of an epoch's last iteration can ruin the weights although its loss was finite."""
    assert lab.train('run', epoch_max=1).status == 0
    before = hashes(lab.save('run'))['epoch-last.pth']

    def ruin(trainer):
        for parameter in trainer.state.model.parameters():
            parameter.data.fill_(math.nan)
    with after_step(lab.monkeypatch, BATCHES, ruin):
        done = lab.train('run', '-resume', 'auto', epoch_max=3)
    assert done.status == 1 and one_error_line(done, 'epoch 2')
    assert hashes(lab.save('run'))['epoch-last.pth'] == before


# data

@pytest.mark.slow
def test_damaged_training_image_is_named_in_one_line(lab):
    file = lab.folder / 'data/images/2.jpg'                                      # its header stays readable
    with Image.open(file.with_suffix('.png')) as image:
        image.save(file)
    file.write_bytes(file.read_bytes()[:-800])
    file.with_suffix('.png').unlink()
    for workers in (0, 2):
        done = lab.train(f'run{workers}', train_dataset=lab.with_workers(workers))
        assert done.status == 2 and one_error_line(done, 'error: ', 'images/2.jpg')
        assert 'Traceback' not in done.err
    lab.config['train_dataset']['dataset']['args']['cache'] = 'mapped'               # then it is found before the run begins
    done = lab.train('mapped')
    assert done.status == 2 and one_error_line(done, 'error: ', 'images/2.jpg') and not lab.save('mapped').exists()


# the shipped configs

RECIPES = {path.stem: Recipe(f'configs/{folder}/{path.name}') for folder in ('train', 'zoo')
           for path in sorted((ROOT / 'configs' / folder).glob('*.yaml'))}
RECIPES |= {f'{Path(page).stem}-{name}': recipe for page in ('docs/ablations.md', 'docs/stage2.md', 'docs/training.md',
                                                             'modelzoo/README.md')
            for name, recipe in recipes(page).items()}
SHIPPED = {  # trainable parameters
    'train_edsr_baseline_MsIT': 8_123_980,
    'train_edsr_baseline_MsIT_rim': 6_047_308,
    'train_rdn_baseline_MsIT': 28_877_516,
    'train_rdn_baseline_MsIT_rim': 26_800_844,
    'train_msit_s': 634_488,
    'msit_m': 1_502_036,
    'train_edsr_baseline_x2': 1_369_859,
    'train_edsr_baseline_x3': 1_554_499,
    'train_edsr_baseline_x4': 1_517_571,
    'train_rdn_baseline_x2': 22_123_395,
    'train_rdn_baseline_x3': 22_308_035,
    'train_rdn_baseline_x4': 22_271_107,
    'train_edsr_baseline_metasr': 1_665_536,
    'train_rdn_baseline_metasr': 22_419_072,
    'train_edsr_baseline_liif': 1_567_299,
    'train_rdn_baseline_liif': 22_320_835,
    'train_edsr_baseline_ultrasr': 1_617_625,
    'train_rdn_baseline_ultrasr': 22_371_161,
    'train_edsr_baseline_ipe': 1_576_515,
    'train_rdn_baseline_ipe': 22_330_051,
}


def test_named_configs_are_shipped():
    assert RECIPES.keys() >= SHIPPED.keys()


# one of every kind; the others are larger, or differ by a number
QUICK = {name for name in RECIPES if name.endswith('_s') or name.startswith('train_edsr_')}
QUICK -= {'train_edsr_baseline_clit_2', 'train_edsr_baseline_clit_3', 'train_edsr_baseline_MsIT_rim_fast', 'msit_s'}
QUICK |= {'train_msit_s_rim', 'train_rdn_baseline_MsIT', 'ablations-conventional-attention', 'ablations-refconv'}


@pytest.mark.parametrize('name', slow_except(QUICK, RECIPES))
def test_shipped_config_takes_a_step(lab, name):
    """Model, optimiser and schedule as shipped; data, sizes and lengths shrunk. Nothing big is written."""
    config = RECIPES[name].config()
    spec = config['train_dataset']
    scale = 2
    if spec['dataset']['name'] == 'paired-image-folders':  # of a network with one scale
        scale, = config['val_dataset']['wrapper']['args']['scales']
        lr = lab.folder / 'data/lr'
        lr.mkdir()
        for file in (lab.folder / 'data/images').iterdir():
            with Image.open(file) as image:
                image.resize([side // scale for side in image.size]).save(lr / file.name)
        spec['dataset']['args'] = {'root_path_1': 'lr', 'root_path_2': 'images'}
    else:
        spec['dataset'] = {'name': 'image-folder', 'args': {'root_path': 'images'}}
    spec['wrapper']['args'].update(inp_size=6, sample_q=16)
    spec.update(batch_size=2, epoch_batches=1, num_workers=0)
    if 'val_dataset' in config:
        config['val_dataset']['dataset'] = {'name': 'image-folder', 'args': {'root_path': 'images', 'first_k': 1}}
        config['val_dataset']['wrapper']['args'].update(scales=[scale], crop=24)
    config['epoch_max'] = 1
    config.pop('compile', None)  # takes a minute

    saved = []
    lab.monkeypatch.setattr(engine.training.state, 'save_checkpoint', lambda path, *args, **state: saved.append(path.name))
    path = lab.folder / 'shrunk.yaml'
    path.write_text(yaml.safe_dump(config))
    trainer = Trainer(config=load_config(path, TRAIN_KEYS), folder=lab.save('run'), data_root=lab.folder / 'data',
                      device=torch.device('cpu'))
    trainer.train()
    assert len(scalars(lab.save('run'))[f'val/psnr_x{scale}']) == 1
    parameters = [p for p in trainer.state.model.parameters() if p.requires_grad]
    if name in SHIPPED:
        assert sum(p.numel() for p in parameters) == SHIPPED[name]
    reached = [p for p in parameters if p.grad is not None]
    assert len(reached) == len(parameters) or 'cascade' in spec['wrapper']['args']  # the scale may not need all cascades
    assert all(int(trainer.state.optimizer.state[p]['step']) == 1 and p.grad.isfinite().all() for p in reached)
    assert any(p.grad.abs().sum() > 0 for p in reached)
    assert trainer.state.epoch == 1
    assert saved == ['epoch-last.pth', 'epoch-best.pth'][:1 + ('val_dataset' in config)]
