"""Metrics by name. Every file in this folder is imported; a metric registers itself with `@register`."""
from common.registry import import_modules
from engine.evaluation.metrics.base import DEFAULT, METRICS, Metric, make, register

import_modules(__name__, __path__)

__all__ = ['DEFAULT', 'METRICS', 'Metric', 'make', 'register']
