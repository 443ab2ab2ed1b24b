"""The registries of data sets; see `common/registry.py` for what a spec is."""
from typing import Annotated

from common.ranges import AtMost
from common.registry import Registry

DATASETS = Registry('dataset')
WRAPPERS = Registry('dataset wrapper')

Side = Annotated[int, AtMost(4096)]       # of a crop, in pixels
Scale = Annotated[float, AtMost(10_000)]
Count = Annotated[int, AtMost(10 ** 7)]   # of images
