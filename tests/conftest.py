"""Shared by all tests: where the reference data lies, and small specs."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('MSIT_SHARED', ROOT.parent / 'shared')).resolve()


@pytest.fixture
def shared() -> Path:
    """Folder of reference outputs (golden/) and pictures (data/); skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f'no reference data at {SHARED}; set MSIT_SHARED to its folder')
    return SHARED


@pytest.fixture
def tiny_msit() -> dict:
    """Spec of an MSIT with every part in place, small enough for any test."""
    return {'name': 'msit', 'args': {
        'base_dim': 16, 'heads': 4, 'radius': 1, 'msc_convs': 2, 'mssa_projections': 2,
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'no_upsampling': True}},
        'pb_spec': {'name': 'posenc', 'args': {'enc_dims': 8}},
        'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [16], 'act': 'gelu'}},
    }}
