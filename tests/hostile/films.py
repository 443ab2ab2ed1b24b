"""Small valid films, made by PyAV, an extra."""
import importlib.util
from fractions import Fraction
from pathlib import Path

import numpy as np

HAS_FILMS = importlib.util.find_spec('av') is not None
CODECS = {'a.mp4': ('libx264', 'yuv420p', 'aac'), 'a.mov': ('libx264', 'yuv420p', 'aac'),
          'a.mkv': ('libx264', 'yuv420p10le', 'flac'), 'a.webm': ('libvpx-vp9', 'yuva420p', 'libopus'),
          'a.avi': ('mpeg4', 'yuv420p', 'mp3')}  # name → codec of the film, its pixels, codec of the sound
HEIGHT, WIDTH, COUNT, RATE, SOUND = 32, 48, 6, 25, 48000


def make_films(folder: Path) -> None:
    """Writes one film of each format, and one of sound alone; nothing where PyAV is missing."""
    folder.mkdir()
    if not HAS_FILMS:
        return
    for name, (codec, form, sound) in CODECS.items():
        _write(folder / name, codec, form, sound)
    _write(folder / 'sound.mp4', None, '', 'aac')


def _write(path: Path, codec: str | None, form: str, sound: str) -> None:
    import av  # an extra
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(path, 'w') as film:
        stream = film.add_stream(codec, rate=RATE) if codec else None
        track = film.add_stream(sound, rate=SOUND, layout='mono')
        if stream is not None:
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, form
        for number in range(COUNT if stream is not None else 0):
            pixels = np.stack([4 * x, 6 * y, 0 * x + 30 * number, 3 * x + 3 * y], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, 'rgba').reformat(format=form)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            film.mux(stream.encode(frame))
        samples = np.sin(np.arange(SOUND * COUNT // RATE) / 20)[None]
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), 'fltp', 'mono')
        frame.sample_rate, frame.pts, frame.time_base = SOUND, 0, Fraction(1, SOUND)
        resampler = av.AudioResampler(track.codec_context.format, 'mono', SOUND, track.codec_context.frame_size or None)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            film.mux(track.encode(part))
        film.mux(track.encode(None))
        if stream is not None:
            film.mux(stream.encode(None))
