"""The registries of data sets; see `common/registry.py` for what a spec is."""
from common.registry import Registry

DATASETS = Registry('dataset')
WRAPPERS = Registry('dataset wrapper')
