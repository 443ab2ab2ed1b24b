"""Evaluation protocols by name. Every file in this folder is imported; a protocol registers itself with `@register`."""
from common.registry import import_modules
from datasets.protocols.base import OWN_LR, PIL_LR, PROTOCOLS, Protocol, luma, make, register

import_modules(__name__, __path__)

__all__ = ['OWN_LR', 'PIL_LR', 'PROTOCOLS', 'Protocol', 'luma', 'make', 'register']
