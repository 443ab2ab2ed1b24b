"""Hostile inputs by families: each function writes the files of one case, and says what the command is."""
from tests.hostile.campaign import Make
from tests.hostile.films import HAS_FILMS
from tests.hostile.inputs import archives, checkpoints, configs, disks, figures, films, images, jobs, kept, options, states
from tests.hostile.inputs.figures import HAS_FIGURES

__all__ = ['FAMILIES', 'LEFT_OUT']

FAMILIES: dict[str, Make] = {
    'configs': configs.make, 'checkpoints': checkpoints.make, 'images': images.make, 'options': options.make,
    'states': states.make, 'kept': kept.make, 'archives': archives.make, 'disks': disks.make,
    'jobs': jobs.make, **({'films': films.make} if HAS_FILMS else {}), **({'figures': figures.make} if HAS_FIGURES else {})}
LEFT_OUT = tuple(f'{family} are left out: they need one more package, pip install {package}' for family, package, there in (
    ('films', 'av', HAS_FILMS), ('figures', 'matplotlib', HAS_FIGURES)) if not there)
