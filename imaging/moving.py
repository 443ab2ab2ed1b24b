"""Writing animations frame by frame: GIF, WebP and animated PNG, with one or two frames in memory, whatever their number.

Pillow's own writers of GIF and PNG keep all frames until the last one. Here it encodes each by itself.
"""
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import GifImagePlugin, Image, ImageChops

from imaging.encoding import PNG_LEVEL

_GIF_UNIT = 10              # milliseconds
_LONGEST = 10 * 65535       # milliseconds that a GIF shows a frame, at most
_LEAVE, _CLEAR = 1, 2       # what a GIF does with a frame before the next one
_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_LARGEST = 65535            # numerator and denominator of the seconds that an animated PNG shows a frame
_REPLACE = bytes(2)         # of an animated PNG: the frame stays, and the next one takes the place of its pixels


class Timed(NamedTuple):
    """A frame, and the milliseconds that it is shown."""
    image: Image.Image
    duration: float


def merged(frames: Iterator[Timed]) -> Iterator[Timed]:
    """The frames, equal ones that follow each other as one of their joint duration."""
    held = next(frames)
    for frame in frames:
        if frame.image == held.image and frame.duration + held.duration <= _LONGEST:
            held = Timed(held.image, held.duration + frame.duration)
        else:
            yield held
            held = frame
    yield held


def write_gif(path: Path, frames: Iterator[Timed], plays: int) -> None:
    """Each frame with its own palette.

    Args:
        frames: of mode P, all of one size; `info['transparency']` is the index of what is transparent, in no other use.
        plays: how often they are shown; 0: for ever.
    """
    with open(path, 'wb') as file:
        for index, (frame, following) in enumerate(_with_next(frames)):
            image, duration = frame.image, _GIF_UNIT * round(frame.duration / _GIF_UNIT)
            if index == 0:
                info = {'duration': duration, **({} if plays == 1 else {'loop': max(0, plays - 1)})}
                file.writelines(GifImagePlugin.getheader(image.copy(), info=info)[0])
            gone = following is not None and 'transparency' in following.image.info
            hole = image.info.get('transparency', following.image.info['transparency'] if following and gone else None)
            file.writelines(GifImagePlugin.getdata(
                image, duration=duration, include_color_table=True, disposal=_CLEAR if gone else _LEAVE,
                **({} if hole is None else {'transparency': hole})))
        file.write(b';')


def write_webp(path: Path, frames: Iterator[Timed], count: int, **settings: Any) -> None:
    """One image that shows the next frame whenever Pillow seeks it.

    Args:
        frames: `count` of them, RGB or RGBA, all of one mode and size.
        settings: Pillow's.
    """
    image, duration = next(frames)
    image, durations = image.copy(), [round(duration)]

    def seek(index: int) -> None:
        if 0 < index < count:
            following, duration = next(frames)
            image.paste(following)
            durations.append(round(duration))
    for name, value in {'seek': seek, 'n_frames': count}.items():
        setattr(image, name, value)
    image.save(path, 'WEBP', save_all=True, duration=durations, **settings)
    if image.mode == 'RGBA':
        _mark_transparent(path)


def write_apng(path: Path, frames: Iterator[Timed], plays: int, **settings: Any) -> None:
    """Of each frame but the first the rectangle that changes (PNG specification, third edition, 11.3.6).

    Args:
        frames: all of one mode and size.
        settings: Pillow's.
    """
    with open(path, 'wb') as file:
        count, numbers = 0, itertools.count()
        before: Image.Image | None = None
        for image, duration in frames:
            count += 1
            box = _changed(before, image)
            chunks = _encoded(image.crop(box), **({} if before else settings))
            if before is None:
                file.write(_SIGNATURE + _chunk(*chunks[0]))
                control = file.tell()
                file.write(_chunk(b'acTL', bytes(8)))
                file.writelines(_chunk(kind, content) for kind, content in chunks[1:] if kind not in (b'IDAT', b'IEND'))
            delay = Fraction(duration / 1000).limit_denominator(_LARGEST)
            file.write(_chunk(b'fcTL', struct.pack('>IIIIIHH', next(numbers), box[2] - box[0], box[3] - box[1], *box[:2],
                                                   min(delay.numerator, _LARGEST), delay.denominator) + _REPLACE))
            for content in (content for kind, content in chunks if kind == b'IDAT'):
                file.write(_chunk(b'fdAT', struct.pack('>I', next(numbers)) + content) if before else
                           _chunk(b'IDAT', content))
            before = image
        file.write(_chunk(b'IEND', b''))
        file.seek(control)
        file.write(_chunk(b'acTL', struct.pack('>II', count, plays)))


def _with_next(frames: Iterator[Timed]) -> Iterator[tuple[Timed, Timed | None]]:
    """Each frame with the one after it."""
    held = next(frames)
    for frame in frames:
        yield held, frame
        held = frame
    yield held, None


def _changed(before: Image.Image | None, image: Image.Image) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what differs from the frame before; a pixel where nothing does."""
    if before is None:
        return 0, 0, *image.size
    return ImageChops.difference(before, image).getbbox(alpha_only=False) or (0, 0, 1, 1)


def _encoded(image: Image.Image, **settings: Any) -> list[tuple[bytes, bytes]]:
    """The chunks of an image as PNG, kinds and contents."""
    data = io.BytesIO()
    image.save(data, 'PNG', **{'compress_level': PNG_LEVEL} | settings)
    view, place, chunks = data.getbuffer(), len(_SIGNATURE), []
    while place < len(view):
        size = int.from_bytes(view[place:place + 4], 'big')
        chunks.append((bytes(view[place + 4:place + 8]), bytes(view[place + 8:place + 8 + size])))
        place += size + 12
    return chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def _mark_transparent(path: Path) -> None:
    """Marks an animated WebP as transparent in its header: libwebp does not where each frame is an opaque part."""
    with open(path, 'r+b') as file:
        head = file.read(21)
        if head[12:16] == b'VP8X':
            file.seek(20)
            file.write(bytes([head[20] | 0x10]))
