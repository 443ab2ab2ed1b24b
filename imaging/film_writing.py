"""Writing films frame by frame, with PyAV: H.264 or VP9, and sound as it was where the container holds it."""
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imaging.film_colours import from_frame
from imaging.film_formats import FILM_FORMATS, Codec, Shape, check_film_target
from imaging.film_reading import Film, FilmFrame
from imaging.formats import DEFAULTS, MAX_QUALITY
from imaging.libraries import library
from utils import RunError, atomic_path, is_out_of_memory, one_line

if TYPE_CHECKING:
    import av

_HELD = 2 ** 28           # bytes of frames that an encoder holds to decide about the next one
_LEAST_HELD = 4           # frames
_AUDIO_RATE = 96_000      # bits a second and channel, where sound is compressed anew
_FULL_RANGE, _PART_OF_RANGE = 2, 1  # FFmpeg's numbers


class FilmWriter:
    """A film file. On leaving its block it is complete; after an error the file before it stays.

        with FilmWriter('b.mp4', shape) as writer:
            writer.write(frame)       # a FilmFrame; or a packet of another stream of `source`

    `notes` are lines for the user about what is left out or changed.
    """

    def __init__(self, path: str | Path, shape: Shape, *, quality: int = DEFAULTS.quality,
                 source: Film | None = None) -> None:
        """
        Args:
            shape: of the frames. Depth and transparency are kept as far as the format holds them.
            quality: 1 to 100.
            source: the film whose sound, subtitles, chapters and metadata go along.
        Raises: UserError when the format cannot hold the frames.
        """
        self.path, self.shape = Path(path), shape
        check_film_target(self.path, shape.height, shape.width)
        self.notes: list[str] = []
        self._form = FILM_FORMATS[self.path.suffix.lower()]
        self._quality, self._source = quality, source
        self._failed = False
        self._av = library('av', self.path)
        self._stack = ExitStack()

    def __enter__(self) -> 'FilmWriter':
        with ExitStack() as stack:
            path = stack.enter_context(atomic_path(self.path)).absolute()  # FFmpeg takes a:b as an address
            stack.enter_context(self._writing())
            self._container = stack.enter_context(self._av.open(str(path), 'w', format=self._form.container,
                                                                options=self._form.options))
            self._stream = self._add_stream()
            self._tracks = self._add_tracks(self._source) if self._source else {}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._stack:
            if error is not None:
                raise error  # removes what has been written
            for packet in self._stream.encode(None):
                self._container.mux(packet)
            for track in self._tracks.values():
                track.finish()

    def write(self, item: 'FilmFrame | av.Packet') -> None:
        """Adds a frame, of shape.time_base, or a packet of another stream of the source; nothing after an error."""
        if self._failed:  # FFmpeg crashes where something follows a header that could not be written
            return
        self._failed = True
        with self._writing():
            if isinstance(item, FilmFrame):
                for packet in self._stream.encode(self._coded(item)):
                    self._container.mux(packet)
            elif track := self._tracks.get(item.stream.index):
                track.add(item)
        self._failed = False

    def _coded(self, item: FilmFrame) -> 'av.VideoFrame':
        """The frame as the encoder takes it."""
        frame = from_frame(item.frame, self._stream.pix_fmt, self.shape.colours)
        frame.pts, frame.duration, frame.time_base = item.time, item.duration, self.shape.time_base
        return frame

    def _add_stream(self) -> 'av.VideoStream':
        codec, shape = self._form.codec, self.shape
        stream = self._container.add_stream(codec.name, rate=shape.rate, options=self._options(codec))
        context = stream.codec_context
        stream.width, stream.height = shape.width, shape.height
        stream.pix_fmt = self._pixel_format(codec)
        context.time_base, context.sample_aspect_ratio = shape.time_base, shape.pixel_aspect
        context.bit_rate = 0  # the quality decides
        context.colorspace, context.color_primaries, context.color_trc = (
            shape.colours.matrix, shape.colours.primaries, shape.colours.transfer)
        context.color_range = _FULL_RANGE if shape.colours.full else _PART_OF_RANGE
        return stream

    def _pixel_format(self, codec: Codec) -> str:
        """4:2:0, which every player shows."""
        if self.shape.alpha and codec.alpha:
            return 'yuva420p'
        deep = 'yuv420p10le'
        if self.shape.bits > 8 and deep in {form.name for form in self._av.codec.Codec(codec.name, 'w').video_formats}:
            return deep
        if self.shape.bits > 8:
            self.notes.append(f'{codec.title} is written with 8 bits per channel instead of {self.shape.bits}')
        return 'yuv420p'

    def _options(self, codec: Codec) -> dict[str, str]:
        quality = codec.best + (codec.worst - codec.best) * (MAX_QUALITY - self._quality) / MAX_QUALITY
        held = max(_LEAST_HELD, min(codec.ahead, 2 * _HELD // (3 * self.shape.height * self.shape.width)))
        return {'crf': str(round(quality)), codec.ahead_option: str(held)}

    def _add_tracks(self, source: Film) -> 'dict[int, _Track]':
        """How each further stream of the source is written, by its index."""
        self._container.metadata.update(source.container.metadata)
        self._container.set_chapters(source.container.chapters())
        tracks: dict[int, _Track] = {}
        left_out = list(source.left_out)
        for stream in source.others:
            context = stream.codec_context
            if context is not None and context.name in self._container.supported_codecs:
                tracks[stream.index] = _Copied(self._container, stream)
            elif context is not None and stream.type == 'audio':
                tracks[stream.index] = _Encoded(self._container, stream, self._form.audio)
                self.notes.append(f'sound is compressed anew as {self._form.audio}, because {self.path.suffix} does not '
                                  f'hold {context.name}')
            else:
                left_out.append(stream.type)
        if left_out:
            self.notes.append(f'left out, because it is not kept: {", ".join(left_out)}')
        return tracks

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Names the file in errors of FFmpeg; those of the system are named by `atomic_path`."""
        try:
            yield
        except self._av.FFmpegError as error:
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise
            raise RunError(f'{self.path}: cannot be written as a film ({error.strerror or one_line(error)})') from error


class _Copied:
    """A stream that is written as it is."""

    def __init__(self, container: 'av.container.OutputContainer', source: 'av.stream.Stream') -> None:
        self._container, self._stream = container, container.add_stream_from_template(source)
        self._stream.metadata.update(source.metadata)

    def add(self, packet: 'av.Packet') -> None:
        packet.stream = self._stream
        self._container.mux(packet)

    def finish(self) -> None:
        """Nothing is held."""


class _Encoded:
    """Sound that is decoded and compressed anew."""

    def __init__(self, container: 'av.container.OutputContainer', source: 'av.AudioStream', codec: str) -> None:
        rates: Sequence[int] = library('av', codec).codec.Codec(codec, 'w').audio_rates or [source.rate]
        rate = source.rate if source.rate in rates else max(rates)
        self._container, self._source = container, source
        self._stream = container.add_stream(codec, rate=rate, layout=source.layout.name)
        self._stream.codec_context.bit_rate = _AUDIO_RATE * source.channels
        self._stream.metadata.update(source.metadata)

    def add(self, packet: 'av.Packet | None') -> None:
        for frame in self._source.decode(packet):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self.add(None)
        self._container.mux(self._stream.encode(None))


_Track = _Copied | _Encoded
