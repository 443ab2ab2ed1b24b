"""Models of arbitrary-scale super-resolution.

    model = models.load('modelzoo/X.pth', device='cpu')
    sr = model.upscale(lr, size=(h, w))                       # (B, 3, H, W) in [0, 1] → (B, 3, h, w) in [0, 1]
    encoded = model.encode_image(lr)                          # once, for any number of windows
    part = model.render(encoded, window=(top, left, bottom, right), size=(h, w))
    model = models.make({'name': 'msit', 'args': {…}})
    rgb = model(lr, coord, cell)                              # training: (B, 3, H, W), (B, Q, 2), (B, 2) → (B, Q, 3)

A new model is one file in `decoders/` with `@register('name')`, a new encoder one file in `encoders/` with
`@ENCODERS.register('name')`: every file there is imported here.
"""
from common.registry import import_modules
from models import decoders, encoders, layers  # noqa: F401  (layers register themselves)
from models.checkpoint import load, make
from models.flips import SelfEnsemble
from models.registries import BIASES, ENCODERS, MLPS, MODELS, register

for package in (encoders, decoders):
    import_modules(package.__name__, package.__path__)

__all__ = ['BIASES', 'ENCODERS', 'MLPS', 'MODELS', 'SelfEnsemble', 'load', 'make', 'register']
