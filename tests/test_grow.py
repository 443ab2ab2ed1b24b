"""A deepened encoder computes what the shallower one did, and learns from there."""
import copy

import pytest
import torch
from test_models import grid, image

import models
from engine.checkpoint import save_checkpoint
from engine.tools.grow import grow
from engine.training.pretrain import load_stage1
from utils import UserError


def deeper(spec: dict, blocks: int, **args) -> dict:
    spec = copy.deepcopy(spec)
    spec['args']['encoder_spec']['args'].update(n_resblocks=blocks, **args)
    return spec


def saved(tmp_path, spec: dict) -> str:
    """A file of that model, whose body is not small."""
    torch.manual_seed(0)
    model = models.make(spec)
    save_checkpoint(tmp_path / 'small.pth', model, spec, global_batch=70)
    return str(tmp_path / 'small.pth')


@pytest.mark.parametrize('blocks', [0, 1])
def test_same_function_and_all_of_it_learns(tmp_path, tiny_msit, blocks):
    source = saved(tmp_path, deeper(tiny_msit, blocks))
    assert grow(source, deeper(tiny_msit, 4), tmp_path / 'large.pth') == 4 - blocks
    small, large = models.load(source), models.load(tmp_path / 'large.pth')
    lr, (coord, cell) = image(1, 9, 11), grid(20, 30)
    with torch.no_grad():
        assert torch.equal(small(lr, coord, cell), large(lr, coord, cell))

    trained = models.make(deeper(tiny_msit, 4))
    assert load_stage1(trained, deeper(tiny_msit, 4), tmp_path / 'large.pth')[1] == 70
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    before = {key: value.clone() for key, value in trained.encoder.named_parameters()}
    for _ in range(2):  # a first convolution has no gradient before the second is no longer zero
        optimizer.zero_grad()
        trained(lr, coord, cell).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(before[key], value) for key, value in trained.encoder.named_parameters())


@pytest.mark.parametrize('blocks', [1, 3])
def test_fresh_decoder(tmp_path, tiny_msit, blocks):
    """The file's encoder, deepened or not, below the decoder that the seed gives, be it another method's."""
    source = saved(tmp_path, tiny_msit)
    spec = {'name': 'liif', 'args': {'encoder_spec': deeper(tiny_msit, blocks)['args']['encoder_spec'],
                                     'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [8]}}}}
    assert grow(source, spec, tmp_path / 'new.pth', fresh_decoder=True, seed=5) == blocks - 1
    old, new = models.load(source), models.load(tmp_path / 'new.pth')
    lr = image(1, 9, 11)
    with torch.no_grad():
        assert torch.equal(old.encoder.features(lr), new.encoder.features(lr))
    torch.manual_seed(5)
    for key, value in models.make(spec).state_dict().items():
        assert key.startswith('encoder.') or torch.equal(new.state_dict()[key], value)


def test_refused(tmp_path, tiny_msit):
    """Nothing is written."""
    source, target = saved(tmp_path, tiny_msit), tmp_path / 'large.pth'
    rdn = copy.deepcopy(tiny_msit)
    rdn['args']['encoder_spec'] = {'name': 'rdn', 'args': {'G0': 8, 'RDNconfig': 'A', 'no_upsampling': True}}
    fixed_scale = {'name': 'edsr-baseline', 'args': {'n_resblocks': 4, 'n_feats': 8, 'scale': 2}}
    for spec, message in ((deeper(tiny_msit, 1), 'small.pth: its encoder has as many blocks'),
                          (deeper(tiny_msit, 0), 'small.pth: has 1 residual blocks, the deeper encoder 0'),
                          (deeper(tiny_msit, 2, n_feats=12), 'of another shape'), (rdn, 'RDN cannot be deepened'),
                          (deeper(tiny_msit, 2, res_scale=0.5), 'small.pth: its network computes something else'),
                          (fixed_scale, 'small.pth: its tensors are not those of this model'),
                          ({'name': 'bicubic'}, "'bicubic' has no encoder to deepen")):
        with pytest.raises(UserError, match=message):
            grow(source, spec, target)
    with pytest.raises(UserError, match=r"^deep.yaml: model.args: model 'msit' needs encoder_spec"):
        grow(source, {'name': 'msit'}, target, title='deep.yaml: model')
    with pytest.raises(UserError, match=r'small.pth: its encoder computes something else'):
        grow(source, deeper(tiny_msit, 1, res_scale=0.5), target, fresh_decoder=True)
    assert not target.exists()


def test_fixed_scale_networks_grow_too(tmp_path, tiny_msit):
    """To a deeper network of the same factor, not to another model."""
    spec = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'scale': 2}}
    small = models.make(spec).eval()
    save_checkpoint(tmp_path / 'x2.pth', small, spec)
    deep = {'name': 'edsr-baseline', 'args': {'n_resblocks': 3, 'n_feats': 8, 'scale': 2}}
    assert grow(tmp_path / 'x2.pth', deep, tmp_path / 'large.pth') == 2
    large = models.load(tmp_path / 'large.pth')
    lr = image(1, 9, 11)
    assert len(large.encoder.body) == 4 and torch.equal(large.upscale(lr, (18, 22)), small.upscale(lr, (18, 22)))
    for fresh_decoder in (False, True):
        with pytest.raises(UserError, match=r'x2.pth: its tensors are not those of this model'):
            grow(tmp_path / 'x2.pth', deeper(tiny_msit, 4), tmp_path / 'other.pth', fresh_decoder)


@pytest.mark.parametrize('no_upsampling', [True, False])
def test_deepened_state(no_upsampling):
    """Of the encoder by itself, also with its upsampling tail: the same image, and the given tensors unchanged."""
    def encoder(blocks: int):
        return models.ENCODERS.make({'name': 'edsr-baseline', 'args': {
            'n_resblocks': blocks, 'n_feats': 4, 'res_scale': 0.5, 'no_upsampling': no_upsampling}})
    torch.manual_seed(0)
    small, large = encoder(1), encoder(3)
    given = {key: value.clone() for key, value in small.state_dict().items()}
    state, added = large.deepened_state(given)
    assert added == 2 and set(state) == set(large.state_dict())
    assert set(given) == set(small.state_dict()) and all(torch.equal(small.state_dict()[key], given[key]) for key in given)
    large.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(small.features(image(1, 9, 11)), large.features(image(1, 9, 11)))
