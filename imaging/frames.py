"""Reading images to upscale: any format, mode and depth, every frame of an animation, one at a time.

Pillow reads what has 8 bits, with profiles, metadata, and the composition of animations; `imaging/deep.py` and
`imaging/tiff.py` the rest, `imaging/raw.py` what cameras write. Datasets read through `imaging/reading.py`, whose 8 bits the
benchmarks are defined by.
"""
import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageFile

from imaging import tiff
from imaging.colour import to_rgb_mode
from imaging.deep import Raster, check_pixels, decode_avif, decode_jpeg2000, decode_pnm, decode_ppm
from imaging.frame import Frame, Metadata, full_scale
from imaging.metadata import ORIENTATION, read_metadata
from imaging.raw import is_raw, read_raw, read_raw_size
from imaging.reading import check_file, named, opened_image, read_size
from imaging.sixteen import read_16_bits, to_8_bits
from imaging.values import Range, scaled
from utils import UserError

_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_PNM = (b'P7', b'PF', b'Pf')                       # of which Pillow reads none, or not all
_ANIMATED = ('GIF', 'PNG', 'WEBP', 'AVIF')
_SAME, _TURNED = 1, 5  # EXIF orientations: upright; from this one on height and width are swapped
_DEEP: dict[str, Callable[[Path], Raster | None]] = {
    'JPEG2000': decode_jpeg2000, 'AVIF': decode_avif, 'PPM': decode_ppm}


class Header(NamedTuple):
    """What a file holds.

    Attributes:
        height, width: of the first frame, upright.
        frames: number of images.
        plays: how often an animation is shown; 0: for ever.
        pages: whether the frames are pages of a document and not an animation.
    """
    height: int
    width: int
    frames: int = 1
    plays: int = 1
    pages: bool = False


def read_header(path: str | Path) -> Header:
    """What a file holds; pixels are decoded only where the format demands it. Raises UserError as `read_frames` does."""
    path = Path(path)
    with named(path):
        head = _head(path)
        if is_raw(path):
            return Header(*read_raw_size(path))
        if head in _TIFF:
            with tiff.opened(path) as file:
                numbers = tiff.page_numbers(file)
                page = file.pages[numbers[0]]
                size = page.imagelength, page.imagewidth
                size = size[::-1] if tiff.page_orientation(page) >= _TURNED else size
                return Header(*size, frames=len(numbers), pages=len(numbers) > 1)
        if head[:2] in _PNM:
            return Header(*decode_pnm(path).values.shape[:2])
        with opened_image(path) as image:
            first, count = _frame_range(image)
            plays = _plays(image) if count - first > 1 else 1
        return Header(*read_size(path), frames=count - first, plays=plays)


def read_image(path: str | Path, value_range: Range | None = None) -> Frame:
    """The image of a file, or the first frame of several; see `read_frames`."""
    with contextlib.closing(read_frames(path, value_range)) as frames:
        return next(frames)


def read_frames(path: str | Path, value_range: Range | None = None) -> Generator[Frame, None, None]:
    """Every frame of a file as a viewer shows it, one at a time.

    Args:
        value_range: the values of black and white, where a file of more than 8 bits does not use those of its type.
    Raises: UserError for a file that is missing, no image, cut short, too large, or of an unknown range of values.
    """
    path = Path(path)
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UserError(f'-range {value_range[0]:g},{value_range[1]:g}: expected two numbers, the first of them smaller')
    frames = _tiff_frames if _head(path) in _TIFF and not is_raw(path) else _frames
    with contextlib.closing(frames(path, value_range)) as found:
        while True:
            with named(path):  # not around `yield`: errors of the caller are its own
                frame = next(found, None)
            if frame is None:
                return
            yield frame


def _head(path: Path) -> bytes:
    """The first bytes of a file, which tell TIFF and PNM from all others."""
    check_file(path)
    with named(path), open(path, 'rb') as file:
        return file.read(4)


def _frames(path: Path, value_range: Range | None) -> Generator[Frame, None, None]:
    """Those of any file but TIFF."""
    if is_raw(path):
        yield read_raw(path)
        return
    if _head(path)[:2] in _PNM:
        yield _frame(path, decode_pnm(path), Metadata(), value_range)
        return
    with opened_image(path) as image:
        first, count = _frame_range(image)
        if count > 1:
            for number in range(first, count):
                image.seek(number)
                yield _pillow_frame(path, image, number)
            return
        frame = _deep_frame(path, image, value_range) or _pillow_frame(path, image, 0)
    yield frame  # Pillow's own copy is free by now


def _tiff_frames(path: Path, value_range: Range | None) -> Generator[Frame, None, None]:
    with tiff.opened(path) as file:
        for number in tiff.page_numbers(file):
            page = file.pages[number]
            check_pixels(path, page.imagelength, page.imagewidth)
            if tiff.is_deep(page):
                frame = _upright(_frame(path, tiff.decode_page(path, page), tiff.page_metadata(path, page), value_range),
                                 tiff.page_orientation(page))
            else:
                with opened_image(path) as image:
                    image.seek(number)
                    frame = _pillow_frame(path, image, number, tiff.page_metadata(path, page))  # Pillow mixes those of pages
            yield frame


def _frame_range(image: ImageFile.ImageFile) -> tuple[int, int]:
    """The numbers of the first frame and of the one after the last; a picture for viewers without animation is left out."""
    count = getattr(image, 'n_frames', 1) if image.format in _ANIMATED else 1
    return (1 if count > 1 and image.info.get('default_image') else 0), count


def _plays(image: ImageFile.ImageFile) -> int:
    """How often an animation is shown. GIF counts repetitions, and without a count it is shown once."""
    loop = image.info.get('loop')
    if image.format != 'GIF':
        return int(loop or 0)
    return 1 if loop is None else int(loop) + 1 if loop else 0


def _pillow_frame(path: Path, image: ImageFile.ImageFile, number: int, metadata: Metadata | None = None) -> Frame:
    """The frame that an image is at, of 8 bits; grey may have 16."""
    @contextlib.contextmanager
    def again() -> Iterator[ImageFile.ImageFile]:
        with opened_image(path) as other:
            other.seek(number)
            yield other
    if image.mode.startswith('I'):
        image.load()
        values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        return _upright(Frame(pixels=values[..., None], metadata=metadata or read_metadata(image)),
                        image.getexif().get(ORIENTATION, _SAME))
    eight = to_8_bits(image, again)
    metadata = metadata or read_metadata(image)
    converted, is_srgb = to_rgb_mode(eight)
    metadata = replace(metadata, profile=None) if is_srgb else metadata
    values = np.array(converted)  # to be written to, as torch demands
    values = values[..., None] if values.ndim == 2 else values
    channels = 1 if converted.mode in ('L', 'LA') else 3
    alpha = values[..., channels] if values.shape[2] > channels else None
    frame = Frame(pixels=values[..., :channels], alpha=alpha, metadata=metadata, duration=image.info.get('duration') or 0)
    return _upright(frame, image.getexif().get(ORIENTATION, _SAME))


def _deep_frame(path: Path, image: ImageFile.ImageFile, value_range: Range | None) -> Frame | None:
    """A frame of more than 8 bits, with what Pillow knows beside the pixels; None for one of 8 bits."""
    if image.format == 'PNG':
        values = read_16_bits(image, lambda: opened_image(path))
        raster = None if values is None else Raster(values, alpha=values.shape[2] in (2, 4))
    else:
        raster = _DEEP.get(image.format or '', lambda path: None)(path)
    if raster is None:
        return None
    image.load()  # metadata may stand behind the pixels
    return _upright(_frame(path, raster, read_metadata(image), value_range), image.getexif().get(ORIENTATION, _SAME))


def _frame(path: Path, raster: Raster, metadata: Metadata, value_range: Range | None) -> Frame:
    """A frame of the values of a file."""
    values = np.atleast_3d(raster.values)
    channels = values.shape[2] - raster.alpha
    if channels not in (1, 3):
        raise UserError(f'{path}: has {channels} channels, expected 1 (grey) or 3 (RGB), with or without transparency')
    colours, alpha = values[..., :channels], values[..., -1] if raster.alpha else None
    if alpha is not None and raster.premultiplied:
        colours = _divided(colours, alpha, raster.largest)
    try:
        pixels = scaled(colours, raster.largest, value_range)
        opacity = None if alpha is None else scaled(alpha, raster.largest)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    pixels = full_scale(pixels.dtype) - pixels if raster.inverted else pixels
    if opacity is not None and opacity.dtype != pixels.dtype:
        opacity = (opacity / full_scale(opacity.dtype) * full_scale(pixels.dtype)).astype(pixels.dtype)
    return Frame(pixels=pixels, alpha=opacity, metadata=metadata)


def _divided(colours: np.ndarray, alpha: np.ndarray, largest: int | None) -> np.ndarray:
    """Premultiplied colours → those before."""
    full = largest or full_scale(colours.dtype)
    exact = np.minimum(colours / np.maximum(alpha, 1 if colours.dtype.kind == 'u' else 1e-6)[..., None] * full, full)
    return (np.rint(exact) if colours.dtype.kind == 'u' else exact).astype(colours.dtype)


_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation → what makes (H, W, …) upright
    2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}


def _upright(frame: Frame, orientation: int) -> Frame:
    turn = _TURNS.get(orientation)
    if turn is None:
        return frame
    return replace(frame, pixels=turn(frame.pixels), alpha=None if frame.alpha is None else turn(frame.alpha))
