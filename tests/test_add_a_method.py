"""docs/add_a_method.md does what it says: its two files, in a copy of the program, train and are measured."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / 'docs/add_a_method.md').read_text(encoding='utf-8')
IGNORED = shutil.ignore_patterns('__pycache__')

REGIONS = """
import models, torch
from models import upscale
model = models.load('save/run/epoch-last.pth')
lr = torch.rand(1, 3, 20, 90, generator=torch.Generator().manual_seed(0))
whole = model.upscale(lr, (45, 200))
with torch.no_grad():
    parts, _ = upscale.plan_regions(model, lr, lr.shape[2:], MEMORY + lr.nbytes, None)
assert len(parts) > 1, parts
assert (model.upscale(lr, (45, 200), MEMORY) - whole).abs().max() < 1e-5
"""


@pytest.mark.slow
def test_page(tmp_path):
    for name in ('common', 'imaging', 'models', 'datasets', 'engine', 'configs'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=IGNORED)
    for name in ('utils.py', 'train.py', 'test.py'):
        shutil.copy(ROOT / name, tmp_path)
    files = dict(re.findall(r'^`([\w/.]+)`:\n\n```\w+\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
    assert list(files) == ['models/decoders/bilinear.py', 'configs/train/train_bilinear_s.yaml']
    for name, text in files.items():
        assert not (ROOT / name).exists()
        (tmp_path / name).write_text(text, encoding='utf-8')
    (tmp_path / 'data/Mini').mkdir(parents=True)
    for seed in (1, 2):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 66, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'data/Mini/{seed}.png')
    source = {'name': 'image-folder', 'args': {'root_path': 'Mini'}}
    evaluation = {'dataset': source, 'wrapper': {'name': 'sr-evaluation', 'args': {
        'name': 'Mini', 'protocol': 'benchmark', 'scales': [2.5], 'lr': 'pil'}}}
    config = {'base': 'configs/train/train_bilinear_s.yaml', 'epoch_max': 1, 'val_dataset': evaluation, 'train_dataset': {
        'dataset': source, 'wrapper': {'args': {'inp_size': 8, 'sample_q': 16}}, 'batch_size': 2, 'epoch_batches': 1,
        'num_workers': 0}, 'model': {'args': {'encoder_spec': {'args': {'n_resblocks': 1, 'n_feats': 8}}}}}
    (tmp_path / 'tiny.yaml').write_text(yaml.safe_dump(config))
    (tmp_path / 'mini.yaml').write_text(yaml.safe_dump({'test_dataset': evaluation}))

    run(tmp_path, 'train.py', '-config', 'tiny.yaml', '-name', 'run', '-device', 'cpu')
    run(tmp_path, 'test.py', '-config', 'mini.yaml', '-model', 'save/run/epoch-last.pth', 'bicubic', '-device', 'cpu',
        '-columns', 'params', 'macs')
    cells = json.loads((tmp_path / 'test/comparison/table.json').read_text())['measurements']
    assert [cell['method'] for cell in cells] == ['epoch-last', 'bicubic']
    # head 3·8·9+8; two convolutions of the block and one after it, 8·8·9+8 each; MLP of 10·128+128, 128·128+128, 128·3+3
    assert cells[0]['params'] == 224 + 3 * 584 + 1408 + 16512 + 387
    # the convolutions once for each of 16 queries of an LR pixel, the MLP for every query
    assert cells[0]['macs'] == ((216 + 3 * 576) / 16 + 1280 + 16384 + 384) * 1e6
    run(tmp_path, '-c', REGIONS.replace('MEMORY', '250_000'))


def run(folder: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300,
                          env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': str(folder)})
    assert done.returncode == 0, done.stderr
