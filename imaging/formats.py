"""The formats of image files: what each can hold. One table, asked before anything is computed."""
from pathlib import Path
from typing import NamedTuple

from utils import UserError, nearest_name, shortened


class Format(NamedTuple):
    """What a file of a format can hold.

    Attributes:
        name: Pillow's.
        suffixes: in lower case; the first is the usual one.
        modes: of pixels that are written: L grey, RGB, LA and RGBA with transparency.
        bits: per channel; 32 is floating point.
        longest: pixels of a side.
        frames: most bits per channel of several images in one file; 0: it holds a single one.
        profile: an ICC profile.
        quality: compression with loss, as `WriteOptions.quality` says.
    """
    name: str
    suffixes: tuple[str, ...]
    modes: tuple[str, ...] = ('L', 'RGB')
    bits: tuple[int, ...] = (8,)
    longest: int = 2 ** 31 - 1
    frames: int = 0
    profile: bool = False
    quality: bool = False


_ALPHA = ('L', 'LA', 'RGB', 'RGBA')
# the limits are those of the formats, or of their libraries where these are narrower
FORMATS = (
    Format('PNG', ('.png', '.apng'), _ALPHA, (8, 16), frames=8, profile=True),
    Format('JPEG', ('.jpg', '.jpeg'), longest=65500, profile=True, quality=True),
    Format('WEBP', ('.webp',), ('RGB', 'RGBA'), longest=16383, frames=8, profile=True, quality=True),
    Format('TIFF', ('.tif', '.tiff'), _ALPHA, (8, 16, 32), frames=32, profile=True),
    Format('BMP', ('.bmp',)),
    Format('AVIF', ('.avif',), ('L', 'RGB', 'RGBA'), longest=32768, profile=True, quality=True),
    Format('JPEG2000', ('.jp2', '.j2k', '.jpx'), _ALPHA, (8, 16)),
    Format('TGA', ('.tga',), _ALPHA, longest=65535),
    Format('PPM', ('.ppm', '.pgm', '.pnm'), bits=(8, 16)),
    Format('GIF', ('.gif',), ('RGB', 'RGBA'), longest=65535, frames=8),
)
_BY_SUFFIX = {suffix: form for form in FORMATS for suffix in form.suffixes}
OUTPUT_SUFFIXES = frozenset(_BY_SUFFIX)
SUFFIXES = OUTPUT_SUFFIXES | {'.pbm'}         # of files that datasets read, with Pillow
# of raw files: of Adobe and others, Canon, Nikon, Sony, Fujifilm, Olympus, Panasonic, Pentax, Samsung
RAW_SUFFIXES = frozenset({'.dng', '.cr2', '.cr3', '.nef', '.nrw', '.arw', '.raf', '.orf', '.rw2', '.pef', '.srw'})
INPUT_SUFFIXES = SUFFIXES | RAW_SUFFIXES | {'.pam', '.pfm'}  # of files that are upscaled
FORMAT_NAMES = tuple(suffix[1:] for suffix in _BY_SUFFIX)
MAX_QUALITY = 100
MAX_PIXELS = 2 ** 30  # of an image; the header decides, before anything is decoded


class WriteOptions(NamedTuple):
    """How an image is written.

    Attributes:
        format: a suffix without its dot; None: that of the path.
        quality: 1 to 100, of formats that compress with loss; 100 is without loss in WebP.
        bits: 8 or 16 per channel; None: those of the source, as far as the format holds them.
        background: RGB of 0 to 255, under transparent pixels in a format without transparency.
    """
    format: str | None = None
    quality: int = 95
    bits: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)


DEFAULTS = WriteOptions()


def find_format(path: str | Path, options: WriteOptions = DEFAULTS) -> Format:
    """The format that a path is written in. Raises UserError where there is none, or it cannot hold what the options say."""
    if options.format is not None and f'.{options.format.lower()}' not in _BY_SUFFIX:
        raise UserError(f'-format {shortened(options.format, quotes=False)}: no such format, '
                        f'{nearest_name(options.format, FORMAT_NAMES)}')
    suffix = Path(path).suffix.lower() if options.format is None else f'.{options.format.lower()}'
    if suffix not in _BY_SUFFIX:
        raise UserError(f"{path}: has suffix '{suffix}', expected {', '.join(sorted(OUTPUT_SUFFIXES))}")
    form = _BY_SUFFIX[suffix]
    if not 1 <= options.quality <= MAX_QUALITY:
        raise UserError(f'-quality {options.quality}: expected a whole number from 1 to {MAX_QUALITY}')
    if options.bits is not None and options.bits not in form.bits:
        deep = ', '.join(other.suffixes[0] for other in FORMATS if options.bits in other.bits)
        raise UserError(f'{path}: {form.name} holds {" or ".join(map(str, form.bits))} bits per channel, not {options.bits}'
                        + (f'; write {deep}' if deep else ''))
    if len(options.background) != 3 or not all(0 <= value <= 255 for value in options.background):
        raise UserError(f'-background: expected three whole numbers from 0 to 255, got {shortened(options.background)}')
    return form


def check_target(path: str | Path, height: int, width: int, frames: int = 1,
                 options: WriteOptions = DEFAULTS) -> Format:
    """The format that a path is written in; meant for before the work.

    Raises: UserError when the format cannot hold an image of this size, this many frames, or what the options say.
    """
    form = find_format(path, options)
    if max(height, width) > form.longest:
        raise UserError(f'{path}: {height}x{width} is too large for this format, whose sides hold at most {form.longest} '
                        'pixels; write a .png')
    if frames > 1 and not form.frames:
        several = ', '.join(other.suffixes[0] for other in FORMATS if other.frames)
        raise UserError(f'{path}: {form.name} holds one image, and the input has {frames} frames; write {several}, '
                        'or the first one alone (-first-frame)')
    if frames > 1 and (options.bits or 8) > form.frames:
        raise UserError(f'{path}: {form.name} holds {form.frames} bits per channel where there are several frames, not '
                        f'{options.bits}; write .tif')
    return form


def check_size(path: str | Path, height: int, width: int) -> None:
    """Raises UserError when the format of the path's suffix cannot hold an image of this size; meant for before the work."""
    if Path(path).suffix.lower() in _BY_SUFFIX:
        check_target(path, height, width)
