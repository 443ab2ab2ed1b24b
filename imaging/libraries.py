"""Libraries that only some files need, imported when such a file is met.

    tifffile      TIFF of any depth and layout: Pillow has no mode for more than 8 bits of colour.
    imagecodecs   JPEG 2000 and AVIF of more than 8 bits, grey with transparency among them, writing of such PNGs, and ICC
                  profiles on such pixels. A third of the size of OpenCV, which drops that transparency and prints lines of
                  its own; tifffile needs it for most compressions.
    netpbmfile    PAM, PFM, and PPM of more than 8 bits.
    imageio       Raw files of cameras, which its plugin for LibRaw (the package rawpy, an extra) develops.
"""
import importlib
from pathlib import Path
from types import ModuleType

from utils import UserError


def library(name: str, what: str | Path) -> ModuleType:
    """The module of this name. Raises UserError where it is not installed.

    Args:
        what: a file, or what else needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'{what}: needs one more package: pip install {name.partition(".")[0]}') from error
