"""Hostile inputs by families: each function writes the files of one case, and says what the command is."""
from tests.hostile.campaign import Make
from tests.hostile.inputs import archives, checkpoints, configs, disks, images, kept, options, states

__all__ = ['FAMILIES']

FAMILIES: dict[str, Make] = {
    'configs': configs.make, 'checkpoints': checkpoints.make, 'images': images.make, 'options': options.make,
    'states': states.make, 'kept': kept.make, 'archives': archives.make, 'disks': disks.make}
