"""Losses by name. A new one is a new file in this folder, with `@register('name')` on what makes it from its arguments."""
from common.registry import import_modules
from engine.training.losses.registry import LOSSES, Loss, register

import_modules(__name__, __path__)

__all__ = ['LOSSES', 'Loss', 'register']
