"""What is shipped in modelzoo/: harmless, complete, as the lists say, and as good as the README there says."""
import hashlib
import re

import pytest
import torch

import models
from engine.evaluation.evaluate import evaluate_scale
from models.checkpoint import ZOO, find

FILES = sorted(ZOO.glob('*.pth'))
README = (ZOO / 'README.md').read_text(encoding='utf-8')


def names(file) -> str:
    return file.stem


@pytest.mark.parametrize('file', FILES, ids=names)
def test_file(file):
    """Opens without running anything, holds weights alone, and is the one whose digest is listed."""
    content = torch.load(file, weights_only=True)
    assert content.keys() <= {'model', 'data_norm', 'epoch', 'global_batch'}
    model = content['model']
    assert model.keys() == {'name', 'args', 'sd'} and 'reparam' not in model['args']
    assert all(value.isfinite().all() for value in model['sd'].values())
    listed = dict(reversed(line.split('  ')) for line in (ZOO / 'SHA256SUMS').read_text().splitlines())
    assert listed.keys() == {each.name for each in FILES}
    assert hashlib.sha256(file.read_bytes()).hexdigest() == listed[file.name]
    assert f'`{file.name}`' in README


def test_together_they_are_small():
    assert 0 < sum(file.stat().st_size for file in FILES) < 100e6


@pytest.mark.slow
@pytest.mark.parametrize('file', FILES, ids=names)
def test_table_of_the_readme(set5, file):
    """PSNR and SSIM on Set5 at ×3 and ×4, as printed."""
    table = README[README.index(f'| {file.stem} |'):]
    printed = re.findall(r'([\d.]+) / ([\d.]+)', re.search(r'^\| Set5 \|(.*)$', table, re.MULTILINE)[1])
    model = models.load(file)
    for scale, (psnr, ssim) in zip(set5.scales, printed, strict=True):
        if scale in (3, 4):
            row = evaluate_scale(model, set5, scale, torch.device('cpu'), 'test')
            assert row['psnr'] == pytest.approx(float(psnr), abs=0.0051)  # half of the last digit, and rounding
            assert row['ssim'] == pytest.approx(float(ssim), abs=6e-5)


# the networks of the comparison in docs/race.md

RACE = ZOO / 'race'
COMPARED = sorted(RACE.glob('*.pth'))
ROWS = {'liif': 'LIIF', 'lte': 'LTE', 'clit': 'CLIT', 'msit': 'MSIT, stage 1', 'msit_rim': 'MSIT, stage 2 (RIM)',
        'msit_continued': 'MSIT, stage 1, continued'}


def test_compared_files_are_listed_and_small():
    """All that are there, with their digests; at most 8 MB together."""
    lines = (RACE / 'SHA256SUMS').read_text().splitlines()
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in COMPARED}
    assert {name: digest for digest, name in (line.split('  ') for line in lines)} == digests
    assert 0 < sum(file.stat().st_size for file in COMPARED) <= 8e6


@pytest.mark.parametrize('file', COMPARED, ids=names)
def test_compared_file(file):
    """Folded weights alone, of the method that its name says, all but vectors in float16; `-model race/NAME` finds it."""
    content = torch.load(file, weights_only=True)
    assert content.keys() <= {'model', 'data_norm', 'epoch', 'global_batch'}
    model = content['model']
    assert model['name'] == file.stem.split('_')[0] and 'reparam' not in model['args']
    assert all(value.isfinite().all() for value in model['sd'].values())
    assert {value.dtype for value in model['sd'].values() if value.is_floating_point() and value.ndim > 1} == {torch.float16}
    assert find(f'race/{file.stem}') == file


@pytest.mark.slow
@pytest.mark.parametrize('file', COMPARED, ids=names)
def test_table_of_the_comparison(set5, file):
    """PSNR on Set5 at ×3 and ×4 is that of the table in docs/race.md."""
    page = (ZOO.parent / 'docs/race.md').read_text(encoding='utf-8')
    line, = (line for line in page.splitlines() if line.startswith(f'| {ROWS[file.stem]} | '))
    printed = [float(cell) for cell in line.split('|')[3:8]]                            # ×2, ×3, ×4, ×6, ×8
    model = models.load(file)
    for scale, psnr in zip(set5.scales, printed, strict=True):
        if scale in (3, 4):
            row = evaluate_scale(model, set5, scale, torch.device('cpu'), 'test')
            assert row['psnr'] == pytest.approx(psnr, abs=0.0051)
