"""From the frames of films to RGB and back. FFmpeg resamples colours; the arithmetic is done here.

FFmpeg's own conversion darkens or brightens what goes there and back: on average by up to 1 of 255 where values are of the
full range, and by 2 of 1023 where they have 10 bits.
"""
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from imaging.film_formats import Colours
from imaging.frame import Frame
from imaging.libraries import library

if TYPE_CHECKING:
    import av

LUMA = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
        9: (0.2627, 0.0593)}  # shares of red and blue in luma, by the number of the matrix (ISO/IEC 23091-2)
_RESAMPLING = 'BICUBIC'       # of colours, which most films hold at half the resolution
_RANGES = {True: 2, False: 1}  # FFmpeg's numbers of the full range and the other one
_BAND = 2 ** 20               # pixels that are converted at a time


def to_frame(stored: 'av.VideoFrame', colours: Colours, bits: int, alpha: bool) -> Frame:
    """A stored frame as RGB.

    Args:
        bits: 8 for uint8, more for uint16.
        alpha: whether to keep transparency, in 8 bits.
    """
    kind: type[np.unsignedinteger] = np.uint8 if bits == 8 else np.uint16
    if stored.format.is_rgb:
        pixels = stored.reformat(format='rgba' if alpha else 'rgb24' if bits == 8 else 'rgb48le').to_ndarray()
        return Frame(pixels=pixels[..., :3], alpha=pixels[..., 3] if alpha else None)
    depth = 8 if bits == 8 else max(component.bits for component in stored.format.components)
    form = f'yuv{"a" if alpha else ""}444p{"" if depth == 8 else f"{depth}le"}'
    planes = _planes(_resampled(stored, form, colours), depth)
    rgb = np.empty((stored.height, stored.width, 3), kind)
    matrix, offset = _from_rgb(colours, depth)
    back, full = np.linalg.inv(matrix).T.astype(np.float32) * np.iinfo(kind).max, np.float32(np.iinfo(kind).max)
    for rows in _bands(*rgb.shape[:2]):
        values = np.stack([plane[rows] for plane in planes[:3]], -1).astype(np.float32) - offset
        rgb[rows] = np.rint(np.clip(values @ back, 0, full))
    return Frame(pixels=rgb, alpha=planes[3].copy() if alpha else None)


def from_frame(frame: Frame, form: str, colours: Colours) -> 'av.VideoFrame':
    """RGB in a pixel format of FFmpeg: yuv420p, yuva420p or yuv420p10le."""
    depth = 10 if '10' in form else 8
    whole = library('av', form).VideoFrame(frame.width, frame.height, form.replace('420', '444'))
    planes = _planes(whole, depth)
    matrix, offset = _from_rgb(colours, depth)
    there = matrix.T.astype(np.float32) / np.float32(np.iinfo(frame.pixels.dtype).max)
    for rows in _bands(frame.height, frame.width):
        values = np.rint(frame.pixels[rows].astype(np.float32) @ there + offset)
        for channel, plane in enumerate(planes[:3]):
            plane[rows] = np.clip(values[..., channel], 0, 2 ** depth - 1)
    if frame.alpha is not None:
        planes[3][:] = frame.alpha
    return _resampled(whole, form, colours)


def _from_rgb(colours: Colours, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix from RGB in [0, 1] to luma and two colour differences of `depth` bits, and what is added."""
    red, blue = LUMA[colours.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    matrix = np.stack([luma, (np.array([0, 0, 1]) - luma) / (2 - 2 * blue), (np.array([1, 0, 0]) - luma) / (2 - 2 * red)])
    unit = 2 ** (depth - 8)
    spans = np.full(3, 2 ** depth - 1) if colours.full else unit * np.array([219, 224, 224])
    offset = unit * np.array([0 if colours.full else 16, 128, 128])
    return matrix * spans[:, None], offset.astype(np.float32)


def _resampled(frame: 'av.VideoFrame', form: str, colours: Colours) -> 'av.VideoFrame':
    """The same values, with another resolution of colours."""
    number = _RANGES[colours.full]
    return frame.reformat(format=form, src_color_range=number, dst_color_range=number, interpolation=_RESAMPLING)


def _planes(frame: 'av.VideoFrame', depth: int) -> list[np.ndarray]:
    """The planes of a frame, (H, W) each, without a copy; all of one size."""
    kind = np.dtype(np.uint8 if depth == 8 else np.uint16)
    return [np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)[:frame.height, :frame.width]
            for plane in frame.planes]


def _bands(height: int, width: int) -> Iterator[slice]:
    """Rows to convert at a time."""
    step = max(1, _BAND // width)
    return (slice(top, top + step) for top in range(0, height, step))
