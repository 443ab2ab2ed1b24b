"""The memory of upscaling, as the system counts it, in processes of their own: for every registered model."""
import re
import sys

import pytest

from benchmarks.memory import CONFIGS, TOLERANCE, Case, in_own_process
from engine.config import TRAIN_KEYS, load_config
from models.registries import MODELS

MIB = 2 ** 20
ALIASES = {'amsit': 'msit', 'srno': 'sronet'}
SIDES = {'train_rdn_baseline_x2': 64, 'train_ciaosr_s': 96}  # of slow ones; of others 160
NAMES = ['bicubic', 'train_edsr_baseline_x2', 'train_rdn_baseline_x2',
         *(f'train_{method}_s' for method in ('ciaosr', 'clit', 'ipe', 'liif', 'lte', 'lte-fast', 'metasr', 'msit', 'srno',
                                              'ultrasr'))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells the peak')
@pytest.mark.parametrize('name', NAMES)
def test_the_system_counts_no_more_than_was_allowed(name):
    """×2 in 64 MiB; who refuses that keeps the amount that the refusal names."""
    case = Case(name, SIDES.get(name, 160), 2, 64 * MIB)
    used = in_own_process(case)
    if isinstance(used, str):
        case = case._replace(memory=int(re.search(r'allow at least (\d+) MiB', used)[1]) * MIB)
        assert case.memory > 64 * MIB
        used = in_own_process(case)
    assert 0 < used <= TOLERANCE * case.memory


def test_every_registered_model_is_measured():
    measured = {name if name == 'bicubic' else load_config(CONFIGS / f'{name}.yaml', TRAIN_KEYS)['model']['name']
                for name in NAMES}
    assert {ALIASES.get(name, name) for name in MODELS.entries} == measured
