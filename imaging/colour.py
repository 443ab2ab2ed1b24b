"""ICC profiles: pixels of other colour spaces become RGB or sRGB."""
import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageCms

from imaging.formats import Format
from imaging.frame import Frame
from imaging.libraries import library

_SPACE = slice(16, 20)  # of a profile: the colour space of its pixels
_INTENT, _FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
_SPACES = {b'GRAY': 1, b'RGB ': 3}  # → channels


def suited(frame: Frame, form: Format) -> Frame:
    """The frame with its profile, where the format carries it; else with colours converted to sRGB."""
    profile = frame.metadata.profile
    if profile is None:
        return frame
    fits = _SPACES.get(profile[_SPACE]) == frame.pixels.shape[2]
    if fits and form.profile and (not frame.is_grey or 'L' in form.modes):
        return frame
    pixels = _to_srgb(frame.pixels, profile) if fits else frame.pixels
    return replace(frame, pixels=pixels, metadata=replace(frame.metadata, profile=None))


def to_rgb_mode(image: Image.Image) -> tuple[Image.Image, bool]:
    """An 8-bit image of any mode of Pillow's as L, LA, RGB or RGBA, and whether it is sRGB now, by its profile.

    CMYK is converted by its profile, or by Pillow where it has none; LAB is device-independent.
    """
    if image.mode in ('CMYK', 'LAB'):
        source = image.info.get('icc_profile')
        converted = _convert(image, source if source and source[_SPACE] in (b'CMYK', b'Lab ') else None)
        return converted or image.convert('RGB'), True
    if image.has_transparency_data:
        grey = image.mode in ('L', 'LA', 'La', '1')
        return image if image.mode in ('LA', 'RGBA') else image.convert('LA' if grey else 'RGBA'), False
    if image.mode in ('L', 'RGB'):
        return image, False
    return image.convert('L' if image.mode == '1' else 'RGB'), False


def _convert(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """CMYK or LAB → RGB of sRGB; None where there is no profile, or no valid one."""
    try:
        if profile is not None and profile[_SPACE] == (b'Lab ' if image.mode == 'LAB' else b'CMYK'):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        elif image.mode == 'LAB':
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB'))
        else:
            return None
        return _transformed(image, source)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _transformed(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """The colours of a profile as sRGB; white becomes white, and black black."""
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile('sRGB'), _INTENT, 'RGB', flags=_FLAGS)
    assert converted is not None  # it is a new image
    return converted


def _to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """(H, W, 1) or (H, W, 3) of a profile → the same of sRGB; as they are where the profile is damaged, or sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if 'srgb' in ImageCms.getProfileDescription(source).lower():
            return pixels
        if pixels.dtype == np.uint8:
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            return np.array(_transformed(image, source))[..., :pixels.shape[2]]
    except (ImageCms.PyCMSError, OSError, ValueError):
        return pixels
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    grey = pixels.shape[2] == 1
    converted = library('imagecodecs', 'ICC profile of an image of more than 8 bits').cms_transform(
        np.ascontiguousarray(pixels[..., 0] if grey else pixels), profile, srgb, colorspace='gray' if grey else 'rgb',
        outcolorspace='rgb')
    return converted[..., :pixels.shape[2]]
