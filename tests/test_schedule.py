"""Learning-rate schedules against the learning rates that the paper's program gives, and by hand."""
import math
from pathlib import Path

import pytest
import torch
from recipes import Recipe, recipes

from engine.config import TRAIN_KEYS, load_config
from engine.training.schedule import SCHEDULES, parameter_groups
from utils import UserError

CONFIGS = Path(__file__).resolve().parent.parent / 'configs' / 'train'
SMALL = {path.stem: Recipe(f'configs/{path.parent.name}/{path.name}')
         for pattern in ('train_msit_s*', 'train_*_s', '../zoo/*') for path in sorted(CONFIGS.glob(f'{pattern}.yaml'))}
SMALL |= {f'{Path(page).stem}-{name}': recipe for page in ('docs/stage2.md', 'modelzoo/README.md')
          for name, recipe in recipes(page).items()}


def make(**args):
    return SCHEDULES.make({'name': 'warmup-cosine', 'args': args}, 'lr_schedule')


def of_config(name: str | Path):
    """The schedule of a shipped config, and its base learning rate."""
    config = load_config(CONFIGS / name, TRAIN_KEYS)
    return SCHEDULES.make(config['lr_schedule'], 'lr_schedule'), config['optimizer']['args']['lr']


@pytest.mark.parametrize(('epoch', 'printed'), [
    (1, '1.00e-05'), (2, '1.18e-05'), (25, '5.32e-05'), (50, '9.82e-05'), (51, '1.00e-04'), (301, '8.55e-05'),
    (551, '5.0e-05'), (1001, '6.4e-07')])
def test_rates_of_the_paper(epoch, printed):
    """Epochs counted from 1; the iteration within the epoch does not matter."""
    schedule, base = of_config('train_edsr_baseline_MsIT.yaml')
    digits = len(printed.split('e')[0]) - 2
    for iteration in (0, 999):
        assert f'{schedule(epoch - 1, (epoch - 1) * 1000 + iteration, base):.{digits}e}' == printed


def test_every_epoch_of_the_paper():
    """Straight line, then a cosine that starts one epoch after the base: worked out for all 1050 epochs."""
    schedule, base = of_config('train_edsr_baseline_MsIT.yaml')
    line = [1e-5 + (1e-4 - 1e-5) * done / 50 for done in range(51)]                  # epochs 1 to 51
    cosine = [5e-5 * (1 + math.cos(math.pi * step / 1000)) for step in range(999)]   # epochs 52 to 1050
    assert [schedule(epoch, 0, base) for epoch in range(1050)] == pytest.approx(line + cosine, rel=1e-12)


def test_all_faithful_configs_share_the_schedule():
    expected, base = of_config('train_edsr_baseline_MsIT.yaml')
    for name in ('train_edsr_baseline_MsIT_rim.yaml', 'train_rdn_baseline_MsIT.yaml', 'train_rdn_baseline_MsIT_rim.yaml'):
        schedule, same_base = of_config(name)
        assert same_base == base == 1e-4
        assert [schedule(e, 0, base) for e in (0, 1, 300, 1000)] == [expected(e, 0, base) for e in (0, 1, 300, 1000)]


def test_unit_batch_counts_batches_and_not_epochs():
    schedule, base = of_config('train_msit_s.yaml')  # 300 iterations of warm-up from 0, then 10,700 of cosine to 0
    expected = {0: 0, 150: 5e-4, 300: 1e-3, 301: 1e-3, 301 + 5350: 5e-4, 301 + 10700: 0}
    for epoch in (0, 21):
        assert {iteration: schedule(epoch, iteration, base) for iteration in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('name', SMALL)
def test_small_configs_end_with_their_schedule(name):
    """Each has exactly as many iterations as its schedule: the last learning rates are nearly zero."""
    config = SMALL[name].config()
    batches = config['epoch_max'] * config['train_dataset']['epoch_batches']
    args = config['lr_schedule']['args']
    assert args['unit'] == 'batch' and batches == args['warmup'] + args['cosine']
    base = config['optimizer']['args']['lr']
    schedule = SCHEDULES.make(config['lr_schedule'], 'lr_schedule')
    assert 0 < schedule(0, batches - 1, base) < 1e-3 * base


@pytest.mark.parametrize('unit', ['epoch', 'batch'])
def test_reaches_zero_and_stays_there(unit):
    schedule = make(warmup=3, cosine=4, start_lr=0.1, unit=unit)
    # 0.1, 0.4, 0.7 rise to 1; the cosine passes (1 ± cos 45°) / 2 and 1/2
    half = math.sqrt(0.5) / 2
    expected = [0.1, 0.4, 0.7, 1, 1, 0.5 + half, 0.5, 0.5 - half, 0, 0, 0]
    rates = [schedule(i, 999, 1.0) if unit == 'epoch' else schedule(999, i, 1.0) for i in range(11)]
    assert rates == pytest.approx(expected, abs=1e-12)
    far = schedule(10 ** 6, 10 ** 6, 1.0)
    assert min([*rates, far]) >= 0 and far == pytest.approx(0, abs=1e-12)


def test_without_warmup_starts_at_the_base_rate():
    schedule = make(warmup=0, cosine=2, start_lr=0.5)
    assert [schedule(i, 0, 3.0) for i in range(4)] == pytest.approx([3, 3, 1.5, 0])


def test_constant():
    schedule = SCHEDULES.make({'name': 'constant'}, 'lr_schedule')
    assert [schedule(epoch, iteration, 3e-4) for epoch, iteration in ((0, 0), (7, 9), (10 ** 5, 10 ** 8))] == [3e-4] * 3


def test_steps_of_liif():
    """Halved after epochs 200, 400, 600 and 800, of 1000; the iteration within the epoch does not matter."""
    for name in ('train_edsr_baseline_liif.yaml', 'train_rdn_baseline_liif.yaml', 'train_edsr_baseline_metasr.yaml'):
        schedule, base = of_config(name)
        expected = {0: 1e-4, 199: 1e-4, 200: 5e-5, 399: 5e-5, 400: 2.5e-5, 600: 1.25e-5, 799: 1.25e-5, 800: 6.25e-6}
        for iteration in (0, 999):
            rates = {epoch: schedule(epoch, 1000 * epoch + iteration, base) for epoch in expected}
            assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(('milestones', 'gamma', 'epochs', 'rates'), [
    ([1], 0.1, 3, [1, 0.1, 0.1]), ([], 0.5, 2, [1, 1]), ([1, 2], 2, 4, [1, 2, 4, 4])])
def test_multistep(milestones, gamma, epochs, rates):
    schedule = SCHEDULES.make({'name': 'multistep', 'args': {'milestones': milestones, 'gamma': gamma}}, 'lr_schedule')
    assert [schedule(epoch, 0, 1.0) for epoch in range(epochs)] == pytest.approx(rates)


@pytest.mark.parametrize('args', [
    {'milestones': [2, 1]}, {'milestones': [1, 1]}, {'milestones': [0, 1]}, {'milestones': [1], 'gamma': 0}])
def test_bad_steps(args):
    with pytest.raises(UserError, match=r'lr_schedule\.args.*expected rising milestones from 1 on and gamma > 0'):
        SCHEDULES.make({'name': 'multistep', 'args': args}, 'lr_schedule')


@pytest.mark.parametrize(('args', 'message'), [
    ({'warmup': 50, 'cosine': 1000, 'unit': 'step'}, "'step', expected one of epoch, batch"),
    ({'warmup': -1, 'cosine': 1000}, 'warmup >= 0'), ({'warmup': 50, 'cosine': 0}, 'cosine >= 1'),
    ({'warmup': 50, 'cosine': 1000, 'start_lr': -1e-5}, 'start_lr'),
    ({'warmup': 50, 'cosine': 1000, 'start_lr': 'a'}, 'start_lr'),
])
def test_bad_values(args, message):
    with pytest.raises(UserError) as error:
        make(**args)
    assert str(error.value).startswith('lr_schedule.args') and message in str(error.value)


# learning rates of parts of a network

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 3)
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3, bias=False))
        self.bodyguard = torch.nn.Parameter(torch.zeros(1))
        self.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)


def groups_of(network: Network, **factors) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [[names[id(parameter)] for parameter in group['params']] for group in parameter_groups(network, factors)]


def test_parameters_by_the_factor_of_their_rate():
    """Whole parts of names count, the first name that fits wins, what is frozen is in no group."""
    network = Network()
    body = ['body.0.weight', 'body.0.bias', 'body.1.weight']
    rest = ['bodyguard', 'head.weight', 'head.bias']
    assert groups_of(network) == [rest + body]
    assert groups_of(network, body=2) == [rest, body]
    assert groups_of(network, **{'body.0': 3, 'body': 2}) == [rest, body[:2], body[2:]]


@pytest.mark.parametrize(('factors', 'message'), [
    ({'bod': 2}, "lr_factors.bod: no parameter is trained by it; did you mean 'body'?"),
    ({'frozen': 2}, 'lr_factors.frozen: no parameter is trained by it'),
    ({'body': 2, 'body.1': 3}, 'lr_factors.body.1: no parameter is trained by it')])
def test_factor_of_nothing(factors, message):
    with pytest.raises(UserError) as error:
        parameter_groups(Network(), factors)
    assert str(error.value).startswith(message)
