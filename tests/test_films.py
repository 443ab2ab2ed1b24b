"""Upscaling films: frames, time, sound, colours, what cannot be read, and what an interrupt leaves."""
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers import call, message
from lab import slow_except
from PIL import Image

import demo
import models
from engine.files import FileOptions
from engine.films import plan_film, upscale_film
from engine.jobs import JobOptions
from engine.sizes import Size
from imaging import WriteOptions
from imaging.film_colours import from_frame, to_frame
from imaging.film_formats import Colours, check_film_target
from imaging.film_reading import Film
from imaging.frame import Frame
from utils import UserError

av = pytest.importorskip('av')
HEIGHT, WIDTH, COUNT, RATE, SOUND = 32, 48, 8, 25, 48000
TIMES = [0, 40, 60, 200, 210, 300, 333, 400]  # milliseconds


def image(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colours, (H, W, 3) uint8, which no codec changes much."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 150 * y / height, 30 + 180 * x / width, np.full(x.shape, 60 + 12 * number)], -1).astype(np.uint8)


def make_film(path: Path, *, codec='libx264', form='yuv420p', sound: str | None = 'aac', frames=None, times=range(COUNT),
              unit=Fraction(1, RATE), **settings) -> Path:
    """A film of `frames`, (H, W, 3 or 4), with a sine of 440 Hz."""
    frames = [image(number) for number in range(len(times))] if frames is None else frames
    with av.open(path, 'w') as film:
        stream = film.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = form
        stream.codec_context.time_base = unit
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        track = film.add_stream(sound, rate=SOUND, layout='mono') if sound else None
        for pixels, moment in zip(frames, times):
            frame = av.VideoFrame.from_ndarray(pixels, 'rgba' if pixels.shape[2] == 4 else 'rgb24').reformat(format=form)
            frame.pts, frame.time_base = moment, unit
            film.mux(stream.encode(frame))
        if track:
            samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SOUND * COUNT // RATE) / SOUND)
            frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], 'fltp', 'mono')
            frame.sample_rate, frame.pts, frame.time_base = SOUND, 0, Fraction(1, SOUND)
            film.mux(track.encode(frame))
            film.mux(track.encode(None))
        film.mux(stream.encode(None))
    return path


def upscale(source: Path, target: Path, scale: float = 2, **options) -> Path:
    """By bicubic."""
    job = plan_film(JobOptions([str(source)], target), Size('scale', (scale, scale)), FileOptions(WriteOptions(**options)))
    upscale_film(models.load('bicubic', 'cpu'), job)
    return target


def frames_of(path: Path) -> list:
    with av.open(path) as film:
        return list(film.decode(video=0))


def rgb_of(path: Path) -> list[np.ndarray]:
    return [frame.to_ndarray(format='rgb24').astype(float) for frame in frames_of(path)]


def packets_of(path: Path) -> list[bytes]:
    with av.open(path) as film:
        return [bytes(packet) for packet in film.demux(audio=0) if packet.size]


def sound_of(path: Path) -> np.ndarray:
    with av.open(path) as film:
        return np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255 ** 2 / max(1e-9, ((a - b) ** 2).mean()))


def boxes_of(path: Path) -> list[bytes]:
    """The names of the boxes of a file of MPEG-4 (ISO/IEC 14496-12, 4.2), in their order."""
    data, place, names = path.read_bytes(), 0, []
    while place < len(data):
        size = int.from_bytes(data[place:place + 4], 'big')
        names.append(data[place + 4:place + 8])
        place += size if size != 1 else int.from_bytes(data[place + 8:place + 16], 'big')
    return names


@pytest.mark.parametrize('name', slow_except(['b.mp4'], ['b.mp4', 'b.mov', 'http:b.mp4', 'é\n\udcff.mp4']))
def test_the_index_stands_before_the_frames(tmp_path, monkeypatch, name):
    """So browsers play a film while they load it; names that look like addresses are names."""
    monkeypatch.chdir(tmp_path)
    upscale(make_film(tmp_path / 'a.mp4'), Path(name))
    order = [box for box in boxes_of(tmp_path / name) if box in (b'ftyp', b'moov', b'mdat')]
    assert order == [b'ftyp', b'moov', b'mdat']
    with Film(tmp_path / name) as film:
        assert film.read_header().frames == COUNT


# frames and time

@pytest.mark.parametrize('suffix', slow_except(['.mp4'], ['.mp4', '.mkv', '.mov', '.webm']))
def test_each_frame_is_upscaled_at_its_time(tmp_path, suffix):
    """Compared with Pillow on the frames one by one. Times of Matroska are whole milliseconds, and begin with the sound."""
    source = make_film(tmp_path / 'a.mp4')
    target = upscale(source, tmp_path / f'b{suffix}')
    frames, expected = rgb_of(target), [Image.fromarray(frame.astype(np.uint8)).resize((96, 64), Image.Resampling.BICUBIC)
                                        for frame in rgb_of(source)]
    assert len(frames) == COUNT and all(frame.shape == (64, 96, 3) for frame in frames)
    assert min(psnr(a, np.asarray(b, float)) for a, b in zip(frames, expected)) > 34
    times = [frame.time for frame in frames_of(target)]
    assert np.allclose(np.diff(times), 1 / RATE, atol=1e-3) and 0 <= times[0] < 0.03
    with av.open(target) as film:
        assert abs(film.duration / 1e6 - COUNT / RATE) < 0.03
        assert film.streams.video[0].codec_context.name == ('vp9' if suffix == '.webm' else 'h264')


@pytest.mark.slow
def test_uneven_time_stamps_stay(tmp_path):
    source = make_film(tmp_path / 'a.mkv', times=TIMES, unit=Fraction(1, 1000), sound=None)
    target = upscale(source, tmp_path / 'b.mp4')
    assert [round(1000 * frame.time) for frame in frames_of(target)] == TIMES
    assert [round(1000 * frame.time) for frame in frames_of(upscale(target, tmp_path / 'c.mkv'))] == TIMES


HALF = np.sqrt(0.5)
MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0), 'mirrored': (-1, 0, 0, 1),
            45: (HALF, HALF, -HALF, HALF)}


def turned(path: Path, turn) -> Path:
    """Writes a display matrix into an mp4: the nine numbers that follow 40 bytes of its box tkhd."""
    data = bytearray(path.read_bytes())
    start = data.index(b'tkhd') + 44
    a, b, c, d = (round(65536 * value) for value in MATRICES[turn])
    data[start:start + 36] = struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 2 ** 30)
    path.write_bytes(data)
    return path


UPRIGHT = {90: lambda x: np.rot90(x, -1), 180: lambda x: x[::-1, ::-1], 270: np.rot90, 'mirrored': lambda x: x[:, ::-1]}


@pytest.mark.parametrize('turn', slow_except([90], UPRIGHT))
def test_frames_become_upright(tmp_path, turn):
    """As a player shows them: a matrix of 90° turns them clockwise. The pixel aspect turns with them."""
    source = make_film(tmp_path / 'a.mp4', sound=None, times=range(2), sample_aspect_ratio=Fraction(4, 3))
    expected = [UPRIGHT[turn](frame) for frame in rgb_of(source)]
    target = upscale(turned(source, turn), tmp_path / 'b.mp4', 1)
    found = rgb_of(target)
    assert found[0].shape == expected[0].shape and min(map(psnr, found, expected)) > 34
    with av.open(target) as film:
        assert film.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if turn in (90, 270) else Fraction(4, 3))


def test_a_film_at_an_angle_is_refused(tmp_path):
    source = turned(make_film(tmp_path / 'a.mp4', sound=None, times=range(1)), 45)
    assert 'at an angle' in message(upscale, source, tmp_path / 'b.mp4')


@pytest.mark.slow
@pytest.mark.parametrize('suffix, size', [('.mp4', (48, 72)), ('.webm', (47, 71))])
def test_odd_sides(tmp_path, capsys, suffix, size):
    """31×47 at ×1.5 is 46.5×70.5, rounded to 46×70; at ×1.52 47.12×71.44: H.264 gets one row and column more."""
    source = make_film(tmp_path / 'a.webm', codec='libvpx-vp9', sound=None, frames=[image(0, 31, 47)])
    frames = rgb_of(upscale(source, tmp_path / f'b{suffix}', 1.52))
    assert frames[0].shape[:2] == size
    assert ('48x72 instead of 47x71' in capsys.readouterr().out) == (suffix == '.mp4')


# sound

@pytest.mark.parametrize('sound, source, target', slow_except([('aac', 'a.mp4', 'b.mkv')], [
    ('aac', 'a.mp4', 'b.mkv'), ('aac', 'a.mkv', 'b.mov'), ('flac', 'a.mkv', 'b.mp4'), ('libopus', 'a.mkv', 'b.webm'),
    ('pcm_s16le', 'a.mov', 'b.mkv')]))
def test_sound_is_copied(tmp_path, sound, source, target):
    file = make_film(tmp_path / source, sound=sound, times=range(4))
    assert packets_of(upscale(file, tmp_path / target, 1)) == packets_of(file)


@pytest.mark.slow
@pytest.mark.parametrize('sound, source', [('aac', 'a.mp4'), ('pcm_s16le', 'a.mov')])
def test_sound_that_the_format_does_not_hold_is_compressed_anew(tmp_path, capsys, sound, source):
    """A sine of 440 Hz and half the amplitude stays one, as long as before."""
    file = make_film(tmp_path / source, sound=sound)
    found = sound_of(upscale(file, tmp_path / 'b.webm', 1))
    assert 'compressed anew as libopus, because .webm does not hold' in capsys.readouterr().out
    assert abs(len(found) - len(sound_of(file))) <= 1024
    spectrum = np.abs(np.fft.rfft(found[2000:14000]))
    assert abs(spectrum.argmax() * SOUND / 12000 - 440) <= 4 and abs(found[2000:14000].std() - 0.5 / np.sqrt(2)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize('suffix, kept', [('.mkv', True), ('.mp4', False)])
def test_subtitles_chapters_and_titles_go_along(tmp_path, capsys, suffix, kept):
    """Subtitles as SubRip, which Matroska holds and mp4 does not."""
    source, unit = tmp_path / 'a.mkv', Fraction(1, 1000)
    (tmp_path / 'a.srt').write_text('1\n00:00:00,000 --> 00:00:00,100\nHello\n')
    with av.open(source, 'w') as film, av.open(tmp_path / 'a.srt') as words:
        film.metadata['title'] = 'A title'
        film.set_chapters([{'id': 1, 'start': 0, 'end': 80, 'time_base': unit, 'metadata': {'title': 'First'}}])
        stream, track = film.add_stream('libx264', rate=RATE), film.add_stream_from_template(words.streams.subtitles[0])
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, 'yuv420p'
        for number in range(4):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image(number), 'rgb24')))
        for packet in words.demux(subtitles=0):
            if packet.size:
                packet.stream = track
                film.mux(packet)
        film.mux(stream.encode(None))
    target = upscale(source, tmp_path / f'b{suffix}', 1)
    assert ('left out, because it is not kept: subtitle' in capsys.readouterr().out) != kept
    with av.open(target) as film:
        assert film.metadata['title'] == 'A title'
        assert [chapter['metadata']['title'] for chapter in film.chapters()] == ['First']
        found = [bytes(packet) for packet in film.demux(subtitles=0) if packet.size] if film.streams.subtitles else []
    assert found == ([b'Hello'] if kept else [])


# colours

@pytest.mark.parametrize('matrix, red, blue', [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
@pytest.mark.parametrize('bits, full', [(8, False), (8, True), (10, False), (10, True)])
def test_colours_are_converted_by_the_formulas(matrix, red, blue, bits, full):
    """Luma and colour differences of flat images, by hand (ITU-R BT.601, 709, 2020), and back within their rounding."""
    colours, unit = Colours(matrix, full), 2 ** (bits - 8)
    for r, g, b in ((255, 255, 255), (0, 0, 0), (200, 100, 50), (10, 240, 128)):
        kind = np.uint8 if bits == 8 else np.uint16
        full_scale = np.iinfo(kind).max
        pixels = np.broadcast_to(np.array([r, g, b]) * (full_scale // 255), (16, 32, 3)).astype(kind)
        stored = from_frame(Frame(pixels=pixels), 'yuv420p' if bits == 8 else 'yuv420p10le', colours)
        luma = (red * r + (1 - red - blue) * g + blue * b) / 255
        differences = (b / 255 - luma) / (2 - 2 * blue), (r / 255 - luma) / (2 - 2 * red)
        if full:
            expected = [luma * (2 ** bits - 1), *(unit * 128 + value * (2 ** bits - 1) for value in differences)]
        else:
            expected = [unit * (16 + 219 * luma), *(unit * (128 + 224 * value) for value in differences)]
        found = [np.frombuffer(plane, kind)[0] for plane in stored.planes]
        assert np.abs(np.array(found) - np.minimum(expected, 2 ** bits - 1)).max() <= 0.51
        back = to_frame(stored, colours, bits, alpha=False).pixels
        assert back.dtype == kind and np.abs(back / (full_scale / 255) - (r, g, b)).max() < 2.1 / unit


@pytest.mark.parametrize('tags, bits', slow_except([((9, 9, 16, 1), 10)], [
    ((1, 1, 1, 1), 8), ((1, 1, 1, 2), 8), ((9, 9, 16, 1), 10), ((5, 5, 6, 1), 8)]))
def test_what_a_film_says_of_its_colours_stays(tmp_path, tags, bits):
    names = ('colorspace', 'color_primaries', 'color_trc', 'color_range')
    form = 'yuv420p' if bits == 8 else 'yuv420p10le'
    source = make_film(tmp_path / 'a.mp4', form=form, sound=None, times=range(2), **dict(zip(names, tags)))
    target = upscale(source, tmp_path / 'b.mkv', 1)
    with av.open(target) as film:
        frame = next(film.decode(video=0))
        context = film.streams.video[0].codec_context
    assert tuple(getattr(context, name) for name in names) == tags
    assert frame.format.components[0].bits == bits
    a, b = (np.frombuffer(frames_of(path)[0].planes[0], np.uint8 if bits == 8 else '<u2').astype(float)
            for path in (source, target))
    assert abs((a - b).mean()) < 0.6 * 2 ** (bits - 8)


@pytest.mark.slow
def test_a_film_that_says_nothing_gets_what_players_take_it_for(tmp_path):
    """BT.601 below 720 rows; said aloud in the new film, which may have more."""
    source = make_film(tmp_path / 'a.mp4', sound=None, times=range(1))
    assert frames_of(source)[0].colorspace == 2
    assert frames_of(upscale(source, tmp_path / 'b.mp4', 24))[0].colorspace == 6


def disc() -> tuple[np.ndarray, np.ndarray]:
    """A red disc on transparent green, (H, W, 4), and whether a pixel lies in it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = (y - 16) ** 2 + (x - 24) ** 2 < 100
    return np.where(inside[..., None], (255, 0, 0, 255), (0, 255, 0, 0)).astype(np.uint8), inside


@pytest.mark.slow
def test_transparency_of_vp9_stays(tmp_path):
    pixels, inside = disc()
    source = make_film(tmp_path / 'a.webm', codec='libvpx-vp9', form='yuva420p', sound=None, frames=[pixels] * 3)
    target = upscale(source, tmp_path / 'b.webm', 1)
    with Film(target) as film:
        header = film.read_header()
    with Film(target) as film:
        frames = [item.frame for item in film.items(header.turn, 8, header.shape.alpha)]
    assert len(frames) == 3 and header.shape.alpha
    assert np.abs(frames[0].alpha.astype(int) - 255 * inside).mean() < 5


@pytest.mark.slow
def test_transparency_is_blended_where_the_format_has_none(tmp_path, capsys):
    source = make_film(tmp_path / 'a.webm', codec='libvpx-vp9', form='yuva420p', sound=None, frames=[disc()[0]] * 2)
    found = rgb_of(upscale(source, tmp_path / 'b.mp4', 1, background=(0, 0, 255)))[0]
    assert 'H.264 holds no transparency: transparent pixels are blended onto 0,0,255' in capsys.readouterr().out
    assert np.abs(found[:4] - (0, 0, 255)).max() < 16 and np.abs(found[14:18, 22:26] - (255, 0, 0)).max() < 16


@pytest.mark.slow
def test_more_bits_than_the_format_holds_are_said(tmp_path, capsys):
    source = make_film(tmp_path / 'a.mp4', form='yuv420p10le', sound=None, times=range(2))
    assert frames_of(upscale(source, tmp_path / 'b.mp4', 1, bits=8))[0].format.name == 'yuv420p'
    form = frames_of(upscale(source, tmp_path / 'b.webm', 1))[0].format.name
    assert ('8 bits per channel instead of 10' in capsys.readouterr().out) == (form == 'yuv420p')


# what is refused

def damaged(path: Path) -> None:
    """A film of noise, with ones in its middle, where the decoder expects lengths."""
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
    data = bytearray(make_film(path, frames=list(noise)).read_bytes())
    start = data.index(b'mdat') + 3000
    data[start:start + 5000] = b'\xff' * 5000
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Two thirds of a film of 1.2 seconds in Matroska."""
    source = make_film(path.with_suffix('.mkv'), sound=None, times=range(30))
    path.write_bytes(source.read_bytes()[:source.stat().st_size * 2 // 3])


def sound_alone(path: Path) -> None:
    with av.open(path, 'w') as film:
        track = film.add_stream('aac', rate=SOUND, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, SOUND), np.float32), 'fltp', 'mono')
        frame.sample_rate, frame.pts = SOUND, 0
        film.mux(track.encode(frame))
        film.mux(track.encode(None))


@pytest.mark.parametrize('name, make, parts', [
    ('empty.mp4', lambda path: path.touch(), 'cannot be read as a film'),
    ('text.mp4', lambda path: path.write_text('hello\n' * 1000), 'cannot be read as a film'),
    ('image.mp4', lambda path: Image.fromarray(image(0)).save(path, 'PNG'), 'cannot be read as a film'),
    ('list.mp4', lambda path: path.write_text('#EXTM3U\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n'), 'cannot be read as'),
    ('files.mkv', lambda path: path.write_text("ffconcat version 1.0\nfile 'other.mp4'\n"), 'cannot be read as a film'),
    ('sound.mp4', sound_alone, 'holds no film, only audio'),
    pytest.param('cut.webm', cut, 'is cut short, after 0.', marks=pytest.mark.slow),
    pytest.param('damaged.mp4', damaged, 'damaged', marks=pytest.mark.slow),
    ('short.mp4', lambda path: path.write_bytes(make_film(path).read_bytes()[:3000]), 'cannot be read as a film'),
    ('fifo.mp4', os.mkfifo, 'is a FIFO'),
])
def test_films_that_cannot_be_read(tmp_path, monkeypatch, capsys, name, make, parts):
    """One line, status 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    before = {file.name for file in tmp_path.iterdir()}
    done = call(demo.main, ('-model', 'bicubic', '-input', name, '-scale', 2, '-output', 'b.mp4'), capsys, monkeypatch)
    assert done.status == 2 and done.err.count('\n') == 1 and name in done.err and re.search(parts, done.err)
    assert {file.name for file in tmp_path.iterdir()} == before


OPTIONS = [
    ('-output b.png', "has suffix '.png', expected .mp4 or .mkv or .mov or .webm"),
    ('-output a.mp4', 'a.mp4: is the input itself'),
    ('-output b.mp4 -resolution 63,95', 'H.264 has an even height and width, not 63x95'),
    ('-output b.mp4 -resolution 16386,48', '16386x48 is too large for H.264, which has at most 16,384 pixels at a side'),
    ('-output b.webm -resolution 65537,48', '65537x48 is too large for VP9, which has at most 65,536'),
    ('-output b.mp4 -resolution 16,24', 'smaller'),
    ('-output b.mp4 -compare', '-compare: has no effect on films'),
    ('-format png', '-format png: no format of a film'),
    ('-bits 16', '-bits 16: films have 8 or 10 bits'),
    ('-range 0,1', '-range: has no effect on films'), ('-first-frame', '-first-frame: has no effect on films'),
]


@pytest.mark.parametrize('words, parts', slow_except(OPTIONS[:3], OPTIONS))
def test_wrong_options(tmp_path, monkeypatch, capsys, words, parts):
    monkeypatch.chdir(tmp_path)
    make_film(tmp_path / 'a.mp4', sound=None, times=range(1))
    done = call(demo.main, ('-model', 'bicubic', '-input', 'a.mp4', *words.split()), capsys, monkeypatch)
    assert done.status == 2 and done.err.count('\n') == 1 and parts in done.err
    assert [file.name for file in tmp_path.iterdir()] == ['a.mp4']


@pytest.mark.slow
def test_the_encoders_take_the_largest_side_that_is_allowed(tmp_path):
    """And no more: what `check_film_target` allows is what they do."""
    for codec, largest, step, form in (('libx264', 16384, 2, '.mp4'), ('libvpx-vp9', 65536, 1, '.webm')):
        for width, allowed in ((largest, True), (largest + step, False)):
            context = av.CodecContext.create(codec, 'w')
            context.width, context.height, context.pix_fmt, context.time_base = width, 2, 'yuv420p', Fraction(1, 25)
            try:
                context.open()
                taken = True
            except av.FFmpegError:
                taken = False
            try:
                check_film_target(tmp_path / f'a{form}', 2, width)
                planned = True
            except UserError:
                planned = False
            assert taken == planned == allowed


def test_without_pyav_a_line_names_it(tmp_path, monkeypatch, capsys):
    make_film(tmp_path / 'a.mp4', sound=None, times=range(1))
    monkeypatch.setitem(sys.modules, 'av', None)
    words = '-model', 'bicubic', '-input', tmp_path / 'a.mp4', '-output', tmp_path / 'b.mp4'
    done = call(demo.main, words, capsys, monkeypatch)
    assert done.status == 2 and 'a.mp4: needs one more package: pip install av' in done.err and done.err.count('\n') == 1


# the command, and what an interrupt leaves

@pytest.mark.slow
@pytest.mark.parametrize('words, name', [
    ('', 'output/a_64x96.mp4'), ('-format webm', 'output/a_64x96.webm'), ('-output .', 'a.mkv')])
def test_names_without_an_output(tmp_path, monkeypatch, capsys, words, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in').mkdir()
    source = make_film(tmp_path / f'in/a{".mkv" if "." in words else ".mp4"}', sound=None, times=range(2))
    done = call(demo.main, ('-model', 'bicubic', '-scale', 2, '-input', source, *words.split()), capsys, monkeypatch)
    assert (done.status, done.err) == (0, '')
    assert re.fullmatch(rf'\S+ \(32x48\) -> {name} \(64x96, 2 frames\) in \S+ s on cpu\n', done.out)
    assert len(frames_of(tmp_path / name)) == 2


@pytest.mark.slow
def test_a_finished_film_is_left_alone_by_resume(tmp_path, monkeypatch, capsys):
    """And made again when it has another size, or is older than the input."""
    monkeypatch.chdir(tmp_path)
    make_film(tmp_path / 'a.mp4', sound=None, times=range(1))
    lines = []
    for scale in (2, 2, 1, 1, 1):
        if len(lines) == 4:
            os.utime('b.mp4', (0, 0))
        words = ('-model', 'bicubic', '-input', 'a.mp4', '-output', 'b.mp4', '-resume', '-scale', scale)
        lines.append(call(demo.main, words, capsys, monkeypatch).out)
    assert [line == 'b.mp4: is finished already\n' for line in lines] == [False, True, False, True, False]


def test_a_film_comes_alone(tmp_path):
    source = make_film(tmp_path / 'a.mp4', sound=None, times=range(1))
    options = JobOptions([str(source), 'b.png'])
    assert 'a.mp4 is a film; give it alone' in message(plan_film, options, Size(), FileOptions())
    assert plan_film(JobOptions(['b.png', str(tmp_path)]), Size(), FileOptions()) is None


@pytest.mark.parametrize('error', slow_except([KeyboardInterrupt], [KeyboardInterrupt, MemoryError]))
def test_an_error_amid_the_work_leaves_the_old_file(tmp_path, monkeypatch, error):
    source, target = make_film(tmp_path / 'a.mp4'), tmp_path / 'b.mp4'
    target.write_bytes(b'old')
    model, done = models.load('bicubic', 'cpu'), []

    def fail(*arguments):
        done.append(len(done))
        if len(done) == 4:
            raise error
        return type(model).upscale_parts(model, *arguments)
    monkeypatch.setattr(model, 'upscale_parts', fail)
    job = plan_film(JobOptions([str(source)], target), Size('scale', (2, 2)), FileOptions())
    with pytest.raises(error if error is KeyboardInterrupt else RuntimeError):
        upscale_film(model, job)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a.mp4', 'b.mp4'] and target.read_bytes() == b'old'


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_leaves_no_film(tmp_path, number):
    """And the next one removes what the killed one left."""
    source = make_film(tmp_path / 'a.mp4', times=range(100))
    command = [sys.executable, ROOT / 'demo.py', '-model', 'bicubic', '-input', source, '-scale', '20',
               '-output', tmp_path / 'b.mp4']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob('.partial-*')):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -9) and not (tmp_path / 'b.mp4').exists()
    assert len(list(tmp_path.glob('.partial-*'))) == (number == signal.SIGKILL)
    subprocess.run([*command[:-3], '1', *command[-2:]], check=True, capture_output=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a.mp4', 'b.mp4']
    assert len(frames_of(tmp_path / 'b.mp4')) == 100


@pytest.mark.slow
def test_few_frames_are_in_memory(tmp_path, monkeypatch):
    """Those between the threads, whatever the length of the film."""
    alive, most = [], []
    original = Film.items

    def items(film, *arguments):
        for item in original(film, *arguments):
            if isinstance(item, tuple):
                alive.append(weakref.ref(item.frame))
                most.append(sum(reference() is not None for reference in alive))
            yield item
            del item
    monkeypatch.setattr(Film, 'items', items)
    upscale(make_film(tmp_path / 'a.mp4', sound=None, times=range(40)), tmp_path / 'b.mp4', 1)
    assert len(alive) == 40 and max(most) <= 5


@pytest.mark.slow
@pytest.mark.parametrize(('suffix', 'share'), [('.mp4', 0), ('.mp4', 0.3), ('.mp4', 0.98), ('.webm', 0.5), ('.mkv', 0.9)])
def test_a_full_disk_is_one_line(tmp_path, suffix, share):
    """The limit on the size of files stands for it. The header is written before the frames, the index at the end."""
    make_film(tmp_path / 'a.mp4')
    size = upscale(tmp_path / 'a.mp4', tmp_path / f'whole{suffix}').stat().st_size
    words = [sys.executable, str(ROOT / 'demo.py'), '-model', 'bicubic', '-device', 'cpu', '-input', 'a.mp4', '-scale', '2',
             '-output', f'out/b{suffix}']
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size),) * 2))
    assert (done.returncode, done.stderr) == (1, f'error: out/b{suffix}: cannot be written (File too large)\n')
    assert not list((tmp_path / 'out').iterdir())
