"""The formats of films: what each can hold, and what a film says about its pixels and its time.

Films are read and written by PyAV (FFmpeg's libraries), which is an extra: pip install av
"""
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from imaging.libraries import library
from utils import UserError

INPUT_FILM_SUFFIXES = frozenset({'.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi'})


class Codec(NamedTuple):
    """A way to compress frames.

    Attributes:
        name: of FFmpeg's encoder; `title` is for people.
        longest: pixels of a side that it takes.
        even: whether both sides are even.
        alpha: whether it keeps transparency.
        best, worst: its CRF at `-quality` 100 and 0.
        ahead: frames that it holds at once, at most, to decide about the next one; `ahead_option` bounds them.
    """
    name: str
    title: str
    longest: int
    even: bool
    alpha: bool
    best: int
    worst: int
    ahead: int
    ahead_option: str


class FilmFormat(NamedTuple):
    """What a film of a format is made of.

    Attributes:
        container: FFmpeg's name.
        audio: the encoder for sound that the container cannot hold as it is.
        options: FFmpeg's, of the container.
    """
    container: str
    codec: Codec
    audio: str
    options: dict[str, str] = {}


H264 = Codec('libx264', 'H.264', 16384, even=True, alpha=False, best=16, worst=51, ahead=40, ahead_option='rc-lookahead')
VP9 = Codec('libvpx-vp9', 'VP9', 65536, even=False, alpha=True, best=18, worst=63, ahead=25, ahead_option='lag-in-frames')
_INDEX_FIRST = {'movflags': 'faststart'}  # so that browsers play it while it loads
FILM_FORMATS = {
    '.mp4': FilmFormat('mp4', H264, 'aac', _INDEX_FIRST),
    '.mkv': FilmFormat('matroska', H264, 'aac'),
    '.mov': FilmFormat('mov', H264, 'aac', _INDEX_FIRST),
    '.webm': FilmFormat('webm', VP9, 'libopus'),
}
OUTPUT_FILM_SUFFIXES = tuple(FILM_FORMATS)


class Colours(NamedTuple):
    """How the pixels of a film stand for colours, in the numbers of ISO/IEC 23091-2; 2: not said.

    Attributes:
        matrix: from RGB to Y'CbCr.
        full: whether values use all of 0 to 255, instead of 16 to 235 (of 8 bits).
    """
    matrix: int
    full: bool = False
    primaries: int = 2
    transfer: int = 2


def usual_matrix(height: int) -> int:
    """That of a film that does not say: as players take it, BT.709 (1) from 720 rows on and BT.601 (6) below."""
    return 1 if height >= 720 else 6


class Shape(NamedTuple):
    """What all frames of a film have in common.

    Attributes:
        height, width: pixels.
        time_base: seconds, the unit of time stamps.
        rate: frames a second, on average.
        bits: per channel, 8 or 10.
        alpha: whether there is transparency.
        pixel_aspect: width / height of a pixel.
    """
    height: int
    width: int
    time_base: Fraction
    rate: Fraction
    colours: Colours
    bits: int = 8
    alpha: bool = False
    pixel_aspect: Fraction = Fraction(1)


def check_film_target(path: Path, height: int, width: int) -> None:
    """Raises UserError when films of this size cannot be written to `path`, or PyAV is missing."""
    codec = FILM_FORMATS[path.suffix.lower()].codec
    if max(height, width) > codec.longest:
        raise UserError(f'{path}: {height}x{width} is too large for {codec.title}, which has at most {codec.longest:,} '
                        'pixels at a side')
    if codec.even and (height % 2 or width % 2):
        raise UserError(f'{path}: {codec.title} has an even height and width, not {height}x{width}; write a .webm, or '
                        'choose another size')
    library('av', path)
