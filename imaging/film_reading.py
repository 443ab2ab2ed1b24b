"""Reading films frame by frame, with PyAV."""
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imaging.film_colours import LUMA, to_frame
from imaging.film_formats import Colours, Shape, usual_matrix
from imaging.formats import MAX_PIXELS
from imaging.frame import Frame
from imaging.libraries import library
from imaging.reading import check_file
from utils import UserError, one_line

if TYPE_CHECKING:
    import av

# FFmpeg finds the format by the content, whatever the suffix: a playlist, say, would open other files and addresses
_OPTIONS = {'format_whitelist': 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi', 'protocol_whitelist': 'none',
            'err_detect': 'explode'}
_ALPHA_DECODERS = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}  # FFmpeg's own ones drop transparency
_UNSAID = (0, 2, 3)  # numbers of matrices: RGB, not said, reserved
_FULL_RANGE, _FULL_FORMATS = 2, ('yuvj', 'gray')  # formats of the full range, where nothing is said
_LEAST_RATE, _MOST_RATE, _USUAL_RATE = Fraction(1, 1000), Fraction(1000), Fraction(25)
_TOLERANCE = 0.5  # seconds by which a whole film may end before its file says so


class Turn(NamedTuple):
    """What makes a stored frame upright: first rows and columns are exchanged, then they are reversed."""
    exchange: bool = False
    rows: bool = False
    columns: bool = False

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C) → the same upright."""
        pixels = pixels.swapaxes(0, 1) if self.exchange else pixels
        return np.ascontiguousarray(pixels[::-1 if self.rows else 1, ::-1 if self.columns else 1])


class FilmHeader(NamedTuple):
    """What a film says before its frames.

    Attributes:
        shape: of the upright frames.
        turn: what makes them upright.
        frames: how many there will be, about; None: unknown.
        interlaced: whether a frame is two half images.
    """
    shape: Shape
    turn: Turn
    frames: int | None
    interlaced: bool


class FilmFrame(NamedTuple):
    """A frame and when it is shown: `time` and `duration` in units of the film's time base; a duration of 0 is unknown."""
    frame: Frame
    time: int
    duration: int


class Film:
    """A film file, open within a block. It is read once, from its beginning: `read_header` or `items`.

    Attributes:
        path: the file.
        container: PyAV's.
        others: the streams beside the film itself whose packets `items` hands over: sound and subtitles.
        left_out: the kinds of further ones.

    Raises: UserError when it is no film, or PyAV is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_file(self.path)
        self._av = library('av', self.path)
        with ExitStack() as stack, self._reading('cannot be read as a film'):
            file = stack.enter_context(open(self.path, 'rb'))
            self.container = stack.enter_context(self._av.open(file, 'r', metadata_errors='replace', options=_OPTIONS))
            self._stream = self._find_stream()
            self._decoder = self._find_decoder()
            self._stack = stack.pop_all()
        streams = [stream for stream in self.container.streams if stream is not self._stream]
        self.others = [stream for stream in streams if stream.type in ('audio', 'subtitle')]
        self.left_out = [stream.type for stream in streams if stream.type not in ('audio', 'subtitle')]

    def __enter__(self) -> 'Film':
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def items(self, turn: Turn, bits: int, alpha: bool) -> Iterator['FilmFrame | av.Packet']:
        """The upright frames as RGB, and the packets of `others`, in the order of the file.

        Raises: UserError where the film is damaged, or cut short.
        """
        size = None
        for item in self._decoded():
            if isinstance(item, self._av.Packet):
                yield item
                continue
            size = size or (item.width, item.height)
            if (item.width, item.height) != size:
                raise UserError(f'{self.path}: its frames have different sizes, {size[1]}x{size[0]} and '
                                f'{item.height}x{item.width}; cut it into films of one size')
            frame = to_frame(item, self._colours(item), bits, alpha)
            frame = Frame(pixels=turn.of(frame.pixels), alpha=None if frame.alpha is None else turn.of(frame.alpha))
            yield FilmFrame(frame, item.pts, item.duration or 0)

    def read_header(self) -> FilmHeader:
        """Decodes the first frame. Raises UserError where there is none."""
        first = next((item for item in self._decoded() if not isinstance(item, self._av.Packet)), None)
        if first is None:
            raise UserError(f'{self.path}: holds no frame of a film')
        turn = self._turn(first)
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        height, width = (first.width, first.height) if turn.exchange else (first.height, first.width)
        rate = next((rate for rate in (self._stream.average_rate, self._stream.guessed_rate)
                     if rate and _LEAST_RATE <= rate <= _MOST_RATE), _USUAL_RATE)
        shape = Shape(height, width, Fraction(self._stream.time_base), Fraction(rate), self._colours(first),
                      10 if max(component.bits for component in first.format.components) > 8 else 8,
                      any(component.is_alpha for component in first.format.components),
                      1 / aspect if turn.exchange else aspect)
        duration = self._seconds()
        frames = self._stream.frames or (round(duration * rate) if duration else None)
        return FilmHeader(shape, turn, frames, first.interlaced_frame)

    def _find_stream(self) -> 'av.VideoStream':
        """The film itself: the first one that is no cover."""
        covers = self._av.stream.Disposition.attached_pic
        films = [stream for stream in self.container.streams.video if not stream.disposition & covers]
        if not films:
            kinds = sorted({stream.type for stream in self.container.streams})
            raise UserError(f'{self.path}: holds no film, only {" and ".join(kinds) or "nothing"}')
        stream = films[0]
        if stream.codec_context is None:
            raise UserError(f'{self.path}: its frames are compressed in a way that PyAV does not read')
        if stream.width * stream.height > MAX_PIXELS:
            raise UserError(f'{self.path}: has frames of more than {MAX_PIXELS:,} pixels')
        return stream

    def _find_decoder(self) -> 'av.VideoCodecContext':
        decoder = self._stream.codec_context
        if self._stream.metadata.get('alpha_mode') == '1' and decoder.name in _ALPHA_DECODERS:
            decoder = self._av.CodecContext.create(_ALPHA_DECODERS[decoder.name], 'r')
        decoder.thread_type = 'AUTO'
        decoder.options = {'err_detect': 'explode'}  # an error, where a damaged frame would be guessed
        return decoder

    def _decoded(self) -> Iterator['av.VideoFrame | av.Packet']:
        """Frames as they are stored, each with a time stamp, and packets of other streams."""
        number, end, next_time = 0, 0.0, 0
        with self._reading('damaged'):
            for packet in self.container.demux([self._stream, *self.others]):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not self._stream:
                    if packet.dts is not None:
                        yield packet
                    continue
                for frame in self._decoder.decode(packet if packet.size else None):
                    number += 1
                    if frame.is_corrupt:
                        raise UserError(f'{self.path}: frame {number} is damaged')
                    frame.pts = next_time if frame.pts is None else frame.pts
                    next_time = frame.pts + (frame.duration or 1)
                    yield frame
        seconds = self._seconds()
        if number and seconds and end < seconds - _TOLERANCE:
            raise UserError(f'{self.path}: is cut short, after {end:.2f} of {seconds:.2f} s; get a whole copy')

    def _seconds(self) -> float | None:
        """When the film ends, as its file says."""
        if self.container.duration is None:
            return None
        return (self.container.duration + max(0, self.container.start_time or 0)) / 1e6

    def _colours(self, frame: 'av.VideoFrame') -> Colours:
        """As soon as a frame is decoded: some films say it there alone."""
        context = self._decoder
        matrix = usual_matrix(context.height) if context.colorspace in _UNSAID else context.colorspace
        if matrix not in LUMA:
            raise UserError(f'{self.path}: its colours are coded in a way (number {matrix} of ISO/IEC 23091-2) that is not '
                            'converted; convert it to BT.709')
        unsaid = not context.color_range
        full = context.color_range == _FULL_RANGE or (unsaid and frame.format.name.startswith(_FULL_FORMATS))
        return Colours(matrix, full, context.color_primaries, context.color_trc)

    def _turn(self, frame: 'av.VideoFrame') -> Turn:
        """What the display matrix of a frame asks for."""
        found = frame.side_data.get('DISPLAYMATRIX')
        if found is None:
            return Turn()
        a, b, _, c, d = np.sign(np.frombuffer(bytes(found), np.int32)[:5])
        if not (a and d and not b and not c) and not (b and c and not a and not d):
            raise UserError(f'{self.path}: is shown at an angle that is no right one; turn it first')
        return Turn(True, bool(b < 0), bool(c < 0)) if b else Turn(False, bool(d < 0), bool(a < 0))

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Names the file in errors of FFmpeg and of the system."""
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            raise UserError(f'{self.path}: {what} ({error.strerror or one_line(error)})') from error

