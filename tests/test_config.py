"""Configs: inheritance, what each mistake is answered with, and the values of the shipped files."""
import copy
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml

import datasets
import models
import test
import train
from common.cli import run
from common.registry import MODELS
from engine.config import SUITE_KEYS, TEST_KEYS, TRAIN_KEYS, Key, changes, load_config
from engine.training.schedule import OPTIMIZERS, SCHEDULES
from engine.yaml_files import plain, to_yaml
from utils import UserError, shortened

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / 'configs'
TRAIN_CONFIGS = sorted(path for folder in ('train', 'ablation', 'zoo') for path in (CONFIGS / folder).glob('*.yaml'))
TEST_CONFIGS = sorted((CONFIGS / 'test').glob('*.yaml'))
PAPER_SCALES = {'set5': [2, 3, 4, 6, 8], 'set14': [2, 3, 4, 6, 8], 'bsd100': [2, 3, 4, 6, 8], 'urban100': [2, 3, 4, 6, 8],
                'div2k': [2, 3, 4, 6, 12, 18, 24, 30]}
REMOVED = object()


class Anything:
    """The kind of a key that takes every value."""

    def check(self, value, path):
        pass


@pytest.fixture
def train_config(tiny_msit) -> dict:
    """A valid training config with every block that there is."""
    folder = {'name': 'image-folder', 'args': {'root_path': 'HR', 'repeat': 1}}
    return {
        'train_dataset': {
            'dataset': folder, 'wrapper': {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 8, 'sample_q': 16}},
            'batch_size': 2, 'epoch_batches': 3, 'num_workers': 0},
        'val_dataset': {
            'dataset': copy.deepcopy(folder),
            'wrapper': {'name': 'sr-evaluation', 'args': {'name': 'S', 'protocol': 'div2k', 'scales': [2]}}},
        'data_norm': {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}},
        'model': tiny_msit,
        'optimizer': {'name': 'adam', 'args': {'lr': 0.001}},
        'lr_schedule': {'name': 'warmup-cosine', 'args': {'warmup': 1, 'cosine': 2}},
        'clip_grad': 1, 'accumulate': 1, 'precision': 'float32', 'tf32': False, 'channels_last': False, 'compile': False,
        'epoch_max': 2, 'epoch_val': 1, 'epoch_save': 1, 'save_every': 1, 'seed': 0,
    }


def write(folder: Path, text: str | dict, name: str = 'config.yaml') -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False), encoding='utf-8')
    return path


def change(config: dict, path: str, value: object) -> dict:
    """A copy of `config` with the value at a dotted path set, or REMOVED."""
    config = block = copy.deepcopy(config)
    *parents, last = path.split('.')
    for key in parents:
        block = block[key]
    if value is REMOVED:
        del block[last]
    else:
        block[last] = value
    return config


def refusal(folder: Path, config: str | dict, keys=TRAIN_KEYS) -> str:
    """What `load_config` says of a wrong config: one line that begins with the file, here without it."""
    path = write(folder, config)
    with pytest.raises(UserError) as error:
        load_config(path, keys)
    told = str(error.value)
    assert '\n' not in told and told.startswith(f'{path}: ')
    return told.removeprefix(f'{path}: ')


# reading

def test_numbers(tmp_path):
    """Written without a point or without a sign of the exponent, they are numbers all the same."""
    path = write(tmp_path, """
optimizer: {name: adam, args: {lr: 1e-4, eps: 1.e-8, weight_decay: 2E3, betas: [9e-1, 0.5e+0]}}
""")
    args = load_config(path, {'optimizer': TRAIN_KEYS['optimizer']})['optimizer']['args']
    assert args == {'lr': 0.0001, 'eps': 1e-8, 'weight_decay': 2000, 'betas': [0.9, 0.5]}
    assert {type(args[key]) for key in ('lr', 'eps', 'weight_decay')} == {float}
    told = refusal(tmp_path, "clip_grad: '1e-4'", {'clip_grad': TRAIN_KEYS['clip_grad']})  # in quotes it is a text
    assert told == "clip_grad: expected int or float, got '1e-4'"


def test_a_valid_config_comes_back_as_it_is(tmp_path, train_config):
    assert load_config(write(tmp_path, train_config), TRAIN_KEYS) == train_config


@pytest.mark.parametrize(('text', 'told'), [
    ('a: [1, 2', 'not valid YAML'), ('a: 1\n b: 2', 'not valid YAML'), ('a: 1\n\tb: 2', 'not valid YAML'),
    ('seed: 1\nseed: 2', "the key 'seed' is given twice"), ('model: {args: {r: 1, r: 1}}', "the key 'r' is given twice"),
    ('a: !!python/object:x {}', 'not valid YAML'), ('', 'NoneType'), ('# nothing\n', 'NoneType'), ('- 1', 'list'),
    ('text', 'str'), ('? [a]\n: 1', ''), ('epoch_max: 2001-99-99', ''),
    ('base: 3', 'base: expected the name of a config file, got 3'), ('base: [a.yaml]', 'base: expected the name'),
])
def test_files_that_cannot_be_read(tmp_path, text, told):
    assert told in refusal(tmp_path, text)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / 'c.yaml').write_bytes(b'name: \xff\xfe')
    with pytest.raises(UserError, match=r'c\.yaml: not valid YAML'):
        load_config(tmp_path / 'c.yaml', TRAIN_KEYS)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r'absent\.yaml: no such config file'):
        load_config(tmp_path / 'absent.yaml', TRAIN_KEYS)


# inheritance

def test_base_is_merged_deeply(tmp_path, train_config):
    """Blocks key by key, lists as a whole; a base lies beside the file that names it, and may have one of its own."""
    write(tmp_path, train_config, 'lib/root.yaml')
    write(tmp_path, 'base: root.yaml\nseed: 3\nmodel: {args: {reparam: rim, heads: 2}}', 'lib/middle.yaml')
    path = write(tmp_path, """
base: lib/middle.yaml
train_dataset: {wrapper: {args: {scale_max: 8}}}
data_norm: {gt: {sub: [0.1, 0.2, 0.3]}}
model: {args: {heads: 1}}
""")
    expected = copy.deepcopy(train_config)
    expected['seed'] = 3
    expected['train_dataset']['wrapper']['args']['scale_max'] = 8
    expected['data_norm']['gt']['sub'] = [0.1, 0.2, 0.3]
    expected['model']['args'] |= {'reparam': 'rim', 'heads': 1}
    assert load_config(path, TRAIN_KEYS) == expected


def test_another_name_drops_the_arguments_of_the_old(tmp_path, train_config):
    write(tmp_path, train_config, 'root.yaml')
    changes = {
        'base': 'root.yaml',
        'model': {'args': {'encoder_spec': {'name': 'rdn', 'args': {'no_upsampling': True}}}},
        'optimizer': {'name': 'sgd', 'args': {'momentum': 0.9}},
        'lr_schedule': {'name': 'constant'},
        'val_dataset': {'dataset': {'name': 'image-folder', 'args': {'first_k': 2}}},  # the same name: merged
    }
    config = load_config(write(tmp_path, changes), TRAIN_KEYS)
    assert config['model']['args']['encoder_spec'] == {'name': 'rdn', 'args': {'no_upsampling': True}}
    assert config['model']['args']['imnet_spec'] == train_config['model']['args']['imnet_spec']
    assert config['optimizer'] == {'name': 'sgd', 'args': {'momentum': 0.9}}
    assert config['lr_schedule'] == {'name': 'constant'}
    assert config['val_dataset']['dataset']['args'] == {'root_path': 'HR', 'repeat': 1, 'first_k': 2}


def test_a_name_among_the_arguments_is_no_other_block(tmp_path, train_config):
    """The name of an evaluation set is one of its arguments: the others stay."""
    write(tmp_path, train_config, 'root.yaml')
    path = write(tmp_path, 'base: root.yaml\nval_dataset: {wrapper: {args: {name: Mine}}}')
    args = load_config(path, TRAIN_KEYS)['val_dataset']['wrapper']['args']
    assert args == {'name': 'Mine', 'protocol': 'div2k', 'scales': [2]}


def test_null_removes_what_the_base_has(tmp_path, train_config):
    write(tmp_path, train_config, 'root.yaml')
    path = write(tmp_path, 'base: root.yaml\nclip_grad: null\nval_dataset: ~\ntrain_dataset: {epoch_batches: null}')
    expected = change(change(train_config, 'clip_grad', REMOVED), 'val_dataset', REMOVED)
    expected = change(expected, 'train_dataset.epoch_batches', REMOVED)
    assert load_config(path, TRAIN_KEYS) == expected
    write(tmp_path, 'base: root.yaml\nclip_gradd: null', 'wrong.yaml')  # nothing of that name is there to remove
    with pytest.raises(UserError, match=r"wrong\.yaml: clip_gradd: unknown key; did you mean 'clip_grad'"):
        load_config(tmp_path / 'wrong.yaml', TRAIN_KEYS)


def test_two_bases_may_follow_one_another_and_no_more(tmp_path, train_config):
    for child, parent in (('b', 'a'), ('c', 'b'), ('d', 'c')):
        write(tmp_path, f'base: {parent}.yaml\nseed: 5', f'{child}.yaml')
    write(tmp_path, train_config, 'a.yaml')
    assert load_config(tmp_path / 'c.yaml', TRAIN_KEYS) == {**train_config, 'seed': 5}
    with pytest.raises(UserError) as error:
        load_config(tmp_path / 'd.yaml', TRAIN_KEYS)
    assert str(error.value) == (f'{tmp_path}/d.yaml: base: expected at most 2 bases that follow one another, got '
                                'd.yaml → c.yaml → b.yaml → a.yaml; name a nearer file as the base')


def test_cycles(tmp_path):
    write(tmp_path, 'base: b.yaml', 'a.yaml')
    write(tmp_path, 'base: sub/../c.yaml', 'b.yaml')
    write(tmp_path, 'base: a.yaml', 'c.yaml')
    write(tmp_path, 'base: self.yaml', 'self.yaml')
    (tmp_path / 'sub').mkdir()
    for start, named in (('a', 'a'), ('b', 'b'), ('self', 'self')):
        with pytest.raises(UserError, match=rf"{named}\.yaml: its 'base' leads back to itself"):
            load_config(tmp_path / f'{start}.yaml', TRAIN_KEYS)


def test_missing_base(tmp_path):
    write(tmp_path, 'base: absent.yaml')
    with pytest.raises(UserError, match=r'absent\.yaml: no such config file'):
        load_config(tmp_path / 'config.yaml', TRAIN_KEYS)


# changes from the command line

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


@pytest.mark.parametrize(('override', 'told'), [
    ('train_dataset.batchsize=8', "-set train_dataset.batchsize: unknown key; did you mean 'batch_size'?"),
    ('optimiser.args.lr=1', "-set optimiser: unknown key; did you mean 'optimizer'?"),
    ('optimizer.arg.lr=1', "-set optimizer.arg: unknown key; did you mean 'args'?"),
    ('optimizer.args.lrr=1', "-set optimizer.args.lrr: optimizer 'adam' has no such argument; did you mean 'lr'?"),
    ('model.args.encoder_spec.args.n_feat=8',
     "-set model.args.encoder_spec.args.n_feat: model 'edsr-baseline' has no such argument; did you mean 'n_feats'?"),
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
def test_wrong_changes(tmp_path, train_config, override, told):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path, train_config), TRAIN_KEYS, (override,))
    assert str(error.value).startswith(told) and '\n' not in str(error.value)


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

def command(main, monkeypatch, capsys, *words) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    monkeypatch.setattr(sys, 'argv', ['command', *map(str, words)])
    try:
        run(main)
        status = 0
    except SystemExit as leaving:
        status = leaving.code
    return status, *capsys.readouterr()


def test_print_config_of_train(tmp_path, monkeypatch, capsys):
    """Its output is itself a config, equal to what the first one resolves to; nothing is written, no data is needed."""
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / 'train/train_rdn_baseline_MsIT_rim.yaml'
    words = ['-config', file, '-set', 'optimizer.args.lr=2e-4', 'epoch_save=null', '--set', 'seed=3', '-print-config']
    status, text, error = command(train.main, monkeypatch, capsys, *words)
    assert (status, error) == (0, '') and list(tmp_path.iterdir()) == []
    expected = change(load_config(file, TRAIN_KEYS), 'optimizer.args.lr', 0.0002)
    del expected['epoch_save']
    assert load_config(write(tmp_path, text), TRAIN_KEYS) == {**expected, 'seed': 3} and 'base:' not in text


def test_print_config_of_test(tmp_path, monkeypatch, capsys):
    """-set applies to each config; several are several documents."""
    files = [CONFIGS / f'test/test-{name}.yaml' for name in ('set5', 'set14')]
    words = ['-set', 'test_dataset.wrapper.args.scales=[2.5]', '-print-config']
    status, text, error = command(test.main, monkeypatch, capsys, '-config', *files, *words)
    assert (status, error) == (0, '')
    for file, part in zip(files, text.split('---\n'), strict=True):
        expected = change(load_config(file, TEST_KEYS), 'test_dataset.wrapper.args.scales', [2.5])
        assert load_config(write(tmp_path, part), TEST_KEYS) == expected
    suite = CONFIGS / 'test/paper-table1.yaml'
    status, text, error = command(test.main, monkeypatch, capsys, '-config', suite, '-set', 'title=Mine', '-print-config')
    assert (status, error) == (0, '')
    assert load_config(write(tmp_path, text), SUITE_KEYS) == {**load_config(suite, SUITE_KEYS), 'title': 'Mine'}


@pytest.mark.parametrize('words', [['-print-config'], ['-device', 'cpu']])
def test_wrong_changes_of_a_command(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    for main, file in ((train.main, 'train/train_msit_s.yaml'), (test.main, 'test/test-set5.yaml')):
        more = ['-model', 'bicubic'] if main is test.main else []
        status, out, error = command(main, monkeypatch, capsys, '-config', CONFIGS / file, *more, '-set', 'sed=1', *words)
        assert (status, out) == (2, '') and error.startswith('error: -set sed: unknown key; ') and error.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_set_reaches_the_measurement(shared, tmp_path, monkeypatch, capsys):
    """Set5 and its copy under another name, both at the scale that -set gives."""
    monkeypatch.chdir(tmp_path)
    words = ['-config', CONFIGS / 'test/test-set5-4.yaml', '-model', 'bicubic', '-data', shared / 'data', '-device', 'cpu',
             '-set', 'test_dataset.wrapper.args.scales=[2]', 'test_dataset.dataset.args.first_k=1']
    status, out, error = command(test.main, monkeypatch, capsys, *words)
    assert (status, error) == (0, '')
    assert re.findall(r'Set5 \| (\S+) ', out) == ['2']


def test_mistakes_found_while_building_name_set(tmp_path, monkeypatch, capsys, tiny_msit):
    monkeypatch.chdir(tmp_path)
    file = CONFIGS / 'train/train_msit_s.yaml'
    words = ['-config', file, '-device', 'cpu', '-set', 'model.args.heads=5']
    status, _, error = command(train.main, monkeypatch, capsys, *words)
    assert status == 2 and error.startswith(f'error: {file} with -set: model.args: ') and '5 heads' in error


@pytest.mark.parametrize('value', ['1e-4', '2E3', '0.5', 'yes', 'null', '~', '2001-01-01', '', ' x',
                                   'ü', '[a]', '1_000', 'a: b', '#'])
def test_texts_survive_being_written(tmp_path, value):
    """A text that would be read as a number, or as anything else, is written in quotes."""
    config = {'title': value, 'list': [value], 'number': 1e-4, 'factor': 1e22, 'empty': {}, 'none': None}
    loaded = load_config(write(tmp_path, to_yaml(config)), {key: Key(Anything()) for key in config})
    assert loaded == config and type(loaded['title']) is str
    assert plain('1e-4') == "'1e-4'" and plain(1e-4) == '0.0001'


# mistakes

@pytest.mark.parametrize(('path', 'right'), [
    ('epoch_maxx', 'epoch_max'), ('optimiser', 'optimizer'), ('train_datset', 'train_dataset'),
    ('lr_shedule', 'lr_schedule'), ('data_nrom', 'data_norm'), ('train_dataset.batchsize', 'batch_size'),
    ('train_dataset.datasets', 'dataset'),
    ('train_dataset.wraper', 'wrapper'), ('train_dataset.dataset.nmae', 'name'), ('train_dataset.dataset.arg', 'args'),
    ('train_dataset.dataset.args.root_pth', 'root_path'), ('train_dataset.wrapper.arg', 'args'),
    ('train_dataset.wrapper.args.sample_k', 'sample_q'), ('val_dataset.datset', 'dataset'),
    ('val_dataset.dataset.args.repeats', 'repeat'), ('val_dataset.wrapper.args.scale', 'scales'), ('data_norm.imp', 'inp'),
    ('data_norm.inp.dvi', 'div'), ('data_norm.gt.subs', 'sub'), ('model.nam', 'name'), ('model.arg', 'args'),
    ('model.args.base_dims', 'base_dim'), ('model.args.encoder_sepc', 'encoder_spec'),
    ('model.args.encoder_spec.arg', 'args'), ('model.args.encoder_spec.args.n_feat', 'n_feats'),
    ('model.args.pb_spec.args.enc_dim', 'enc_dims'),
    ('model.args.imnet_spec.args.hiden_list', 'hidden_list'), ('optimizer.nam', 'name'), ('optimizer.arg', 'args'),
    ('optimizer.args.lrr', 'lr'), ('lr_schedule.arg', 'args'), ('lr_schedule.args.warmpu', 'warmup')])
def test_misspelt_keys(tmp_path, train_config, path, right):
    """The right key under a wrong name: its full path and the right name are told."""
    parent, _, _ = path.rpartition('.')
    right_path = f'{parent}.{right}' if parent else right
    block = train_config
    for key in right_path.split('.'):
        block = block[key]
    wrong = change(change(train_config, right_path, REMOVED), path, block)
    told = refusal(tmp_path, wrong)
    assert told.startswith(f'{path}: ') and f"did you mean '{right}'?" in told


def test_unknown_key_of_a_test_config(tmp_path, train_config):
    """The keys of one kind of config are not those of the other."""
    source = train_config['val_dataset']
    assert load_config(write(tmp_path, {'test_dataset': source}), TEST_KEYS) == {'test_dataset': source}
    assert refusal(tmp_path, {'test_dataset': source, 'seed': 1}, TEST_KEYS).startswith('seed: unknown key')
    told = refusal(tmp_path, {'test_datasets': source}, TEST_KEYS)
    assert told.startswith("test_datasets: unknown key; did you mean 'test_dataset'?")
    told = refusal(tmp_path, {'test_dataset': {**source, 'batch_size': 2}}, TEST_KEYS)
    assert told.startswith('test_dataset.batch_size: unknown key')


@pytest.mark.parametrize(('path', 'wrong', 'right'), [
    ('train_dataset.dataset.name', 'image-foldr', 'image-folder'),
    ('train_dataset.wrapper.name', 'sr-implicit-downsample', 'sr-implicit-downsampled'),
    ('val_dataset.wrapper.name', 'sr-evaluate', 'sr-evaluation'), ('model.name', 'mist', 'msit'),
    ('model.args.encoder_spec.name', 'edsr-basline', 'edsr-baseline'), ('model.args.imnet_spec.name', 'mpl', 'mlp'),
    ('model.args.pb_spec.name', 'posencs', 'posenc'), ('optimizer.name', 'adma', 'adam'),
    ('lr_schedule.name', 'warmup-cosin', 'warmup-cosine')])
def test_unknown_names(tmp_path, train_config, path, wrong, right):
    told = refusal(tmp_path, change(train_config, path, wrong))
    assert told.startswith(f'{path}: unknown ') and f"'{wrong}'; did you mean '{right}'?" in told


@pytest.mark.parametrize(('factors', 'told'), [
    (2, 'lr_factors: expected a block'), ({'imnet': 'x'}, "lr_factors.imnet: expected int or float, got 'x'"),
    ({'imnet': -1}, 'lr_factors.imnet: expected a number from 0'), ({1: 2}, 'lr_factors: expected names, got 1'),
    ({'': 2}, "lr_factors: expected names, got ''")])
def test_wrong_factors(tmp_path, train_config, factors, told):
    assert refusal(tmp_path, {**train_config, 'lr_factors': factors}).startswith(told)


@pytest.mark.parametrize(('path', 'needs'), [
    ('train_dataset', ''), ('train_dataset.dataset', ''), ('train_dataset.wrapper', ''), ('train_dataset.batch_size', ''),
    ('val_dataset.wrapper', ''), ('data_norm.gt', ''), ('data_norm.inp.sub', ''), ('model', ''), ('optimizer', ''),
    ('epoch_max', ''), ('train_dataset.dataset.args.root_path', 'root_path'),
    ('val_dataset.wrapper.args.protocol', 'protocol'), ('model.args.imnet_spec', 'imnet_spec'),
    ('model.args.imnet_spec.args.hidden_list', 'hidden_list'), ('lr_schedule.args.cosine', 'cosine')])
def test_missing_keys(tmp_path, train_config, path, needs):
    told = refusal(tmp_path, change(train_config, path, REMOVED))
    if needs:
        assert told.startswith(f"{path.rpartition('.')[0]}: ") and told.endswith(f'needs {needs}')
    else:
        assert told == f'{path}: this key is missing'


@pytest.mark.parametrize('path', [
    'val_dataset', 'data_norm', 'optimizer.args', 'lr_schedule', 'clip_grad', 'accumulate', 'precision', 'tf32',
    'channels_last', 'compile', 'epoch_val', 'epoch_save', 'save_every', 'seed', 'train_dataset.epoch_batches',
    'train_dataset.num_workers', 'model.args.pb_spec'])
def test_keys_that_may_be_left_out(tmp_path, train_config, path):
    config = change(train_config, path, REMOVED)
    assert load_config(write(tmp_path, config), TRAIN_KEYS) == config


@pytest.mark.parametrize(('path', 'value', 'told'), [
    ('epoch_max', '5', "expected int, got '5'"), ('epoch_max', 5.0, 'expected int, got 5.0'), ('epoch_max', -1, 'got -1'),
    ('epoch_max', True, 'expected int, got True'), ('epoch_max', None, 'expected int, got None'), ('seed', -1, 'got -1'),
    ('train_dataset.batch_size', [2], 'expected int, got [2]'), ('train_dataset.batch_size', 0, 'got 0'),
    ('train_dataset.epoch_batches', 0, 'got 0'), ('epoch_val', 0, 'got 0'), ('train_dataset.num_workers', -1, 'got -1'),
    ('channels_last', 1, 'expected bool, got 1'), ('channels_last', 'yes', "expected bool, got 'yes'"),
    ('accumulate', 0, 'got 0'), ('accumulate', 1.5, 'expected int, got 1.5'), ('save_every', 0, 'got 0'),
    ('tf32', 'on', "expected bool, got 'on'"), ('compile', 1, 'expected bool, got 1'),
    ('precision', 16, 'expected str, got 16'), ('precision', 'bfloat', "got 'bfloat'; did you mean 'bfloat16'? (choices: "),
    ('precision', 'fp64', '(choices: bfloat16, float16, float32)'),
    ('clip_grad', True, 'expected int or float, got True'), ('clip_grad', -0.5, 'got -0.5'),
    ('clip_grad', float('inf'), 'got inf'), ('clip_grad', float('nan'), 'got nan'), ('clip_grad', '1', "got '1'"),
    ('data_norm', 0.5, 'expected a block with inp, gt, got 0.5'), ('data_norm.inp.sub', 0.5, 'expected list, got 0.5'),
    ('train_dataset', [], 'expected a block with dataset, wrapper'), ('model', 'msit', "got 'msit'"),
    ('train_dataset.dataset', 'image-folder', "got 'image-folder'"), ('model.args', [1], 'got [1]'),
    ('model.args.encoder_spec', 'rdn', "got 'rdn'"), ('optimizer.args', [1], 'got [1]'),
    ('lr_schedule', None, 'got None')])
def test_values_of_a_wrong_kind(tmp_path, train_config, path, value, told):
    answer = refusal(tmp_path, change(train_config, path, value))
    assert answer.startswith(f'{path}: ') and told in answer


@pytest.mark.parametrize(('path', 'value', 'told'), [
    ('model.args.base_dim', 15, '15 channels'), ('model.args.heads', 5, '5 heads'), ('model.args.radius', -1, 'is -1'),
    ('model.args.reparam', 'rimm', "'rimm'"), ('model.args.attention', 'local', "'local'"),
    ('data_norm.inp.div', [0], 'data_norm.inp.div'), ('data_norm.gt.sub', [0.5, 0.5], 'data_norm.gt.sub'),
    ('data_norm.gt.sub', ['a'], 'data_norm.gt.sub')])
def test_bad_values_of_a_model(train_config, path, value, told):
    config = change(train_config, path, value)
    with pytest.raises(UserError) as error:
        models.make(config['model'], config['data_norm'])
    assert told in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(('args', 'told'), [
    ({'lr': -1}, '-1'), ({'lr': 'fast'}, 'optimizer.args'), ({'lr': None}, 'optimizer.args'), ({'lrr': 1}, "mean 'lr'"),
    ({'betas': [0.9]}, 'optimizer.args'), ({'betas': 0.9}, 'optimizer.args'), ({'betas': [0.9, 2]}, '2'),
    ({'params': [1]}, 'optimizer.args.params')])
def test_bad_arguments_of_an_optimizer(args, told):
    parameters = models.layers.MLP(in_dim=2, hidden_list=[2]).parameters()
    with pytest.raises(UserError) as error:
        OPTIMIZERS.make({'name': 'adam', 'args': args}, 'optimizer', params=parameters)
    assert str(error.value).startswith('optimizer.args') and told in str(error.value)


@pytest.mark.parametrize(('wrapper', 'told'), [
    ({'name': 'sr-implicit', 'args': {}}, 'train_dataset.wrapper.name: unknown'),
    ({'name': 'sr-implicit-downsampled', 'args': {'scale_mx': 2}}, "train_dataset.wrapper.args.scale_mx: ")])
def test_a_wrong_wrapper_is_told_before_images_are_looked_for(wrapper, told):
    spec = {'dataset': {'name': 'image-folder', 'args': {'root_path': 'absent'}}, 'wrapper': wrapper}
    with pytest.raises(UserError) as error:
        datasets.make(spec, '/nowhere', 'train_dataset')
    assert str(error.value).startswith(told)


# messages stay short

LAUGHS = 'a0: &a0 [lol, lol]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 16))


@pytest.mark.parametrize(('value', 'expected'), [
    (1e-4, '0.0001'), ('x', "'x'"), ([2, 3], '[2, 3]'), ({'a': [1]}, "{'a': [1]}"), (None, 'None'), (True, 'True'),
    ('a\nb', "'a\\nb'")])
def test_short_values_are_printed_as_they_are(value, expected):
    assert shortened(value) == expected


def test_long_values_are_cut():
    assert shortened('name', quotes=False) == 'name' and shortened(7, quotes=False) == '7'
    for value in ('x' * 10 ** 6, list(range(10 ** 6)), {str(i): i for i in range(1000)}, 10 ** 4000, [['y' * 99] * 99] * 99):
        assert 30 <= len(shortened(value)) <= 80 and len(shortened(value, quotes=False)) <= 80
    assert shortened(1 << 10 ** 5) == '<int of too many digits>'
    nested = []
    for _ in range(10 ** 5):
        nested = [nested]
    assert shortened(nested) == '[[[[...]]]]'
    laughs = ['lol']
    for _ in range(100):
        laughs = [laughs] * 10
    assert len(shortened(laughs)) <= 80


@pytest.mark.parametrize(('path', 'value'), [
    ('epoch_max', 'x' * 10 ** 5), ('y' * 10 ** 5, 1), ('precision', 'z' * 10 ** 5), ('train_dataset', ['w'] * 10 ** 4),
    ('model.name', 'm' * 10 ** 5), ('model.args.heads', ['h' * 99] * 99), ('model.args.' + 'k' * 10 ** 5, 1),
    ('optimizer.' + 'k' * 10 ** 5, 1), ('lr_factors', {'f' * 10 ** 5: 'x'}), ('data_norm.inp.sub', [['s'] * 99] * 99),
    ('base', ['b'] * 10 ** 4)])
def test_messages_stay_short(tmp_path, train_config, path, value):
    assert len(refusal(tmp_path, change(train_config, path, value))) < 700


def test_messages_of_what_is_built_stay_short(train_config):
    with pytest.raises(UserError) as error:
        models.make(change(train_config['model'], 'args.imnet_spec.args.hidden_list', [0] * 10 ** 4))
    assert 'expected widths of at least 1, got hidden_list [0, 0' in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize('path', [
    'epoch_max', 'data_norm.inp.sub', 'model', 'model.args.heads', 'optimizer.args.betas', 'unknown'])
def test_aliases_are_not_written_out(tmp_path, train_config, path):
    """15 levels of ten aliases each would be 10^15 values: refused before anything looks at them."""
    told = refusal(tmp_path, LAUGHS + to_yaml(change(train_config, path, 'HERE')).replace('HERE', '*a15'))
    assert told == 'more than 100,000 values, counting an alias as what it stands for'
    told = refusal(tmp_path, 'b: &b [0.5]\n' + to_yaml({'seed': 'HERE'}).replace('HERE', '[*b, *b]'))
    assert told.startswith('b: unknown key')
    with pytest.raises(UserError, match=r'^-set seed: more than 100,000 values'):
        load_config(write(tmp_path, train_config), TRAIN_KEYS, ('seed={' + ', '.join(LAUGHS.splitlines()) + '}',))


@pytest.mark.parametrize('levels', [33, 100, 300, 2000, 10 ** 5])
def test_deep_nesting(tmp_path, levels):
    assert refusal(tmp_path, f'seed: {"[" * levels}{"]" * levels}') == 'nested more than 32 levels deep'


def test_nesting_that_is_read(tmp_path, train_config):
    text = to_yaml(train_config).replace('seed: 0', f'seed: {"[" * 25}1{"]" * 25}')
    assert refusal(tmp_path, text) == 'seed: expected int, got [[[[...]]]]'
    assert 'recursive' in refusal(tmp_path, 'seed: &a [*a]')


# the shipped files

@pytest.mark.parametrize('path', [*TRAIN_CONFIGS, *TEST_CONFIGS], ids=lambda path: path.name)
def test_shipped_configs_have_one_base_at_most(path):
    """So that a config of a user's can build on any of them."""
    base = yaml.safe_load(path.read_text(encoding='utf-8')).get('base')
    assert base is None or 'base' not in yaml.safe_load((path.parent / base).read_text(encoding='utf-8'))


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('train/train_edsr_baseline_*.yaml')), ids=lambda path: path.name)
def test_rdn_differs_in_the_encoder_alone(path):
    """Each network on EDSR-baseline has its like on RDN."""
    edsr, rdn = (load_config(CONFIGS / 'train' / name, TRAIN_KEYS) for name in (path.name, path.name.replace('edsr', 'rdn')))
    key = 'model.args.encoder_spec.name' if 'encoder_spec' in edsr['model']['args'] else 'model.name'
    assert rdn == change(edsr, key, 'rdn')


def documented_commands() -> list[str]:
    """The words after 'python' of every command of train.py and test.py in a document's indented blocks."""
    pages = [ROOT / 'README.md', ROOT / 'modelzoo/README.md', *sorted((ROOT / 'docs').glob('*.md'))]
    return [f'{page.name}: {command}' for page in pages for command in re.findall(
        r'^ {4}python ((?:train|test)\.py .+)$', page.read_text(encoding='utf-8').replace('\\\n', ' '), re.MULTILINE)]


@pytest.mark.parametrize('line', documented_commands())
def test_configs_of_documented_commands(line):
    """Each names configs that are there and keys that they can have."""
    words = shlex.split(line.partition(': ')[2], comments=True)
    options = {}
    for word in words[1:]:
        if word.startswith('-'):
            options[word] = []
        else:
            options[next(reversed(options))].append(word)
    for file in options.get('-config', []):
        keys = TRAIN_KEYS if words[0] == 'train.py' else SUITE_KEYS if 'paper-' in file else TEST_KEYS
        load_config(ROOT / file, keys, options.get('-set', ()))


def test_every_key_is_documented():
    page = (ROOT / 'docs/configs.md').read_text(encoding='utf-8')
    table = '\n'.join(line.split(' | ')[0] for line in page.splitlines() if line.startswith('| `'))
    keys = {*TRAIN_KEYS, *TRAIN_KEYS['train_dataset'].kind} - {'train_dataset', 'val_dataset', 'dataset', 'wrapper'}
    assert [key for key in sorted(keys) if not re.search(rf'`(train_dataset\.)?{key}`', table)] == []
    parts = ('train_dataset.dataset', 'train_dataset.wrapper', 'val_dataset.dataset', 'test_dataset')
    assert all(f'`{part}' in page for part in parts)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize('path', TRAIN_CONFIGS, ids=names(TRAIN_CONFIGS))
def test_shipped_training_configs(path):
    """Each loads, and its optimiser and schedule can be made."""
    config = load_config(path, TRAIN_KEYS)
    OPTIMIZERS.check(config['optimizer'], 'optimizer')
    first = SCHEDULES.make(config['lr_schedule'], 'lr_schedule')(0, 0, 1.0)
    assert first < 1 if config['lr_schedule']['name'] == 'warmup-cosine' else first == 1
    assert 'base' not in config


def test_shipped_training_configs_are_all_there():
    assert {'train_edsr_baseline_MsIT.yaml', 'train_edsr_baseline_MsIT_rim.yaml', 'train_rdn_baseline_MsIT.yaml',
            'train_rdn_baseline_MsIT_rim.yaml'} <= set(names(TRAIN_CONFIGS))


@pytest.mark.parametrize('name', PAPER_SCALES)
def test_shipped_test_configs(name):
    """One for all the paper's scales of a set, and one for each of them that differs in nothing else."""
    whole = load_config(CONFIGS / 'test' / f'test-{name}.yaml', TEST_KEYS)
    args = whole['test_dataset']['wrapper']['args']
    assert args['scales'] == PAPER_SCALES[name]
    assert args['protocol'] == ('div2k' if name == 'div2k' else 'benchmark') and args['name'].lower() == name
    folder = 'DIV2K/DIV2K_valid' if name == 'div2k' else f"benchmark/{args['name']}"
    separator = '_' if name == 'div2k' else '/'
    assert whole['test_dataset']['dataset'] == {'name': 'image-folder', 'args': {'root_path': f'{folder}{separator}HR'}}
    assert args['lr_path'] == f'{folder}{separator}LR_bicubic' and set(args) == {'name', 'protocol', 'lr_path', 'scales'}
    for scale in PAPER_SCALES[name]:
        single = load_config(CONFIGS / 'test' / f'test-{name}-{scale}.yaml', TEST_KEYS)
        assert single == change(whole, 'test_dataset.wrapper.args.scales', [scale])


def test_shipped_test_configs_are_the_papers_and_no_others():
    expected = {f'test-{name}.yaml' for name in PAPER_SCALES}
    expected |= {f'test-{name}-{scale}.yaml' for name, scales in PAPER_SCALES.items() for scale in scales}
    assert set(names(TEST_CONFIGS)) == expected | {'paper-table1.yaml', 'paper-table2.yaml'}


def test_scales_are_those_of_the_papers_tables(shared):
    tables = yaml.safe_load((shared / 'spec' / 'published.yaml').read_text(encoding='utf-8'))
    table1, table2 = tables['table1_div2k_valid'], tables['table2_benchmarks_rdn']
    published = {name.lower(): table2['scales'] for name in table2 if name != 'scales'}
    assert {**published, 'div2k': table1['scales']} == PAPER_SCALES


RECIPE = {
    'train_dataset': {
        'dataset': {'name': 'image-folder', 'args': {
            'root_path': ['DIV2K/DIV2K_train_HR', 'Flickr2K/Flickr2K_HR'], 'cache': 'mapped'}},
        'wrapper': {'name': 'sr-implicit-downsampled', 'args': {
            'inp_size': 48, 'scale_min': 1, 'scale_max': 4, 'augment': True, 'sample_q': 48 ** 2}},
        'batch_size': 32, 'epoch_batches': 1000, 'num_workers': 8},
    'val_dataset': {
        'dataset': {'name': 'image-folder', 'args': {'root_path': 'DIV2K/DIV2K_valid_HR', 'first_k': 10, 'cache': 'mapped'}},
        'wrapper': {'name': 'sr-evaluation', 'args': {
            'name': 'DIV2K-10', 'protocol': 'div2k', 'scales': [2, 3, 4], 'crop': 480}}},
    'data_norm': {side: {'sub': [0.5], 'div': [0.5]} for side in ('inp', 'gt')},
    'model': {'name': 'msit', 'args': {
        'base_dim': 256, 'heads': 8, 'radius': 3, 'msc_convs': 16, 'mssa_projections': 4,
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'no_upsampling': True}},
        'pb_spec': {'name': 'posenc', 'args': {'posenc_scale': 10, 'enc_dims': 64}},
        'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256] * 4, 'act': 'gelu'}}}},
    'optimizer': {'name': 'adam', 'args': {'lr': 1e-4}},
    'lr_schedule': {'name': 'warmup-cosine', 'args': {'start_lr': 1e-5, 'warmup': 50, 'cosine': 1000}},
    'epoch_max': 1050, 'epoch_val': 1, 'epoch_save': 100,
}


@pytest.mark.parametrize(('encoder', 'name'), [('edsr', 'edsr-baseline'), ('rdn', 'rdn')])
def test_faithful_configs_follow_the_recipe(encoder, name):
    """Every value of both stages; stage 2 is the same but for the scales and the RIM."""
    expected = change(RECIPE, 'model.args.encoder_spec.name', name)
    assert load_config(CONFIGS / 'train' / f'train_{encoder}_baseline_MsIT.yaml', TRAIN_KEYS) == expected
    expected = change(expected, 'train_dataset.wrapper.args.scale_max', 8)
    expected = change(expected, 'model.args.reparam', 'rim')
    assert load_config(CONFIGS / 'train' / f'train_{encoder}_baseline_MsIT_rim.yaml', TRAIN_KEYS) == expected


@pytest.mark.parametrize('name', [
    'edsr_baseline_MsIT', 'edsr_baseline_MsIT_rim', 'rdn_baseline_MsIT', 'rdn_baseline_MsIT_rim'])
def test_fast_configs_differ_in_switches_alone(name):
    faithful, fast = (load_config(CONFIGS / 'train' / f'train_{name}{suffix}.yaml', TRAIN_KEYS) for suffix in ('', '_fast'))
    switches = {'precision': 'bfloat16', 'channels_last': True}
    assert not switches.keys() & faithful.keys() and fast == {**faithful, **switches}


def test_changes_between_configs():
    before = {'a': 1, 'b': {'c': 'x', 'd': [1, 2]}, 'e': None, 'g': {'name': 'n', 'args': {}}, 'same': {'k': 1.5}}
    after = {'a': 1.0, 'b': {'c': 'y', 'd': [1]}, 'f': True, 'g': {'name': 'n', 'args': {'new': 1e-4}}, 'same': {'k': 1.5}}
    assert changes(before, after) == ['b.c x → y', 'b.d [1, 2] → [1]', 'f none → true', 'g.args.new none → 0.0001']
    assert changes({'g': {'name': 'n'}}, {}) == ['g {name: n} → none'] and changes(after, after) == []


def test_defaults_that_the_recipe_relies_on(tmp_path):
    """One scale per batch, the paper's FEM, ordinary convolutions in stage 1: what the configs leave unsaid."""
    wrapper = datasets.WRAPPERS.make(RECIPE['train_dataset']['wrapper'], 'wrapper',
                                     dataset=types.SimpleNamespace(size=None), data_root=tmp_path)
    assert (wrapper.scale_per, wrapper.scale_range, wrapper.sample_q) == ('batch', (1, 4), 2304)
    parameters = MODELS.arguments('msit')
    expected = {'fem': 'paper', 'sim': True, 'attention': 'mssa', 'value_projections': 1, 'cell_decode': True,
                'reparam': 'none', 'reparam_init': 'identity'}
    assert {key: parameters[key].default for key in expected} == expected
