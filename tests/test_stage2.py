"""The cumulative stage: stage-1 files become re-parameterised networks, and ablation configs build the right ones."""
import copy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from recipes import recipes

import models
from engine.checkpoint import save_checkpoint
from engine.config import TRAIN_KEYS, changes, load_config
from engine.tools.export import export
from engine.training.pretrain import load_stage1
from models.msit.rim import RefConv2d, RIMConv2d
from utils import UserError, count_parameters

ROOT = Path(__file__).resolve().parent.parent
ABLATIONS = recipes('docs/ablations.md')


def with_args(spec: dict, **args) -> dict:
    """A copy of a spec with some of its arguments replaced."""
    return {'name': spec['name'], 'args': {**copy.deepcopy(spec['args']), **args}}


def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Moves every parameter and batch-norm statistic away from its start, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(value + 0.1 * torch.rand_like(value) if 'var' in name or 'stride' in name
                            else value + 0.05 * torch.randn_like(value))
    return model


@pytest.fixture
def stage1(tiny_msit, tmp_path):
    """(path, model) of a stirred stage-1 checkpoint."""
    model = stir(models.make(tiny_msit)).eval()
    save_checkpoint(tmp_path / 'stage1.pth', model, tiny_msit, epoch=3, global_batch=42)
    return tmp_path / 'stage1.pth', model


@pytest.mark.parametrize('reparam', ['rim', 'refconv', 'none'])
def test_starts_at_the_stage1_function(stage1, tiny_msit, reparam):
    """Equal outputs in float64: RIM's maps start at zero and one."""
    path, first = stage1
    spec = with_args(tiny_msit, reparam=reparam)
    second = models.make(spec)
    line, batches = load_stage1(second, spec, path)
    lr = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(second.double().eval().upscale(lr, (17, 20)), first.double().upscale(lr, (17, 20)),
                               rtol=0, atol=1e-12)
    assert batches == 42
    convolutions = 2 + 2 + 1  # MSC, query branch, values
    expected = convolutions * {'none': 0, 'refconv': 1, 'rim': 2}[reparam]
    assert line.endswith(f' copied, {expected} start afresh')


def test_only_the_maps_and_the_rest_learn(stage1, tiny_msit):
    """W is no parameter and stays bit for bit through an optimiser step; maps, biases and all other parameters move."""
    path, _ = stage1
    spec = with_args(tiny_msit, reparam='rim')
    model = models.make(spec)
    load_stage1(model, spec, path)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):  # the scalars' gradient is zero until the maps have left zero
        loss = (model(torch.rand(2, 3, 6, 6), torch.rand(2, 20, 2) * 1.8 - 0.9, torch.full((2, 2), 0.1)) - 1).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frozen = {f'{name}.weight' for name, layer in model.named_modules() if isinstance(layer, RIMConv2d)}
    assert len(frozen) == 5 and not frozen & {name for name, _ in model.named_parameters()}
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    unmoved = [name for name, _ in model.named_parameters() if torch.equal(before[name], after[name])]
    assert unmoved == []


def test_authors_first_stage_layout(shared, tmp_path):
    """The released layout maps too: the golden file folded to a first stage, re-parameterised again, keeps its outputs."""
    from models.released import AMSIT_NAMES, rename
    source = torch.load(shared / 'golden/msit_edsr.pth', weights_only=True)['model']
    folded = models.load(shared / 'golden/msit_edsr.pth')
    state = {key: folded.state_dict()[rename('amsit', key)] for key in source['sd']
             if 'convmap' not in key and not key.endswith('linear.weight') and 'mean' not in key.split('.')[1]}
    assert any(key.startswith('amsno.Ms_conv_4') for key in state) and AMSIT_NAMES
    torch.save({'model': {'name': 'amsit', 'args': source['args'], 'sd': state}}, tmp_path / 'first.pth')
    spec = {'name': 'amsit', 'args': {**source['args'], 'reparam': 'rim'}}
    second = models.make(spec)
    load_stage1(second, spec, tmp_path / 'first.pth')
    lr = torch.rand(1, 3, 6, 8)
    torch.testing.assert_close(second.eval().upscale(lr, (15, 18)), folded.upscale(lr, (15, 18)), rtol=0, atol=1e-6)


def test_refused_files(stage1, tiny_msit, tmp_path):
    """Another width, another method, a second stage, another normalisation: each is refused by name."""
    path, model = stage1
    spec = with_args(tiny_msit, reparam='rim')

    def refusal(file, spec=spec):
        with pytest.raises(UserError) as caught:
            load_stage1(models.make(spec), spec, file)
        assert '\n' not in str(caught.value)
        return str(caught.value)

    message = refusal(path, with_args(spec, base_dim=32))
    assert 'of another shape (widen.weight' in message and 'the file has base_dim: 16; the config base_dim: 32' in message
    message = refusal(path, with_args(spec, msc_convs=1))
    assert '2 left over (msno.msc.convs.1.weight, msno.msc.convs.1.bias)' in message and 'msc_convs: 2' in message

    second = models.make(spec)
    save_checkpoint(tmp_path / 'second.pth', second, spec)
    assert 'second-stage file (reparam: rim)' in refusal(tmp_path / 'second.pth')
    for number in ([1, 2], -1, 1.5, None, 10 ** 16):
        torch.save({**torch.load(path), 'global_batch': number}, tmp_path / 'counted.pth')
        assert 'global_batch is ' in refusal(tmp_path / 'counted.pth')

    other = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 4}}
    save_checkpoint(tmp_path / 'other.pth', models.make(other), other)
    assert "holds a 'edsr-baseline', but the config's model is 'msit'" in refusal(tmp_path / 'other.pth')

    model.data_norm = {'inp': {'sub': [0.0], 'div': [1.0]}, 'gt': {'sub': [0.0], 'div': [1.0]}}
    save_checkpoint(tmp_path / 'norm.pth', model, tiny_msit)
    assert 'data_norm' in refusal(tmp_path / 'norm.pth')


def test_random_start_differs(stage1, tiny_msit):
    """The authors' random start is an option, and leaves the stage-1 function at once."""
    path, first = stage1
    spec = with_args(tiny_msit, reparam='rim', reparam_init='random')
    torch.manual_seed(0)
    second = models.make(spec)
    load_stage1(second, spec, path)
    lr = torch.rand(1, 3, 7, 9)
    assert (second.eval().upscale(lr, (17, 20)) - first.upscale(lr, (17, 20))).abs().max() > 1e-3


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-6), ('float16', 2e-2)])
def test_export(stage1, tiny_msit, tmp_path, dtype, tolerance):
    """An exported file is folded, holds weights only, and gives the same image."""
    path, _ = stage1
    spec = with_args(tiny_msit, reparam='rim')
    second = models.make(spec)
    load_stage1(second, spec, path)
    stir(second).eval()
    save_checkpoint(tmp_path / 'last.pth', second, spec, epoch=1, global_batch=50, optimizer={'sd': {}})
    export(tmp_path / 'last.pth', tmp_path / 'out.pth', dtype)
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert set(content) == {'model', 'data_norm', 'epoch', 'global_batch'} and 'reparam' not in content['model']['args']
    assert content['model']['sd']['msno.msc.convs.0.weight'].dtype == getattr(torch, dtype)
    exported = models.load(tmp_path / 'out.pth')
    assert not any(isinstance(layer, RefConv2d) for layer in exported.modules())
    lr = torch.rand(1, 3, 7, 9)
    torch.testing.assert_close(exported.upscale(lr, (17, 20)), second.upscale(lr, (17, 20)), rtol=0, atol=tolerance)


NETWORKS = {  # trainable parameters of each recipe's network, worked out from the paper's counts
    'base': 8_123_980, 'conventional-attention': 8_431_436, 'rim': 6_047_308, 'refconv': 5_961_292,
    'no-fem': 8_123_980 - 1, 'rim-1-8': 6_047_308, 'rim-4-12': 6_047_308, 'rim-1-12': 6_047_308,
}


def msc_weights(channels: int, convs: int) -> int:
    """Kernel weights of MSC with t convolutions: Σ (C/t)²·(2i + 1)²; biases are C whatever t is."""
    return sum((channels // convs) ** 2 * (2 * i + 1) ** 2 for i in range(1, convs + 1))


for t in (1, 2, 4, 8):  # W_ss has t groups: 2C·C/t weights
    NETWORKS[f'msc-{t}'] = (8_123_980 + msc_weights(256, t) - msc_weights(256, 16)
                                   + 512 * 256 // t - 512 * 256 // 16)
for n in (1, 2, 8, 16):  # W_ss has C/n groups: 2C·n weights
    NETWORKS[f'mssa-{n}'] = 8_123_980 + msc_weights(256, n) - msc_weights(256, 4) + 512 * n - 512 * 4
# without SIM: 512 of batch norm twice, W_ss 512·16 + 512, W_ds 256·512 + 256 go; a 3×3 convolution comes
NETWORKS['no-sim'] = 8_123_980 - (2 * 512 + 512 * 16 + 512 + 256 * 512 + 256) + 256 * 256 * 9 + 256


@pytest.mark.parametrize('name', ABLATIONS)
def test_ablation_networks(name):
    """Every command of docs/ablations.md builds the network of its row, on DIV2K with batch 16, and the table says so."""
    config = ABLATIONS[name].config()
    with torch.device('meta'):
        model = models.make(config['model'])
    assert count_parameters(model) == NETWORKS[name]
    page = (ROOT / 'docs/ablations.md').read_text(encoding='utf-8')
    assert page.count(f'| `{name}` | {NETWORKS[name]:,} |') == 1
    assert config['train_dataset']['batch_size'] == 16
    assert config['train_dataset']['dataset']['args']['root_path'] == 'DIV2K/DIV2K_train_HR'


@pytest.mark.parametrize('name, scales', [
    ('rim', (1, 4)), ('rim-1-8', (1, 8)), ('rim-4-12', (4, 12)), ('rim-1-12', (1, 12))])
def test_table5_ranges(name, scales):
    """The scale ranges of Table V come by config alone."""
    args = ABLATIONS[name].config()['train_dataset']['wrapper']['args']
    assert (args['scale_min'], args['scale_max']) == scales


def test_every_ablation_has_its_count():
    """No ablation goes untested, and no expectation is left without its command."""
    assert ABLATIONS.keys() == NETWORKS.keys()


def test_ablations_change_what_their_names_say():
    """Every ablation differs from the base in its own keys alone."""
    base = ABLATIONS['base'].config()
    expected = {'base': [], 'conventional-attention': ['model.args.attention none → conventional'],
                'no-fem': ['model.args.fem none → none'], 'no-sim': ['model.args.sim none → false'],
                'refconv': ['model.args.reparam none → refconv'], 'rim': ['model.args.reparam none → rim']}
    expected |= {f'msc-{t}': [f'model.args.msc_convs 16 → {t}'] for t in (1, 2, 4, 8)}
    expected |= {f'mssa-{n}': [f'model.args.mssa_projections 4 → {n}'] for n in (1, 2, 8, 16)}
    for name, recipe in ABLATIONS.items():
        found = [line for line in changes(base, recipe.config()) if not line.startswith('train_dataset.wrapper.args.scale_')]
        assert found == expected['rim' if name.startswith('rim') else name], name


def test_yaml_bases_are_relative(tmp_path):
    """A config of one's own can inherit a shipped one by path."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(
        {'base': 'configs/train/train_edsr_baseline_MsIT_rim.yaml', 'epoch_max': 2}), encoding='utf-8')
    config = load_config(tmp_path / 'mine.yaml', TRAIN_KEYS)
    assert config['epoch_max'] == 2 and config['model']['args']['reparam'] == 'rim'


def test_fold_replaces_every_reparameterised_convolution(tiny_msit):
    model = models.make(with_args(tiny_msit, reparam='rim')).double().eval()
    layers = [layer for layer in model.modules() if isinstance(layer, RIMConv2d)]
    assert len(layers) == 5
    for layer in layers:
        torch.nn.init.normal_(layer.convmap.weight, std=0.1)
    lr = torch.rand(1, 3, 6, 7, dtype=torch.float64)
    before = model.upscale(lr, (13, 15))
    assert model.fold() is model
    assert not [layer for layer in model.modules() if isinstance(layer, RefConv2d)]
    assert model.state_dict().keys() == models.make(tiny_msit).state_dict().keys()
    assert (model.upscale(lr, (13, 15)) - before).abs().max() < 1e-12
