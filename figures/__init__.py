"""Figures by kind. Every file in this folder is imported; a kind registers itself with `@register('name')`."""
from common.registry import import_modules
from figures.base import FIGURES, Kind, Studio, register

import_modules(__name__, __path__)

__all__ = ['FIGURES', 'Kind', 'Studio', 'register']
