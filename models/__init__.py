"""Models of arbitrary-scale super-resolution, through one registry.

    model = models.load('modelzoo/X.pth', device='cpu')
    sr = model.upscale(lr, size=(h, w))                       # (B, 3, H, W) in [0, 1] → (B, 3, h, w) in [0, 1]
    model = models.make({'name': 'msit', 'args': {…}})
    rgb = model(lr, coord, cell)                              # training: (B, 3, H, W), (B, Q, 2), (B, 2) → (B, Q, 3)

A new model is one file in `encoders/` or `decoders/` with `@register('name')`: every file there is imported here.
"""
import importlib
import pkgutil

from models import decoders, encoders, layers, posenc  # noqa: F401  (register themselves)

for package in (encoders, decoders):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'{package.__name__}.{module.name}')

from common.registry import register  # noqa: E402
from models.checkpoint import load, make  # noqa: E402

__all__ = ['load', 'make', 'register']
