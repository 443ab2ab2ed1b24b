"""-set and -print-config: keys of a config changed on the command line, and the config that comes of it."""
import copy
import re

import pytest
from config_files import CONFIGS, REMOVED, change, write
from helpers import call

import test
import train
from engine.config import SUITE_KEYS, TEST_KEYS, TRAIN_KEYS, load_config
from utils import UserError


def test_set_changes_what_a_file_with_this_base_would(tmp_path, train_config):
    overrides = ('optimizer.args.lr=2e-4', 'train_dataset.batch_size=8', 'tf32=true',
                 'val_dataset.wrapper.args.scales=[2, 3.5]', 'lr_factors={mssa.position_bias: 100, imnet: 2}',
                 'model.args.reparam=rim', 'epoch_save=7',
                 'train_dataset.dataset.args.root_path=a=b')
    config = load_config(write(tmp_path, train_config), TRAIN_KEYS, overrides)
    expected = copy.deepcopy(train_config)
    expected['optimizer']['args']['lr'] = 0.0002
    expected['train_dataset'] |= {'batch_size': 8}
    expected['train_dataset']['dataset']['args']['root_path'] = 'a=b'
    expected['val_dataset']['wrapper']['args']['scales'] = [2, 3.5]
    expected['model']['args']['reparam'] = 'rim'
    expected |= {'tf32': True, 'lr_factors': {'mssa.position_bias': 100, 'imnet': 2}, 'epoch_save': 7}
    assert config == expected


@pytest.mark.parametrize('overrides', [
    ('optimizer.name=sgd', 'optimizer.args.momentum=0.9'), ('optimizer.args.momentum=0.9', 'optimizer.name=sgd'),
    ('optimizer={name: sgd, args: {momentum: 0.9}}',)])
def test_set_of_another_name_drops_the_old_arguments(tmp_path, train_config, overrides):
    config = load_config(write(tmp_path, train_config), TRAIN_KEYS, overrides)
    assert config == {**train_config, 'optimizer': {'name': 'sgd', 'args': {'momentum': 0.9}}}
    same = load_config(tmp_path / 'config.yaml', TRAIN_KEYS, ('optimizer.name=adam', 'optimizer.args.eps=1e-6'))
    assert same['optimizer'] == {'name': 'adam', 'args': {'lr': 0.001, 'eps': 1e-6}}


def test_set_to_null_removes_a_key(tmp_path, train_config):
    path = write(tmp_path, {**train_config, 'lr_factors': {'imnet': 2, 'encoder': 3}})
    config = load_config(path, TRAIN_KEYS, ('clip_grad=null', 'lr_schedule=~', 'lr_factors.imnet=null'))
    expected = change(change(train_config, 'clip_grad', REMOVED), 'lr_schedule', REMOVED)
    assert config == {**expected, 'lr_factors': {'encoder': 3}}


def test_null_is_a_value_among_arguments(tmp_path, train_config):
    """LTE's scale_max is 4 unless it is given; null, no limit, must not turn into that."""
    parts = {key: train_config['model']['args'][key] for key in ('encoder_spec', 'imnet_spec')}
    spec = {'name': 'lte', 'args': {**parts, 'scale_max': 2}}
    path = write(tmp_path, {**train_config, 'model': spec})
    config = load_config(path, TRAIN_KEYS, ('model.args.scale_max=null', 'val_dataset.wrapper.args.crop=null'))
    assert config['model']['args']['scale_max'] is None and config['val_dataset']['wrapper']['args']['crop'] is None
    write(tmp_path, f'base: {path.name}\nmodel: {{args: {{scale_max: null}}}}', 'child.yaml')
    assert load_config(tmp_path / 'child.yaml', TRAIN_KEYS)['model']['args']['scale_max'] is None
    with pytest.raises(UserError, match=r'^-set model\.args\.hidden_dim: expected int, got None'):
        load_config(path, TRAIN_KEYS, ('model.args.hidden_dim=null',))


def test_set_completes_a_file(tmp_path, train_config):
    path = write(tmp_path, change(train_config, 'epoch_max', REMOVED))
    assert load_config(path, TRAIN_KEYS, ('epoch_max=2',)) == train_config


@pytest.mark.parametrize(('override', 'part'), [
    ('train_dataset.batchsize=8', "-set train_dataset.batchsize: unknown key; did you mean 'batch_size'?"),
    ('optimiser.args.lr=1', "-set optimiser: unknown key; did you mean 'optimizer'?"),
    ('optimizer.arg.lr=1', "-set optimizer.arg: unknown key; did you mean 'args'?"),
    ('optimizer.args.lrr=1', "-set optimizer.args.lrr: optimizer 'adam' has no such argument; did you mean 'lr'?"),
    ('model.args.encoder_spec.args.n_feat=8',
     "-set model.args.encoder_spec.args.n_feat: encoder 'edsr-baseline' has no such argument; did you mean 'n_feats'?"),
    ('model.name=mist', "-set model.name: unknown model 'mist'; did you mean 'msit'?"),
    ('epoch_max=3.5', '-set epoch_max: expected int, got 3.5'), ("epoch_max='3'", "-set epoch_max: expected int, got '3'"),
    ('epoch_max=1e1', '-set epoch_max: expected int, got 10.0'),
    ('epoch_max=-1', '-set epoch_max: expected a number from 1'),
    ('epoch_max.x=1', "-set epoch_max: expected int, got {'x': 1}"),
    ('epoch_max=null', '-set epoch_max: this key is missing'),
    ('model.args.heads=two', "-set model.args.heads: expected int, got 'two'"),
    ('clip_gradd=null', "-set clip_gradd: unknown key; did you mean 'clip_grad'?"),
    ('train_dataset.wrapper.name=sr-evaluation',
     "-set train_dataset.wrapper.args: dataset wrapper 'sr-evaluation' needs name"),
    ('lr_factors.mssa.position_bias=2', "-set lr_factors.mssa: expected int or float, got {'position_bias': 2}"),
    ('base=other.yaml', '-set base: unknown key'), ('seed', "-set 'seed': expected KEY.PATH=VALUE"),
    ('seed=', "-set 'seed=': expected KEY.PATH=VALUE"), ('=1', "-set '=1': expected KEY.PATH=VALUE"),
    ('model..name=x', "-set 'model..name=x': expected KEY.PATH=VALUE"), ('seed=[1', '-set seed: not valid YAML'),
    ('seed={a: 1, a: 2}', "-set seed: not valid YAML: the key 'a' is given twice")])
def test_wrong_changes(tmp_path, train_config, override, part):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path, train_config), TRAIN_KEYS, (override,))
    assert str(error.value).startswith(part) and '\n' not in str(error.value)


@pytest.mark.parametrize('overrides', [
    ('seed=1', 'seed=2'), ('optimizer={name: sgd}', 'optimizer.args.lr=1'),
    ('optimizer.args.lr=1', 'optimizer={name: sgd}')])
def test_a_key_is_set_once(tmp_path, train_config, overrides):
    with pytest.raises(UserError, match=f"^-set {overrides[1].partition('=')[0]}: given twice"):
        load_config(write(tmp_path, train_config), TRAIN_KEYS, overrides)


def test_a_mistake_of_the_file_is_not_blamed_on_set(tmp_path, train_config):
    path = write(tmp_path, {**train_config, 'sed': 1})
    with pytest.raises(UserError) as error:
        load_config(path, TRAIN_KEYS, ('seed=2',))
    assert str(error.value).startswith(f"{path}: sed: unknown key; did you mean 'seed'?")


# the commands

def test_print_config_of_train(tmp_path, monkeypatch, capsys):
    """Its output is itself a config, equal to what the first one resolves to; nothing is written, no data is needed."""
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / 'train/train_rdn_baseline_MsIT_rim.yaml'
    words = ['-config', file, '-set', 'optimizer.args.lr=2e-4', 'epoch_save=null', '--set', 'seed=3', '-print-config']
    status, text, error = call(train.main, words, capsys, monkeypatch)
    assert (status, error) == (0, '') and list(tmp_path.iterdir()) == []
    expected = change(load_config(file, TRAIN_KEYS), 'optimizer.args.lr', 0.0002)
    del expected['epoch_save']
    assert load_config(write(tmp_path, text), TRAIN_KEYS) == {**expected, 'seed': 3} and 'base:' not in text


def test_print_config_of_test(tmp_path, monkeypatch, capsys):
    """-set applies to each config; several are several documents."""
    files = [CONFIGS / f'test/test-{name}.yaml' for name in ('set5', 'set14')]
    words = ['-set', 'test_dataset.wrapper.args.scales=[2.5]', '-print-config']
    status, text, error = call(test.main, ('-config', *files, *words), capsys, monkeypatch)
    assert (status, error) == (0, '')
    for file, part in zip(files, text.split('---\n'), strict=True):
        expected = change(load_config(file, TEST_KEYS), 'test_dataset.wrapper.args.scales', [2.5])
        assert load_config(write(tmp_path, part), TEST_KEYS) == expected
    suite = CONFIGS / 'test/paper-table1.yaml'
    status, text, error = call(test.main, ('-config', suite, '-set', 'title=Mine', '-print-config'), capsys, monkeypatch)
    assert (status, error) == (0, '')
    assert load_config(write(tmp_path, text), SUITE_KEYS) == {**load_config(suite, SUITE_KEYS), 'title': 'Mine'}


@pytest.mark.parametrize('words', [['-print-config'], ['-device', 'cpu']])
def test_wrong_changes_of_a_command(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    for main, file in ((train.main, 'train/train_msit_s.yaml'), (test.main, 'test/test-set5.yaml')):
        more = ['-model', 'bicubic'] if main is test.main else []
        status, out, error = call(main, ('-config', CONFIGS / file, *more, '-set', 'sed=1', *words), capsys, monkeypatch)
        assert (status, out) == (2, '') and error.startswith('error: -set sed: unknown key; ') and error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_set_reaches_the_measurement(shared, tmp_path, monkeypatch, capsys):
    """Set5 and its copy under another name, both at the scale that -set gives."""
    monkeypatch.chdir(tmp_path)
    words = ['-config', CONFIGS / 'test/test-set5-4.yaml', '-model', 'bicubic', '-data', shared / 'data', '-device', 'cpu',
             '-set', 'test_dataset.wrapper.args.scales=[2]', 'test_dataset.dataset.args.first_k=1']
    status, out, error = call(test.main, words, capsys, monkeypatch)
    assert (status, error) == (0, '')
    assert re.findall(r'Set5 \| (\S+) ', out) == ['2']


def test_mistakes_found_while_building_name_set(tmp_path, monkeypatch, capsys, tiny_msit):
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / 'train/train_msit_s.yaml'
    words = ['-config', file, '-device', 'cpu', '-set', 'model.args.heads=5']
    status, _, error = call(train.main, words, capsys, monkeypatch)
    assert status == 2 and error.startswith(f'error: {file} with -set: model.args: ') and '5 heads' in error
