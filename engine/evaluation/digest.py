"""A digest of the source code on which results depend."""
import hashlib
from pathlib import Path

from utils import ROOT

SOURCES = ('models/**/*.py', 'common/coords.py', 'common/arrays.py', 'imaging/*.py', 'datasets/evaluation.py',
           'datasets/protocols/**/*.py', 'engine/evaluation/evaluate.py', 'engine/evaluation/metrics/**/*.py')


def code_digest(root: Path = ROOT) -> str:
    """SHA-256 of names and contents of everything that decides a result: models, coordinates, protocols, metrics.

    Args:
        root: folder of the program.
    """
    files = sorted({file.relative_to(root).as_posix() for pattern in SOURCES for file in root.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        content = (root / file).read_bytes()
        digest.update(f'{file}\n{len(content)}\n'.encode() + content)
    return digest.hexdigest()
