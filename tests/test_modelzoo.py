"""What is shipped in modelzoo/: harmless, complete, as the lists say, and as good as the README there says."""
import hashlib
import re

import pytest
import torch

import datasets
import models
from engine.config import TEST_KEYS, load_config
from engine.evaluation.evaluate import evaluate_scale
from models.checkpoint import ZOO

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
def test_table_of_the_readme(shared, file):
    """PSNR and SSIM on Set5 at ×3 and ×4, as printed."""
    table = README[README.index(f'| {file.stem} |'):]
    printed = re.findall(r'([\d.]+) / ([\d.]+)', re.search(r'^\| Set5 \|(.*)$', table, re.MULTILINE)[1])
    config = load_config(ZOO.parent / 'configs/test/test-set5.yaml', TEST_KEYS)
    dataset = datasets.make(config['test_dataset'], shared / 'data', 'test_dataset')
    model = models.load(file)
    for scale, (psnr, ssim) in zip(dataset.scales, printed, strict=True):
        if scale in (3, 4):
            row = evaluate_scale(model, dataset, scale, torch.device('cpu'), 'test')
            assert row['psnr'] == pytest.approx(float(psnr), abs=0.0051)  # half of the last digit, and rounding
            assert row['ssim'] == pytest.approx(float(ssim), abs=6e-5)
