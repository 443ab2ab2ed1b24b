"""Whether a file that a command has written can be read."""
import csv
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import yaml
from PIL import Image

from imaging.film_formats import INPUT_FILM_SUFFIXES


def unreadable(path: Path) -> str | None:
    """What is wrong with a file, judged by its suffix; None when nothing is."""
    read = _READERS.get(path.suffix.lower())
    try:
        if read:
            read(path)
    except Exception as error:  # whatever a reader raises, the file is damaged
        return f'{type(error).__name__}: {error}'[:200]
    return None


def _read_image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_film(path: Path) -> None:
    import av  # an extra
    with av.open(path) as film:
        if not list(film.decode(video=0)):
            raise ValueError('no frame')


def _read_checkpoint(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    for name, value in content['model']['sd'].items():
        if not value.isfinite().all():
            raise ValueError(f'{name} is not finite')


def _read_entry(path: Path) -> None:
    np.load(path, mmap_mode='r')


def _read_table(path: Path) -> None:
    with path.open(encoding='utf-8', newline='') as file:
        list(csv.reader(file))


def _read_pdf(path: Path) -> None:
    content = path.read_bytes()
    if not content.startswith(b'%PDF-') or not content.rstrip().endswith(b'%%EOF'):
        raise ValueError('no whole PDF file')


_READERS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm'), _read_image),
    **dict.fromkeys(INPUT_FILM_SUFFIXES, _read_film),
    **dict.fromkeys(('.pth', '.pt'), _read_checkpoint), '.npy': _read_entry, '.csv': _read_table,
    '.pdf': _read_pdf, '.svg': ElementTree.parse,
    '.json': lambda path: json.loads(path.read_text(encoding='utf-8')),
    '.yaml': lambda path: yaml.safe_load(path.read_text(encoding='utf-8')),
    **dict.fromkeys(('.txt', '.md', '.tex'), lambda path: path.read_text(encoding='utf-8'))}
