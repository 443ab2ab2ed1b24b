"""Losses by name: their values by hand, chosen by the config, and what a new one needs."""
import copy
import math
from pathlib import Path

import pytest
import torch
from lab import one_error_line, scalars
from torch import Tensor

from engine.training import losses
from engine.training.losses import LOSSES, Loss, register

SGD = {'optimizer': {'name': 'sgd', 'args': {'lr': 0.5}}, 'lr_schedule': None}
VALUES = {  # of differences 0, 0.3 and -0.4
    'l1': ({}, [0, 0.3, 0.4]),
    'l2': ({}, [0, 0.09, 0.16]),
    'charbonnier': ({'eps': 0.4}, [0.4, 0.5, math.sqrt(0.32)]),
}


@pytest.mark.parametrize('name', VALUES)
def test_values_by_hand(name):
    args, expected = VALUES[name]
    target = torch.tensor([[[0.1, 0.2, 0.5]]], dtype=torch.float64)
    prediction = torch.tensor([[[0.1, 0.5, 0.1]]], dtype=torch.float64)
    loss = LOSSES.make({'name': name, 'args': args}, 'loss')
    assert loss(prediction, target).squeeze().tolist() == pytest.approx(expected, abs=1e-12)
    assert loss(target, prediction).squeeze().tolist() == pytest.approx(expected, abs=1e-12)


def test_gradients_at_zero():
    """L1's is zero by convention; Charbonnier's is x / √(x² + ε²), and finite everywhere."""
    for name, slope in (('l1', 1.0), ('charbonnier', 0.5 / math.sqrt(0.25 + 1e-6)), ('l2', 1.0)):
        prediction = torch.tensor([[[0.0, 0.5, -0.5]]], dtype=torch.float64, requires_grad=True)
        LOSSES.make({'name': name}, 'loss')(prediction, torch.zeros(1, 1, 3, dtype=torch.float64)).sum().backward()
        assert prediction.grad.squeeze().tolist() == pytest.approx([0, slope, -slope], abs=1e-12)


def test_every_file_is_a_loss():
    files = {file.stem for file in Path(losses.__file__).parent.glob('*.py')} - {'__init__', 'registry'}
    assert files == set(VALUES) and files <= set(LOSSES.entries)


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('spec, function', [
    ({'name': 'l2'}, lambda d: d ** 2),
    ({'name': 'charbonnier', 'args': {'eps': 0.1}}, lambda d: (d ** 2 + 0.01) ** 0.5),
], ids=['l2', 'charbonnier'])
def test_the_config_chooses_the_loss(lab, spec, function, accumulate):
    """The first point of the curve is the mean over the batch of the function of differences in units of 0.5."""
    trainer = lab.trainer(loss=spec, accumulate=accumulate, **SGD)
    trainer.sampler.set_position(0, 0)
    sample = next(iter(trainer.loader))
    model = copy.deepcopy(trainer.state.model).train()
    parts = [slice(0, 1), slice(1, 2)] if accumulate == 2 else [slice(0, 2)]  # batch norm sees a part at a time
    differences = [(model(*(sample[key][part] for key in ('inp', 'coord', 'cell'))) - sample['gt'][part]) / 0.5
                   for part in parts]
    expected = function(torch.cat(differences)).sum().item() / (2 * 16 * 3)            # batch, queries, channels
    trainer.train()
    assert scalars(lab.save('direct'))['train/loss'][0] == (1, pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize('spec, message', [
    ({'name': 'charbonier'}, "loss.name: unknown loss 'charbonier'; did you mean 'charbonnier'?"),
    ({'name': 'charbonnier', 'args': {'epsilon': 1}}, "loss.args.epsilon: loss 'charbonnier' has no such argument"),
    ({'name': 'charbonnier', 'args': {'eps': 0}}, 'expected eps > 0, got 0'),
    ({'name': 'l1', 'args': {'eps': 1}}, 'loss.args.eps'),
], ids=['name', 'argument', 'value', 'no arguments'])
def test_wrong_losses_are_refused(lab, spec, message):
    done = lab.train('run', loss=spec)
    assert done.status == 2 and one_error_line(done, 'tiny.yaml', message) and not lab.save('run').exists()


def test_a_loss_that_has_a_mean_already_is_refused(lab):
    """It would be divided by the numbers of the batch a second time."""
    @register('mean-l1')
    def mean_l1() -> Loss:
        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            return (prediction - target).abs().mean()
        return loss
    try:
        done = lab.train('run', loss={'name': 'mean-l1'})
        assert done.status == 2 and one_error_line(done, 'loss: expected the loss of every number, of shape (2, 16, 3)')
    finally:
        del LOSSES.entries['mean-l1']
