"""`engine.export -format released`: the files that the official programs load, against those that they wrote."""
import pytest
import torch
from lab import slow_except
from test_layouts import authors, made, output
from test_models import assert_user_error, tiny_encoder, tiny_inr

import models
from engine.checkpoint import save_checkpoint
from engine.tools.export import export


def same(one: object, other: object) -> bool:
    """Whether two files agree in all values and in every bit of their tensors."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize('name', slow_except(
    ['lte'], ['liif', 'lte', 'metasr', 'rcan_lte', 'swinir_lte', 'swinir_liif', 'msit_edsr']))
def test_a_released_file_comes_back(shared, tmp_path, name):
    """All names, shapes and values, what the programs store and never use among them; MSIT's second stage folded."""
    if name.startswith('swinir'):
        pytest.importorskip('timm')
    export(shared / f'golden/{name}.pth', tmp_path / 'a.pth', layout='released')
    theirs, ours = (torch.load(path, weights_only=True)['model']
                    for path in (shared / f'golden/{name}.pth', tmp_path / 'a.pth'))
    if name == 'msit_edsr':
        maps = [key for key in theirs['sd'] if key.endswith(('convmap.weight', 'linear.weight'))]
        assert len(maps) == 2 * 9 and ours['sd'].keys() == theirs['sd'].keys() - set(maps)
        for key in maps:
            theirs['sd'].pop(key)
            kernel = key.rsplit('.', 2)[0] + '.weight'
            assert ours['sd'][kernel].shape == theirs['sd'][kernel].shape
            theirs['sd'][kernel] = ours['sd'][kernel]
    if name == 'rcan_lte':  # that file's mean shift is noise
        for key in [key for key in theirs['sd'] if '_mean.' in key]:
            assert ours['sd'][key].shape == theirs['sd'][key].shape
            theirs['sd'][key] = ours['sd'][key]
    assert theirs['name'] == ours['name'] and same(theirs['sd'], ours['sd'])
    assert same(theirs['args'], ours['args'])
    assert torch.equal(output(models.load(tmp_path / 'a.pth')), output(models.load(shared / f'golden/{name}.pth')))


@pytest.mark.parametrize('use_lem', slow_except([True], [True, False]))
def test_our_msit_goes_to_the_authors_program(tmp_path, use_lem):
    content, model = authors(use_lem=use_lem)
    spec = {'name': 'msit', 'args': {
        **{key: value for key, value in content['model']['args'].items() if key.endswith(('_spec', '_dim'))},
        'heads': 2, 'radius': 1, 'msc_convs': 2, 'mssa_projections': 2, 'fem': 'authors' if use_lem else 'none'}}
    ours = models.make(spec)
    ours.load_state_dict(model.state_dict())
    save_checkpoint(tmp_path / 'a.pth', ours, spec)
    export(tmp_path / 'a.pth', tmp_path / 'b.pth', layout='released')
    written = torch.load(tmp_path / 'b.pth', weights_only=True)['model']
    assert written['name'] == 'amsit' and written['args']['use_lem'] is use_lem
    assert {'amsno.lem.mask', 'amsno.lem.mix_margin'} <= set(written['sd'])
    theirs = content['model']['sd']
    assert same({key: value for key, value in written['sd'].items() if key in theirs}, theirs)
    shift = [value for key, value in written['sd'].items() if '_mean.' in key]
    assert sum(value.numel() for value in shift) == 24
    assert torch.equal(output(models.load(tmp_path / 'b.pth')), output(model))


@pytest.mark.parametrize(('spec', 'words'), [
    ({'name': 'msit', 'args': {}}, 'fem: paper cannot be written'),
    ({'name': 'msit', 'args': {'fem': 'none', 'sim': False}}, 'sim: False cannot'),
    ({'name': 'msit', 'args': {'fem': 'none', 'value_projections': 2}}, 'value_projections: 2 cannot'),
    ({'name': 'sronet', 'args': {'encoder_spec': tiny_encoder(no_upsampling=True), 'width': 8, 'blocks': 2}},
     "'sronet' cannot be written in the released format; expected one of")])
def test_what_no_released_program_has(tmp_path, tiny_msit, spec, words):
    spec = {'name': spec['name'], 'args': {**(tiny_msit['args'] if spec['name'] == 'msit' else {}), **spec['args']}}
    save_checkpoint(tmp_path / 'a.pth', made(spec), spec)
    with assert_user_error('a.pth: ', words):
        export(tmp_path / 'a.pth', tmp_path / 'b.pth', layout='released')
    assert not (tmp_path / 'b.pth').exists()


def test_arguments_that_the_programs_do_not_know_stay_here(tmp_path):
    spec = {'name': 'lte', 'args': {**tiny_inr(), 'hidden_dim': 6, 'scale_max': None}}
    save_checkpoint(tmp_path / 'a.pth', made(spec), spec)
    export(tmp_path / 'a.pth', tmp_path / 'b.pth', layout='released')
    written = torch.load(tmp_path / 'b.pth', weights_only=True)['model']['args']
    assert set(written) == {'encoder_spec', 'imnet_spec', 'hidden_dim'}
    with assert_user_error("suffix '.safetensors', expected .pth or .pt"):
        export(tmp_path / 'a.pth', tmp_path / 'b.safetensors', layout='released')
