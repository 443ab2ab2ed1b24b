"""Evaluation protocols by name. Every file in this folder is imported; a protocol registers itself with `@register`."""
import importlib
import pkgutil

from datasets.protocols.base import OWN_LR, PIL_LR, PROTOCOLS, Protocol, luma, make, register

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{module.name}')

__all__ = ['OWN_LR', 'PIL_LR', 'PROTOCOLS', 'Protocol', 'luma', 'make', 'register']
