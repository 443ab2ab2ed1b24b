"""Metrics by name. Every file in this folder is imported; a metric registers itself with `@register`."""
import importlib
import pkgutil

from engine.evaluation.metrics.base import DEFAULT, METRICS, Metric, make, register

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{module.name}')

__all__ = ['DEFAULT', 'METRICS', 'Metric', 'make', 'register']
