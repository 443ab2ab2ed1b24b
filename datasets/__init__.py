"""Images → training samples and evaluation pairs. Two registries: `DATASETS` read images, `WRAPPERS` make samples."""
import sys

if sys.argv[:1] == ['-m']:  # `python -m datasets.prepare` imports this package first: for signals meanwhile
    from common.start import guard
    guard()

from common.registry import import_modules
from datasets.registry import DATASETS, WRAPPERS

import_modules(__name__, __path__)

__all__ = ['DATASETS', 'WRAPPERS', 'make']


def make(spec: dict, data_root, path: str = 'dataset'):
    """The wrapped data set of {'dataset': {'name', 'args'}, 'wrapper': {'name', 'args'}}.

    Args:
        data_root: folder that relative paths in the spec start from.
        path: of the spec in its config, for messages.
    """
    WRAPPERS.check(spec['wrapper'], f'{path}.wrapper')  # first, because it is cheap: a data set may open thousands of files
    dataset = DATASETS.make(spec['dataset'], f'{path}.dataset', data_root=data_root)
    return WRAPPERS.make(spec['wrapper'], f'{path}.wrapper', dataset=dataset, data_root=data_root)
