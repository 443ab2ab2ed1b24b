"""The moving average of the weights: by hand, in validation, in files, and resumed bit for bit."""
import copy

import pytest
import torch
from lab import BATCHES, after_step, differences, one_error_line, scalars
from torch import nn

import datasets
import models
from engine.evaluation.evaluate import evaluate
from engine.tools.export import export
from engine.training.ema import MovingAverage
from engine.training.trainer import Trainer

EMA = {'ema_decay': 0.75}


def weights(lab, name: str = 'run', file: str = 'epoch-last.pth') -> dict:
    return lab.loaded(name, file)['model']['sd']


def test_average_by_hand():
    """Three updates; batch norm's statistics are averaged too, its count is copied, the original is left alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = MovingAverage(model, decay=0.75)
    expected = {key: value.double() for key, value in model.state_dict().items()}
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model(torch.randn(2, 3, 5, 5))
        before = copy.deepcopy(model.state_dict())
        average.update(model)
        assert differences(before, model.state_dict()) == []
        expected = {key: 0.75 * value + 0.25 * before[key].double() for key, value in expected.items()}
    result = average.model.state_dict()
    assert result.pop('1.num_batches_tracked') == 3 and expected.pop('1.num_batches_tracked') != 3
    for key, value in result.items():
        assert (value - expected[key]).abs().max() < 1e-6, key
    assert (result['1.running_mean'] - model[1].running_mean).abs().max() > 1e-3
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_files_hold_the_average_and_the_weights_to_resume_from(lab):
    """model.sd follows the weights after every step, `raw` are those after the last; training itself is what it was."""
    assert lab.train('plain').status == 0
    trainer = lab.trainer('start', **EMA)
    expected = {key: value.double() for key, value in trainer.state.model.state_dict().items() if value.is_floating_point()}
    original = Trainer.train_step

    def step(trainer, sample):
        update = original(trainer, sample)
        for key, value in trainer.state.model.state_dict().items():
            if key in expected:
                expected[key] = 0.75 * expected[key] + 0.25 * value.double()
        return update
    with lab.monkeypatch.context() as patch:
        patch.setattr(Trainer, 'train_step', step)
        done = lab.train('run', **EMA)
    assert done.status == 0 and 'validation measures the moving average of the weights, ema_decay 0.75' in done.out
    plain, run = lab.loaded('plain'), lab.loaded('run')
    assert set(run) - set(plain) == {'raw'} and 'raw' in lab.loaded('run', 'epoch-best.pth')
    assert differences(plain['model']['sd'], run['raw']) == []
    for key, value in expected.items():
        assert (run['model']['sd'][key] - value).abs().max() < 1e-6, key
    assert any((run['raw'][key] - value).abs().max() > 1e-4 for key, value in expected.items())


def test_the_average_is_validated_and_exported(lab):
    """Curves and `best` are the scores of what models.load reads, and what an export holds."""
    assert lab.train('run', **EMA).status == 0
    dataset = datasets.make(lab.config['val_dataset'], lab.folder / 'data')
    curves = scalars(lab.save('run'))
    means = []
    for epoch in (1, 2):
        rows = evaluate(models.load(lab.save('run', f'epoch-{epoch}.pth')), dataset, torch.device('cpu'))
        for row in rows:
            step, score = curves[f'val/psnr_x{row["scale"]:g}'][epoch - 1]
            assert (step, score) == (epoch * BATCHES, pytest.approx(row['psnr'], abs=1e-4))
        means.append(sum(row['psnr'] for row in rows) / 2)
    assert lab.loaded('run')['best'] == pytest.approx(max(means), abs=1e-4)
    content = lab.loaded('run')
    content['model']['sd'] = content['raw']
    torch.save(content, lab.folder / 'raw.pth')
    raw = evaluate(models.load(lab.folder / 'raw.pth'), dataset, torch.device('cpu'))
    assert abs(raw[0]['psnr'] - curves['val/psnr_x2'][-1][1]) > 1e-3
    export(lab.save('run', 'epoch-last.pth'), lab.folder / 'out.pth')
    exported = torch.load(lab.folder / 'out.pth', weights_only=True)
    assert 'raw' not in exported and differences(dict(exported['model']['sd']), dict(weights(lab))) == []


@pytest.mark.parametrize('step', [2, BATCHES, pytest.param(BATCHES + 1, marks=pytest.mark.slow)])
def test_resumed_is_the_same_run(lab, step):
    assert lab.train('whole', **EMA).status == 0
    with after_step(lab.monkeypatch, step, lambda trainer: trainer.request_stop(0, None)):
        assert lab.train('parts', **EMA).status == 130
    assert lab.train('parts', '-resume', 'auto', **EMA).status == 0
    for file in ('epoch-last.pth', 'epoch-best.pth'):
        assert differences(lab.loaded('whole', file), lab.loaded('parts', file)) == []
    assert scalars(lab.save('parts')) == scalars(lab.save('whole'))


def test_switched_off_the_run_goes_on_from_its_own_weights(lab):
    assert lab.train('plain').status == 0
    assert lab.train('run', epoch_max=1, **EMA).status == 0
    done = lab.train('run', '-resume', 'auto')
    assert done.status == 0 and 'ema_decay 0.75 → none' in done.out
    assert 'raw' not in lab.loaded('run') and differences(weights(lab, 'plain'), weights(lab)) == []


@pytest.mark.slow
def test_switched_on_the_average_starts_from_the_weights(lab):
    assert lab.train('run', epoch_max=1).status == 0
    before = weights(lab)
    with after_step(lab.monkeypatch, 1, lambda trainer: trainer.request_stop(0, None)):
        assert lab.train('run', '-resume', 'auto', **EMA).status == 130
    for key, value in lab.loaded('run')['raw'].items():
        if value.is_floating_point():
            assert torch.allclose(weights(lab)[key], 0.75 * before[key] + 0.25 * value, atol=1e-6), key


def test_the_second_stage_starts_from_the_average(lab):
    """Before its first iteration it scores as the first stage did; its own average starts there."""
    assert lab.train('first', **EMA).status == 0
    model = {'name': 'msit', 'args': {**lab.config['model']['args'], 'reparam': 'rim'}}
    done = lab.train('second', '-pretrain', lab.save('first', 'epoch-last.pth'), model=model, epoch_max=1, **EMA)
    assert done.status == 0
    first, second = scalars(lab.save('first')), scalars(lab.save('second'))
    for curve in ('val/psnr_x2', 'val/psnr_x3'):
        assert second[curve][0] == (2 * BATCHES, pytest.approx(first[curve][-1][1], abs=1e-6))


@pytest.mark.parametrize('decay', [0, 1, 1.5, -0.1, True, '0.9', [0.9]])
def test_wrong_decays_are_refused(lab, decay):
    done = lab.train('run', ema_decay=decay)
    assert done.status == 2 and one_error_line(done, 'ema_decay: expected a number above 0 and below 1')
    assert not lab.save('run').exists()


def test_damaged_weights_to_resume_from_are_refused(lab):
    assert lab.train('run', epoch_max=1, **EMA).status == 0
    for raw, message in ((3, 'raw'), ({}, 'missing')):
        torch.save({**lab.loaded('run'), 'raw': raw}, lab.folder / 'other.pth')
        done = lab.train('new', '-resume', 'other.pth', **EMA)
        assert done.status == 2 and one_error_line(done, 'error: other.pth', message) and not lab.save('new').exists()
