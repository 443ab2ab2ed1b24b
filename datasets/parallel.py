"""Work on many files at once."""
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm


def in_parallel(function: Callable, items: Sequence, label: str) -> Iterator:
    """function(item) for every item, in their order, computed on all cores, with a progress bar.

    The first error ends it. When the iterator is left early, items that no thread has begun are dropped. Threads suffice:
    Pillow decodes, and files are written, without holding the interpreter's lock.
    """
    with ThreadPoolExecutor() as pool:
        yield from tqdm(pool.map(function, items), label, len(items), disable=None, leave=False)
