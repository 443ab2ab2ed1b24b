"""The memory of upscaling, as the system counts it, in processes of their own: for every registered model."""
import mmap
import os
import platform
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks.memory import CONFIGS, TOLERANCE, Case, in_own_process
from common.allocator import release_unused, resident_bytes
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


GUARD = 'from common.start import guard\nguard()\n'
FAULTS = ('import resource\n{first}'
          "def faults():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
          "b'x' * 2 ** 26\nbefore = faults()\n"
          "for _ in range(10):\n    b'x' * 2 ** 26\n"
          'print(faults() - before)')
PAGES = 2 ** 26 // mmap.PAGESIZE  # of a block
glibc = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='glibc alone does this')


@glibc
@pytest.mark.parametrize('first, settings, cleared', [
    ('', {}, True), (GUARD, {}, False), (GUARD, {'MALLOC_ARENA_MAX': '2'}, True),
    (f'{GUARD}from common.allocator import return_large_blocks\nreturn_large_blocks()\n', {}, True)])
def test_commands_keep_freed_memory(first, settings, cleared):
    """Ten large blocks one after another: the system clears their pages anew, unless the command keeps them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'GLIBC_'))}
    count = int(subprocess.check_output([sys.executable, '-c', FAULTS.format(first=first)], cwd=ROOT,
                                        env={**environment, **settings}))
    assert count > 9 * PAGES if cleared else count < PAGES


@glibc
def test_freed_memory_is_given_back_beyond_a_limit():
    blocks = [b'x' * 2 ** 16 for _ in range(2 ** 10)]  # too small to be given back at once
    blocks = blocks[::64]  # pieces in use between the free ones
    full = resident_bytes()
    release_unused(full + 2 ** 20)
    assert abs(resident_bytes() - full) < 2 ** 20
    release_unused(full - 2 ** 20)
    assert resident_bytes() < full - 15 / 16 * 2 ** 26 + 2 ** 22 and len(blocks) == 16
