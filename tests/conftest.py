"""Shared by all tests: where the reference data lies, small specs and configs, and a folder to train in."""
import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lab import BATCHES, Lab
from PIL import Image

import datasets
import engine.training.trainer
from engine.config import TEST_KEYS, load_config

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('MSIT_SHARED', ROOT.parent / 'shared')).resolve()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite, with a thread each; none for a file or two, which are tested sooner without."""
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.fixture
def shared() -> Path:
    """Folder of reference outputs (golden/) and images (data/); skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f'no reference data at {SHARED}; set MSIT_SHARED to its folder')
    return SHARED


@pytest.fixture
def set5(shared):
    """Set5 as `test-set5.yaml` has it."""
    config = load_config(ROOT / 'configs/test/test-set5.yaml', TEST_KEYS)
    return datasets.make(config['test_dataset'], shared / 'data', 'test_dataset')


@pytest.fixture
def set_threads():
    """`torch.set_num_threads`, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def tiny_msit() -> dict:
    """Spec of an MSIT with every part in place, small enough for any test."""
    return {'name': 'msit', 'args': {
        'base_dim': 16, 'heads': 4, 'radius': 1, 'msc_convs': 2, 'mssa_projections': 2,
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'no_upsampling': True}},
        'pb_spec': {'name': 'posenc', 'args': {'enc_dims': 8}},
        'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [16], 'act': 'gelu'}},
    }}


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


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys, tiny_msit) -> Lab:
    """Four images of noise, and a config that is trained on them within seconds."""
    images = tmp_path / 'data/images'
    images.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f'{number}.png')
    folder = {'name': 'image-folder', 'args': {'root_path': 'images'}}
    config = {
        'train_dataset': {
            'dataset': folder,
            'wrapper': {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 8, 'sample_q': 16}},
            'batch_size': 2, 'epoch_batches': BATCHES, 'num_workers': 0,
        },
        'val_dataset': {
            'dataset': {'name': 'image-folder', 'args': {'root_path': 'images', 'first_k': 1}},
            'wrapper': {'name': 'sr-evaluation', 'args': {'name': 'V', 'protocol': 'div2k', 'scales': [2, 3], 'crop': 24}},
        },
        'model': tiny_msit,
        'optimizer': {'name': 'adam', 'args': {'lr': 1e-3}},
        'lr_schedule': {'name': 'warmup-cosine', 'args': {'start_lr': 2e-4, 'warmup': 2, 'cosine': 4, 'unit': 'batch'}},
        'epoch_max': 2, 'epoch_save': 1,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine.training.trainer, 'SCALAR_EVERY', 1)
    return Lab(tmp_path, config, capsys, monkeypatch)
