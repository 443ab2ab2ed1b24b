"""An encoder, a decoder, a loss, a metric and a protocol: each is added to a copy of the program by one new file."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from utils import ROOT

# a global encoder: every feature sees the whole image, whose sides must be multiples of eight
ENCODER = '''
import torch
from torch import Tensor, nn
from models.contract import Encoder
from models.registries import ENCODERS

@ENCODERS.register('patches')
class Patches(Encoder):
    multiple = 8

    def __init__(self, *, channels: int = 8):
        super().__init__()
        self.out_channels = channels
        self.patch = nn.Conv2d(3, channels, 8, stride=8)
        self.pixel = nn.Conv2d(3, channels, 1)

    def features(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 8 == 0 and x.shape[3] % 8 == 0, x.shape
        tokens = self.patch(x)
        weights = tokens.mean((2, 3), keepdim=True).sigmoid()
        return self.pixel(x) * weights + nn.functional.interpolate(tokens, scale_factor=8)
'''
DECODER = '''
import torch
from torch import Tensor
from models.decoders.base import FeatureDecoder
from models.layers import sample_bilinear
from models.registries import MLPS, EncoderSpec, MLPSpec, register

@register('sampled')
class Sampled(FeatureDecoder):
    def __init__(self, *, encoder_spec: EncoderSpec, imnet_spec: MLPSpec):
        super().__init__(encoder_spec)
        self.imnet = MLPS.make(imnet_spec, 'imnet_spec', in_dim=self.encoder.out_channels)

    def decode_features(self, lr: Tensor, features: Tensor, region):
        return features, region

    def query(self, latent, coord: Tensor, cell: Tensor) -> Tensor:
        features, region = latent
        return self.imnet(sample_bilinear(features, region.local(coord), 'border'))
'''
LOSS = '''
from engine.training.losses.registry import Loss, register

@register('cubic')
def cubic() -> Loss:
    return lambda prediction, target: (prediction - target).abs() ** 3
'''
REGIONS = '''
import models, torch
from models import upscale
model = models.load('save/run/epoch-last.pth')
lr = torch.rand(1, 3, 20, 90, generator=torch.Generator().manual_seed(0))
whole = model.upscale(lr, (45, 200))
assert model.reach is None and model.encoder.multiple == 8
assert torch.equal(model.upscale(lr, (45, 200), memory=2 ** 22), whole)      # never cut: it sees everywhere
try:
    model.upscale(lr, (45, 200), memory=10_000)
    raise SystemExit('fits')
except ValueError as error:
    assert 'allow at least ' in str(error)
encoded = model.encode_image(lr)
part = model.render(encoded, (4, 8, 12, 40), (20, 80))                       # lines 10 to 30 and columns 20 to 100 at x2.5
assert (part - model.upscale(lr, (50, 225))[:, :, 10:30, 20:100]).abs().max() < 1e-5
'''


@pytest.mark.slow
def test_each_kind_of_part_is_one_new_file(tmp_path):
    for name in ('common', 'imaging', 'models', 'datasets', 'engine'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('utils.py', 'train.py', 'test.py'):
        shutil.copy(ROOT / name, tmp_path)
    page = (ROOT / 'docs/tables.md').read_text(encoding='utf-8')
    metric, protocol = (page.split(f'`{file}`:\n\n```python\n')[1].split('```')[0] for file in (
        'engine/evaluation/metrics/mae.py', 'datasets/protocols/green.py'))
    added = {'models/encoders/patches.py': ENCODER, 'models/decoders/sampled.py': DECODER,
             'engine/training/losses/cubic.py': LOSS, 'engine/evaluation/metrics/mae.py': metric,
             'datasets/protocols/green.py': protocol}
    for file, text in added.items():
        assert not (tmp_path / file).exists()
        (tmp_path / file).write_text(text, encoding='utf-8')
    (tmp_path / 'data/Mini').mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 66, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'data/Mini/a.png')
    source = {'name': 'image-folder', 'args': {'root_path': 'Mini'}}
    evaluation = {'dataset': source, 'wrapper': {'name': 'sr-evaluation', 'args': {
        'name': 'Mini', 'protocol': 'green', 'scales': [2.5], 'lr': 'pil'}}}
    (tmp_path / 'train.yaml').write_text(yaml.safe_dump({
        'train_dataset': {'dataset': source, 'wrapper': {'name': 'sr-implicit-downsampled', 'args': {
            'inp_size': 12, 'sample_q': 16}}, 'batch_size': 2, 'epoch_batches': 1},
        'val_dataset': evaluation, 'loss': {'name': 'cubic'}, 'epoch_max': 1,
        'optimizer': {'name': 'adam', 'args': {'lr': 0.001}},
        'model': {'name': 'sampled', 'args': {'encoder_spec': {'name': 'patches', 'args': {'channels': 6}},
                                              'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [8]}}}}}))
    (tmp_path / 'test.yaml').write_text(yaml.safe_dump({'test_dataset': evaluation}))

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                              env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': str(tmp_path)})
        assert done.returncode == 0, done.stderr
        return done.stdout
    log = run('train.py', '-config', 'train.yaml', '-name', 'run', '-device', 'cpu')
    assert 'epoch 1/1: loss 0.' in log
    run('test.py', '-config', 'test.yaml', '-model', 'save/run/epoch-last.pth', '-name', 'run', '-device', 'cpu', '-metrics',
        'mae', 'psnr')
    row, = json.loads((tmp_path / 'test/run/results.json').read_text())['rows']
    assert row['protocol'] == 'green' and 0 < row['mae'] < 256 and 0 < row['psnr'] < 60
    run('-c', REGIONS)
