"""What demo.py does, and which of its options have an effect on it: the others are refused, never ignored."""
import argparse
from collections.abc import Collection

from engine.films import films_among
from utils import UserError

_MODEL = ('model', 'config', 'ensemble', 'device', 'gpu', 'precision', 'no_kernels')
_SIZE = ('scale', 'resolution', 'height', 'width', 'longest', 'shortest')
_WRITTEN = ('format', 'quality', 'bits', 'background')
_PARTS = ('memory', 'halo')
USED = {  # by mode; the modes in the order in which demo.py asks for them
    '-info': ('info',),
    '-web': ('web', 'port', 'host', *_MODEL),
    '-zoom': ('zoom', 'at', 'frames', 'fps', 'size', 'input', 'output', 'range', *_MODEL),
    'films': ('input', 'output', 'resume', *_SIZE, *_WRITTEN, *_PARTS, *_MODEL),
    'images': ('input', 'output', 'resume', 'recursive', 'compare', 'range', 'first_frame', *_SIZE, *_WRITTEN, *_PARTS,
               *_MODEL)}


def mode_of(options: argparse.Namespace) -> str:
    """A key of USED."""
    if options.info:
        return '-info'
    if options.web:
        return '-web'
    if options.zoom is not None:
        return '-zoom'
    return 'films' if films_among(options.input) else 'images'


def check_options(options: argparse.Namespace, given: Collection[str]) -> None:
    """Raises UserError for an option without effect.

    Args:
        given: the names of the options on the command line.
    """
    mode = mode_of(options)
    for name in sorted(set(given) - set(USED[mode])):
        others = [other for other in USED if name in USED[other]]
        what = f'-{name.replace("_", "-")}'
        if mode in ('films', 'images') and len(others) == 1 and others[0].startswith('-'):
            raise UserError(f'{what}: belongs to {others[0]}; give {others[0]} too, or leave it out')
        place = f'with {mode}' if mode.startswith('-') else f'on {mode}'
        films = f', because {films_among(options.input)[0]} is one' if mode == 'films' else ''
        raise UserError(f'{what}: has no effect {place}{films}; leave it out')
