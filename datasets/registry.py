"""The registries of data sets; see `models/registry.py` for what a spec is."""
from models.registry import Registry

DATASETS = Registry('dataset')
WRAPPERS = Registry('dataset wrapper')
