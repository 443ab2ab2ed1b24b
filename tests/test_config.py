"""Configs: reading, inheritance, and what each mistake is answered with."""
import copy

import pytest
from config_files import REMOVED, change, refusal, write

import datasets
import models
from engine.config import TEST_KEYS, TRAIN_KEYS, Key, changes, load_config
from engine.training.schedule import OPTIMIZERS
from engine.yaml_files import plain, to_yaml
from utils import UserError


class Anything:
    """The kind of a key that takes every value."""

    def check(self, value, path):
        pass


# reading

def test_numbers(tmp_path):
    """Written without a point or without a sign of the exponent, they are numbers all the same."""
    path = write(tmp_path, """
optimizer: {name: adam, args: {lr: 1e-4, eps: 1.e-8, weight_decay: 2E3, betas: [9e-1, 0.5e+0]}}
""")
    args = load_config(path, {'optimizer': TRAIN_KEYS['optimizer']})['optimizer']['args']
    assert args == {'lr': 0.0001, 'eps': 1e-8, 'weight_decay': 2000, 'betas': [0.9, 0.5]}
    assert {type(args[key]) for key in ('lr', 'eps', 'weight_decay')} == {float}
    message = refusal(tmp_path, "clip_grad: '1e-4'", {'clip_grad': TRAIN_KEYS['clip_grad']})  # in quotes it is a text
    assert message == "clip_grad: expected int or float, got '1e-4'"


def test_a_valid_config_comes_back_as_it_is(tmp_path, train_config):
    assert load_config(write(tmp_path, train_config), TRAIN_KEYS) == train_config


@pytest.mark.parametrize(('text', 'part'), [
    ('a: [1, 2', 'not valid YAML'), ('a: 1\n b: 2', 'not valid YAML'), ('a: 1\n\tb: 2', 'not valid YAML'),
    ('seed: 1\nseed: 2', "the key 'seed' is given twice"), ('model: {args: {r: 1, r: 1}}', "the key 'r' is given twice"),
    ('a: !!python/object:x {}', 'not valid YAML'), ('', 'NoneType'), ('# nothing\n', 'NoneType'), ('- 1', 'list'),
    ('text', 'str'), ('? [a]\n: 1', ''), ('epoch_max: 2001-99-99', ''),
    ('base: 3', 'base: expected the name of a config file, got 3'), ('base: [a.yaml]', 'base: expected the name'),
])
def test_files_that_cannot_be_read(tmp_path, text, part):
    assert part in refusal(tmp_path, text)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / 'c.yaml').write_bytes(b'name: \xff\xfe')
    with pytest.raises(UserError, match=r'c\.yaml: not valid YAML'):
        load_config(tmp_path / 'c.yaml', TRAIN_KEYS)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r'absent\.yaml: no such config file'):
        load_config(tmp_path / 'absent.yaml', TRAIN_KEYS)


# inheritance

def test_base_is_merged_deeply(tmp_path, train_config):
    """Blocks key by key, lists as a whole; a base lies beside the file that names it, and may itself have a base."""
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
    assert str(error.value) == (
        f'{tmp_path}/d.yaml: base: expected at most 2 bases that follow one another, got d.yaml → c.yaml → b.yaml → a.yaml; '
        'move the keys of one of them into the file that names it')


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


def test_changes_between_configs():
    before = {'a': 1, 'b': {'c': 'x', 'd': [1, 2]}, 'e': None, 'g': {'name': 'n', 'args': {}}, 'same': {'k': 1.5}}
    after = {'a': 1.0, 'b': {'c': 'y', 'd': [1]}, 'f': True, 'g': {'name': 'n', 'args': {'new': 1e-4}}, 'same': {'k': 1.5}}
    assert changes(before, after) == ['b.c x → y', 'b.d [1, 2] → [1]', 'f none → true', 'g.args.new none → 0.0001']
    assert changes({'g': {'name': 'n'}}, {}) == ['g {name: n} → none'] and changes(after, after) == []


# writing

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
    """The right key under a wrong name: the message has its full path and the right name."""
    parent, _, _ = path.rpartition('.')
    right_path = f'{parent}.{right}' if parent else right
    block = train_config
    for key in right_path.split('.'):
        block = block[key]
    wrong = change(change(train_config, right_path, REMOVED), path, block)
    message = refusal(tmp_path, wrong)
    assert message.startswith(f'{path}: ') and f"did you mean '{right}'?" in message


def test_unknown_key_of_a_test_config(tmp_path, train_config):
    """The keys of one kind of config are not those of the other."""
    source = train_config['val_dataset']
    assert load_config(write(tmp_path, {'test_dataset': source}), TEST_KEYS) == {'test_dataset': source}
    assert refusal(tmp_path, {'test_dataset': source, 'seed': 1}, TEST_KEYS).startswith('seed: unknown key')
    message = refusal(tmp_path, {'test_datasets': source}, TEST_KEYS)
    assert message.startswith("test_datasets: unknown key; did you mean 'test_dataset'?")
    message = refusal(tmp_path, {'test_dataset': {**source, 'batch_size': 2}}, TEST_KEYS)
    assert message.startswith('test_dataset.batch_size: unknown key')


@pytest.mark.parametrize(('path', 'wrong', 'right'), [
    ('train_dataset.dataset.name', 'image-foldr', 'image-folder'),
    ('train_dataset.wrapper.name', 'sr-implicit-downsample', 'sr-implicit-downsampled'),
    ('val_dataset.wrapper.name', 'sr-evaluate', 'sr-evaluation'), ('model.name', 'mist', 'msit'),
    ('model.args.encoder_spec.name', 'edsr-basline', 'edsr-baseline'), ('model.args.imnet_spec.name', 'mpl', 'mlp'),
    ('model.args.pb_spec.name', 'posencs', 'posenc'), ('optimizer.name', 'adma', 'adam'),
    ('lr_schedule.name', 'warmup-cosin', 'warmup-cosine')])
def test_unknown_names(tmp_path, train_config, path, wrong, right):
    message = refusal(tmp_path, change(train_config, path, wrong))
    assert message.startswith(f'{path}: unknown ') and f"'{wrong}'; did you mean '{right}'?" in message


@pytest.mark.parametrize(('factors', 'part'), [
    (2, 'lr_factors: expected a block'), ({'imnet': 'x'}, "lr_factors.imnet: expected int or float, got 'x'"),
    ({'imnet': -1}, 'lr_factors.imnet: expected a number from 0'), ({1: 2}, 'lr_factors: expected names, got 1'),
    ({'': 2}, "lr_factors: expected names, got ''")])
def test_wrong_factors(tmp_path, train_config, factors, part):
    assert refusal(tmp_path, {**train_config, 'lr_factors': factors}).startswith(part)


@pytest.mark.parametrize(('path', 'needs'), [
    ('train_dataset', ''), ('train_dataset.dataset', ''), ('train_dataset.wrapper', ''), ('train_dataset.batch_size', ''),
    ('val_dataset.wrapper', ''), ('data_norm.gt', ''), ('data_norm.inp.sub', ''), ('model', ''), ('optimizer', ''),
    ('epoch_max', ''), ('train_dataset.dataset.args.root_path', 'root_path'),
    ('val_dataset.wrapper.args.protocol', 'protocol'), ('model.args.imnet_spec', 'imnet_spec'),
    ('model.args.imnet_spec.args.hidden_list', 'hidden_list'), ('lr_schedule.args.cosine', 'cosine')])
def test_missing_keys(tmp_path, train_config, path, needs):
    message = refusal(tmp_path, change(train_config, path, REMOVED))
    if needs:
        assert message.startswith(f"{path.rpartition('.')[0]}: ") and message.endswith(f'needs {needs}')
    else:
        assert message == f'{path}: this key is missing'


@pytest.mark.parametrize('path', [
    'val_dataset', 'data_norm', 'optimizer.args', 'lr_schedule', 'clip_grad', 'accumulate', 'precision', 'tf32',
    'channels_last', 'compile', 'epoch_val', 'epoch_save', 'save_every', 'seed', 'train_dataset.epoch_batches',
    'train_dataset.num_workers', 'model.args.pb_spec'])
def test_keys_that_may_be_left_out(tmp_path, train_config, path):
    config = change(train_config, path, REMOVED)
    assert load_config(write(tmp_path, config), TRAIN_KEYS) == config


@pytest.mark.parametrize(('path', 'value', 'part'), [
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
def test_values_of_a_wrong_kind(tmp_path, train_config, path, value, part):
    answer = refusal(tmp_path, change(train_config, path, value))
    assert answer.startswith(f'{path}: ') and part in answer


@pytest.mark.parametrize(('path', 'value', 'expected'), [
    ('model.args.base_dim', 15, '15 channels'), ('model.args.heads', 5, '5 heads'), ('model.args.radius', -1, 'is -1'),
    ('model.args.reparam', 'rimm', "'rimm'"), ('model.args.attention', 'local', "'local'"),
    ('data_norm.inp.div', [0], 'data_norm.inp.div'), ('data_norm.gt.sub', [0.5, 0.5], 'data_norm.gt.sub'),
    ('data_norm.gt.sub', ['a'], 'data_norm.gt.sub')])
def test_bad_values_of_a_model(train_config, path, value, expected):
    config = change(train_config, path, value)
    with pytest.raises(UserError) as error:
        models.make(config['model'], config['data_norm'])
    assert expected in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(('args', 'expected'), [
    ({'lr': -1}, '-1'), ({'lr': 'fast'}, 'optimizer.args'), ({'lr': None}, 'optimizer.args'), ({'lrr': 1}, "mean 'lr'"),
    ({'betas': [0.9]}, 'optimizer.args'), ({'betas': 0.9}, 'optimizer.args'), ({'betas': [0.9, 2]}, '2'),
    ({'betas': {'a': 0.9}}, 'optimizer.args'), ({'params': [1]}, 'optimizer.args.params')])
def test_bad_arguments_of_an_optimizer(args, expected):
    parameters = models.layers.MLP(in_dim=2, hidden_list=[2]).parameters()
    with pytest.raises(UserError) as error:
        OPTIMIZERS.make({'name': 'adam', 'args': args}, 'optimizer', params=parameters)
    assert str(error.value).startswith('optimizer.args') and expected in str(error.value)


@pytest.mark.parametrize(('wrapper', 'expected'), [
    ({'name': 'sr-implicit', 'args': {}}, 'train_dataset.wrapper.name: unknown'),
    ({'name': 'sr-implicit-downsampled', 'args': {'scale_mx': 2}}, "train_dataset.wrapper.args.scale_mx: ")])
def test_a_wrong_wrapper_is_reported_before_images_are_looked_for(wrapper, expected):
    spec = {'dataset': {'name': 'image-folder', 'args': {'root_path': 'absent'}}, 'wrapper': wrapper}
    with pytest.raises(UserError) as error:
        datasets.make(spec, '/nowhere', 'train_dataset')
    assert str(error.value).startswith(expected)
