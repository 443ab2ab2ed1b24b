"""The shipped configs, and the commands and keys that the documents show."""
import re
import shlex
import types
from pathlib import Path

import pytest
import yaml
from config_files import CONFIGS, change

import datasets
from engine.config import SUITE_KEYS, TEST_KEYS, TRAIN_KEYS, load_config
from engine.training.schedule import OPTIMIZERS, SCHEDULES
from models.registries import MODELS

ROOT = CONFIGS.parent
TRAIN_CONFIGS = sorted(path for folder in ('train', 'ablation', 'zoo') for path in (CONFIGS / folder).glob('*.yaml'))
TEST_CONFIGS = sorted((CONFIGS / 'test').glob('*.yaml'))
JPEG_SETS = ('set5', 'set14', 'bsd100')
PAPER_SCALES = {'set5': [2, 3, 4, 6, 8], 'set14': [2, 3, 4, 6, 8], 'bsd100': [2, 3, 4, 6, 8], 'urban100': [2, 3, 4, 6, 8],
                'div2k': [2, 3, 4, 6, 12, 18, 24, 30]}


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
        config = load_config(ROOT / file, keys, options.get('-set', ()))
        assert {name for name, key in keys.items() if key.required} <= config.keys() <= keys.keys()


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


@pytest.mark.parametrize('name', JPEG_SETS)
def test_jpeg_test_configs(name):
    """The paper's sets at its scales; nothing but the LR images' quality differs, and the name in tables."""
    expected = load_config(CONFIGS / 'test' / f'test-{name}.yaml', TEST_KEYS)
    args = expected['test_dataset']['wrapper']['args']
    args |= {'name': args['name'] + '-jpeg75', 'degrade': {'jpeg': 75}}
    assert load_config(CONFIGS / 'test' / f'test-{name}-jpeg75.yaml', TEST_KEYS) == expected


def test_shipped_test_configs_are_the_papers_and_few_others():
    expected = {f'test-{name}.yaml' for name in PAPER_SCALES}
    expected |= {f'test-{name}-{scale}.yaml' for name, scales in PAPER_SCALES.items() for scale in scales}
    expected |= {f'test-{name}-jpeg75.yaml' for name in JPEG_SETS}
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


RACE = {'liif': None, 'lte': None, 'clit': 'pb_encoder', 'msit': 'mssa.position_bias'}  # and the positional bias
ENCODER = {'name': 'edsr-baseline', 'args': {'n_resblocks': 8, 'n_feats': 48, 'no_upsampling': True}}


def zoo(name: str) -> dict:
    return load_config(CONFIGS / 'zoo' / f'{name}.yaml', TRAIN_KEYS)


@pytest.mark.parametrize('method', RACE)
def test_the_race_is_fair(method):
    """All methods have the encoder, data, batches, optimiser, learning rates, iterations and seed of MSIT's run."""
    config, other, bias = zoo(f'race_{method}'), zoo('race_msit'), RACE[method]
    assert config['model']['name'] == method and config['model']['args']['encoder_spec'] == ENCODER
    assert config.pop('lr_factors', None) == ({bias: 100} if bias else None)
    del config['model'], other['model'], other['lr_factors']
    assert config == other and (config['optimizer']['name'], config['seed']) == ('muon', 0)
    assert config['epoch_max'] * config['train_dataset']['epoch_batches'] == 10_000


def test_the_race_of_second_stages_is_about_rim_alone():
    start, continued, rim = zoo('race_msit'), zoo('race_msit_continued'), zoo('race_msit_rim')
    assert rim == change(continued, 'model.args.reparam', 'rim') and continued['model'] == start['model']
    assert continued['train_dataset'] == change(start, 'train_dataset.wrapper.args.scale_max', 8)['train_dataset']


def test_stages_of_msit_m():
    """Wide crops come late, and RIM with wide scales. (Its parameters are counted in test_train.py.)"""
    first, wide, rim = zoo('msit_m'), zoo('msit_m_crops48'), zoo('msit_m_rim')
    assert (first['optimizer']['name'], first['precision'], first['compile']) == ('muon', 'bfloat16', True)
    assert 0.99 < first['ema_decay'] < 1 and first['train_dataset']['wrapper']['args']['rescale_min'] < 1
    sides = [config['train_dataset']['wrapper']['args']['inp_size'] for config in (first, wide, rim)]
    assert sides == [32, 48, 48] and wide['model'] == first['model']
    rim_alone = change(wide, 'train_dataset.wrapper.args.scale_max', 8)
    assert rim == change(rim_alone, 'model.args.reparam', 'rim')


def test_photographs():
    """MSIT-S, trained on with mild degradations, as the documents say, and validated on JPEG files."""
    config, start = zoo('msit_s_photo'), zoo('msit_s')
    assert config['model'] == start['model']
    degrade = config['train_dataset']['wrapper']['args'].pop('degrade')
    assert degrade == {'jpeg': [60, 95], 'blur': [0, 0.6], 'noise': [0, 2], 'share': 0.9,
                       'kernels': ['bicubic', 'bilinear', 'box', 'lanczos']}
    assert config['train_dataset'] == start['train_dataset']
    assert config['val_dataset']['wrapper']['args']['degrade'] == {'jpeg': 75}
    assert config['epoch_max'] * config['train_dataset']['epoch_batches'] == 6000


def test_defaults_that_the_recipe_relies_on(tmp_path):
    """One scale per batch, the paper's FEM, ordinary convolutions in stage 1: what the configs leave unsaid."""
    wrapper = datasets.WRAPPERS.make(RECIPE['train_dataset']['wrapper'], 'wrapper',
                                     dataset=types.SimpleNamespace(size=None), data_root=tmp_path)
    assert (wrapper.scale_per, wrapper.scale_range, wrapper.sample_q) == ('batch', (1, 4), 2304)
    parameters = MODELS.arguments('msit')
    expected = {'fem': 'paper', 'sim': True, 'attention': 'mssa', 'value_projections': 1, 'cell_decode': True,
                'reparam': 'none', 'reparam_init': 'identity'}
    assert {key: parameters[key].default for key in expected} == expected
