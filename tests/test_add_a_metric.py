"""docs/tables.md does what it says: its two files, in a copy of the program, are measured by."""
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
PAGE = (ROOT / 'docs/tables.md').read_text(encoding='utf-8')


@pytest.mark.slow
def test_page(tmp_path):
    for name in ('common', 'imaging', 'models', 'datasets', 'engine'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('utils.py', 'test.py'):
        shutil.copy(ROOT / name, tmp_path)
    files = dict(re.findall(r'^`([\w/.]+)`:\n\n```\w+\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
    assert list(files) == ['engine/evaluation/metrics/mae.py', 'datasets/protocols/green.py']
    pixels = np.random.default_rng(1).integers(0, 256, (41, 48, 3), dtype=np.uint8)
    (tmp_path / 'data/Mini').mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / 'data/Mini/a.png')
    (tmp_path / 'mini.yaml').write_text(yaml.safe_dump({'test_dataset': {
        'dataset': {'name': 'image-folder', 'args': {'root_path': 'Mini'}},
        'wrapper': {'name': 'sr-evaluation', 'args': {'name': 'Mini', 'protocol': 'green', 'scales': [2]}}}}))

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, 'test.py', '-config', 'mini.yaml', '-model', 'bicubic', '-device', 'cpu', *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
                              env={'PATH': '/usr/bin:/bin'})
    assert run('-metrics', 'mae').returncode == 2                                    # before the files are there
    for name, text in files.items():
        assert not (ROOT / name).exists()
        (tmp_path / name).write_text(text, encoding='utf-8')
    done = run('-metrics', 'mae', 'psnr')
    assert (done.returncode, done.stderr) == (0, '') and '| MAE (levels) | PSNR (dB) |' in done.stdout
    row, = json.loads((tmp_path / 'test/bicubic/results.json').read_text())['rows']
    bicubic = Image.Resampling.BICUBIC
    upscaled = np.asarray(Image.fromarray(pixels[:40]).resize((24, 20), bicubic).resize((48, 40), bicubic))
    difference = np.abs(upscaled[..., 1].astype(float) - pixels[:40, :, 1])
    assert abs(row['mae'] - difference.mean()) < 1e-4 and row['per_image'][0]['mae'] == row['mae']
    assert row['protocol'] == 'green'
