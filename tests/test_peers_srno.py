"""SRNO against its program's output; attention over all queries, in chunks."""
from pathlib import Path

import pytest
import torch
from peers_fill import assert_row, fill, hr_grid, lr_image
from test_models import assert_user_error, grid, image, tiny_encoder, variant

import models
from common import coords
from engine.config import TRAIN_KEYS, load_config
from models import upscale
from models.decoders import srno
from models.decoders.srno import SRNO, GalerkinBlock, HeadNorm
from models.registries import MODELS

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/train'
NARROW = {'encoder_spec': tiny_encoder(no_upsampling=True), 'width': 8, 'blocks': 2}


def test_srno_gives_the_reference_output(shared):
    encoder = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 64, 'no_upsampling': True}}
    model = fill(models.make({'name': 'sronet', 'args': {'encoder_spec': encoder, 'width': 16, 'blocks': 4}}))
    coord, cell = hr_grid(9, 16)
    with torch.no_grad():
        rgb = model.query(model.encode(lr_image()), coord, cell)
    assert_row(rgb.view(1, 9, 16, 3).permute(0, 3, 1, 2), 'srno', shared)


@pytest.mark.parametrize('encoder, parameters', [('edsr-baseline', 2_015_299), ('rdn', 22_768_835)])
def test_trainable_parameters(encoder, parameters):
    spec = {'name': 'sronet', 'args': {'encoder_spec': {'name': encoder, 'args': {'no_upsampling': True}}}}
    with torch.device('meta'):
        model = MODELS.make(spec)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


def test_both_names_are_one_model():
    assert MODELS.entries['srno'] is MODELS.entries['sronet'] is SRNO


def test_head_norm_by_hand():
    """Mean 2, unbiased deviation 1; another scale and shift for each head."""
    norm = HeadNorm(2, 3)
    with torch.no_grad():
        norm.weight[1], norm.bias[1] = 2, 1
        x = norm(torch.tensor([1.0, 2, 3]).expand(1, 2, 1, 3))
    assert x[0, 0, 0].tolist() == pytest.approx([-1, 0, 1], abs=1e-4)
    assert x[0, 1, 0].tolist() == pytest.approx([-1, 1, 3], abs=1e-4)


def test_attention_is_without_a_softmax_and_the_residual_is_the_block_s_input():
    """One head, written out with sums; the second residual adds the input, not what the attention added to it."""
    torch.manual_seed(0)
    block = GalerkinBlock(4, 1).double()
    x = torch.randn(1, 4, 1, 5, dtype=torch.float64)
    q, k, v = (torch.stack([block.qkv_proj(x)[0, 4 * i + c, 0] for c in range(4)], 1) for i in range(3))  # (5, 4) each
    k, v = ((t - t.mean(1, keepdim=True)) / (t.std(1, keepdim=True) + 1e-5) for t in (k, v))
    attended = torch.stack([sum((q[i] @ k[j]) * v[j] for j in range(5)) / 5 for i in range(5)], 1)       # (4, 5)
    hidden = torch.nn.functional.gelu(block.o_proj1((attended + x[0, :, 0])[None, :, None]))
    assert (block(x) - (block.o_proj2(hidden) + x)).abs().max() < 1e-12


def test_chunks_make_the_same_grid(monkeypatch):
    """In float64: chunks of ten queries of each of two images, in three passes."""
    model = variant('sronet', 0).double()
    latent = model.encode(image(2).double())
    rows, columns, cell = coords.pixel_centres(16), coords.pixel_centres(31), coords.make_cell(16, 31).expand(2, 2)
    lengths, embed = [], model.embed
    monkeypatch.setattr(model, 'embed', lambda *args: lengths.append(args[1].shape[1]) or embed(*args))
    with torch.no_grad():
        whole = model.query_grid(latent, rows, columns, cell, 2 ** 30)
        assert lengths == [upscale.SAMPLE_QUERIES, 16 * 31]  # the first ones to measure
        monkeypatch.setattr(srno, 'queries_at_once', lambda ask, coord, memory: 10)
        parts = model.query_grid(latent, rows, columns, cell, 2 ** 30)
    assert len(lengths) == 2 + 3 * 50 and max(lengths[2:]) == 10
    assert (parts - whole).abs().max() < 1e-12


def test_queries_see_each_other_and_their_order_plays_no_part():
    model, lr = variant('sronet', 0), image()
    coord, cell = grid(14, 18)
    order = torch.randperm(coord.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(lr, coord, cell)
        assert (model(lr, coord[:, order], cell) - whole[:, order]).abs().max() < 1e-5
        assert (model(lr, coord[:, :100], cell) - whole[:, :100]).abs().max() > 1e-4
    assert model.reach is None


def test_the_cell_is_kept_beyond_scale_max_on_each_axis():
    free, kept = (models.make({'name': 'srno', 'args': {**NARROW, 'scale_max': limit}}).eval() for limit in (None, 4))
    kept.load_state_dict(free.state_dict())
    coord, _ = grid(5, 5)
    lr, cell = image(height=6, width=4), torch.tensor([[2 / 48, 2 / 8]])           # ×8 and ×2
    with torch.no_grad():
        assert torch.equal(kept(lr, coord, cell), free(lr, coord, cell * torch.tensor([2, 1])))
        assert not torch.allclose(kept(lr, coord, cell), free(lr, coord, cell))


@pytest.mark.parametrize('family, encoder', [('edsr', 'edsr-baseline'), ('rdn', 'rdn')])
def test_recipe(family, encoder):
    config = load_config(CONFIGS / f'train_{family}_baseline_srno.yaml', TRAIN_KEYS)
    source = config['train_dataset']
    assert source['dataset']['args']['root_path'] == 'DIV2K/DIV2K_train_HR'
    assert source['wrapper']['args'] == {'inp_size': 128, 'scale_min': 1, 'scale_max': 4, 'augment': True,
                                         'sample_q': 128 ** 2, 'scale_per': 'sample'}
    assert source['batch_size'] * source['epoch_batches'] == 800 * 20 and source['batch_size'] == 64
    assert config['optimizer'] == {'name': 'adam', 'args': {'lr': 4e-4}}
    assert config['lr_schedule'] == {'name': 'warmup-cosine', 'args': {'start_lr': 4e-5, 'warmup': 50, 'cosine': 1000}}
    assert config['epoch_max'] == 1050 and config['model']['args']['encoder_spec']['name'] == encoder


@pytest.mark.parametrize('args, fragment', [
    ({'blocks': 3}, '8 channels cannot be split among 3 heads'), ({'blocks': 8}, '8 channels cannot be split among 8 heads'),
    ({'blocks': 0}, '8 channels cannot be split among 0 heads'), ({'scale_max': 0.5}, 'scale_max is 0.5')])
def test_wrong_arguments_are_refused(args, fragment):
    with assert_user_error(fragment):
        models.make({'name': 'srno', 'args': {**NARROW, **args}})
