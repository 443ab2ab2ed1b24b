"""A zoom into a point: its windows, its frames, and the films that they become."""
import math
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from test_models import variant

import engine.windows
import models
from engine.windows import Window, WindowedImage, check_windows
from engine.zoom import Zoom, render_frames
from imaging.films import check_film, write_film
from models.latents import LatentCache
from utils import UserError

SUFFIXES = ['.gif', '.webp', pytest.param('.mp4', marks=pytest.mark.slow)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def zoom(at=(0.35, 0.55), first=1.0, last=30.0, frames=25, size=(64, 96)) -> Zoom:
    return Zoom(first, last, at, frames, 25, size)


# windows

@pytest.mark.parametrize('first, last', [(1, 30), (30, 1), (2.5, 2.5)])
def test_magnifications_grow_by_equal_factors(first, last):
    values = [zoom(first=first, last=last).magnification(index) for index in range(25)]
    assert math.isclose(values[0], first) and math.isclose(values[-1], last)
    assert np.ptp(np.diff(np.log(values))) < 1e-12


@pytest.mark.parametrize('at', [(0.35, 0.55), (0.5, 0.5), (0, 0), (1, 0.2), (0.02, 1)])
@pytest.mark.parametrize('height, width, size', [
    (128, 192, (64, 96)), (100, 7, (64, 64)), (1, 500, (2, 90)), (50, 60, (40, 8))])
def test_windows_stay_inside_and_end_at_the_point(at, height, width, size):
    """Each has the frame's ratio and the size of the largest one divided by the magnification; it moves without jumps."""
    film = zoom(at, size=size, last=200)
    windows = [film.window(index, height, width) for index in range(25)]
    scale = max(size[0] / height, size[1] / width)
    for index, window in enumerate(windows):
        assert 0 <= window.top < window.bottom <= height and 0 <= window.left < window.right <= width
        expected = np.array(size) / scale / film.magnification(index)
        assert np.allclose([window.height, window.width], expected, rtol=1e-9)
    y, x = at[0] * height, at[1] * width
    assert all(window.top - 1e-9 <= y <= window.bottom + 1e-9 and window.left - 1e-9 <= x <= window.right + 1e-9
               for window in windows)
    corners = np.array(windows)                                                      # each edge only ever closes in
    steps = np.diff(corners, axis=0) * [1, 1, -1, -1]
    assert steps.min() > -1e-9


def test_the_first_window_is_the_whole_image_and_the_last_has_the_point_in_its_middle():
    first, last = zoom(last=1000).window(0, 128, 192), zoom(last=1000).window(24, 128, 192)
    assert first == (0, 0, 128, 192)
    middle = (last.top + last.bottom) / 2, (last.left + last.right) / 2
    assert abs(middle[0] - 0.35 * 128) < 0.05 * last.height and abs(middle[1] - 0.55 * 192) < 0.05 * last.width


# frames

def test_frames_are_what_the_network_renders_of_the_image_encoded_as_a_whole(tiny_msit, monkeypatch):
    """Regions here, the whole there; the first frame is smaller than the image, so it is bicubic."""
    torch.manual_seed(0)
    model, rgb = models.make(tiny_msit).eval(), noise(42, 48)
    monkeypatch.setattr(engine.windows, 'SIDE', 16)
    image = WindowedImage(model=model, rgb=rgb, cache=LatentCache(memory=2 ** 30))
    film = zoom(frames=4, size=(21, 24))
    assert len(image.regions(film.window(0, 42, 48), (99, 99))) > 1
    frames = list(render_frames(image, film))
    encoded = model.encode_image(rgb)
    assert [film.window(index, 42, 48).height < 21 for index in range(4)] == [False, True, True, True]
    assert np.array_equal(frames[0], np.asarray(Image.fromarray(rgb).resize((24, 21), Image.Resampling.BICUBIC)))
    for index in (1, 2, 3):
        expected = model.render(encoded, film.window(index, 42, 48), (21, 24))[0].permute(1, 2, 0).numpy() * 255
        assert np.abs(frames[index] - expected).max() < 0.51 and expected.std() > 1


def test_a_window_of_bicubic_is_that_part_of_the_whole():
    """Rows 20 to 60 and columns 10 to 90 of the image at ×2.5, computed by Pillow at once."""
    rgb = 80 + noise(40, 50) // 4  # Pillow clips nothing between its two passes, whatever their order
    image = WindowedImage(model=models.load('bicubic', 'cpu'), rgb=rgb, cache=LatentCache(memory=2 ** 20))
    whole = np.asarray(Image.fromarray(rgb).resize((125, 100), Image.Resampling.BICUBIC))
    found = image.bicubic(Window(8, 4, 24, 36), (40, 80))
    assert np.abs(found - whole[20:60, 10:90].astype(int)).max() <= 1


@pytest.mark.parametrize('name, message', [('srno', 'renders no windows'), ('edsr-baseline', 'by exactly 2')])
def test_models_without_windows_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        check_windows(variant(name, 0), '-zoom')


# films

def needs(suffix: str) -> None:
    if suffix == '.mp4':
        pytest.importorskip('av')


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_films_hold_the_frames(tmp_path, suffix):
    """Smooth colours, read back by Pillow or PyAV: within what each format rounds off."""
    needs(suffix)
    y, x = np.mgrid[:48, :64]
    given = [np.stack([4 * y, 3 * x, np.full_like(x, 25 * number)], -1).astype(np.uint8) for number in range(9)]
    path = tmp_path / f'film{suffix}'
    write_film(path, iter(given), 9, 30)
    assert list(tmp_path.iterdir()) == [path]
    if suffix == '.mp4':
        import av
        with av.open(path) as film:
            assert film.streams.video[0].average_rate == 30 and film.duration == 300_000
            found = [frame.to_ndarray(format='rgb24') for frame in film.decode(video=0)]
    else:
        with Image.open(path) as film:
            found, durations = [], []
            for number in range(film.n_frames):
                film.seek(number)
                found.append(np.asarray(film.convert('RGB')))
                durations.append(film.info['duration'])
            assert film.info['loop'] == 0
        assert sum(durations) == 300 and set(durations) <= ({30, 40} if suffix == '.gif' else {33, 34})
    assert len(found) == 9
    assert all(np.abs(a - b.astype(float)).mean() < 6 for a, b in zip(found, given))


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_one_frame_at_a_time_is_in_memory(tmp_path, suffix):
    needs(suffix)
    alive: list = []

    def frames():
        for number in range(12):
            frame = noise(32, 32, number)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(reference() is not None for reference in alive) <= 2
    write_film(tmp_path / f'film{suffix}', frames(), 12, 25)
    assert len(alive) == 12


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_an_interrupted_film_leaves_the_old_one(tmp_path, suffix):
    needs(suffix)
    path = tmp_path / f'film{suffix}'
    path.write_bytes(b'old')

    def frames():
        yield noise(32, 32)
        yield noise(32, 32)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        write_film(path, frames(), 5, 25)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b'old'


@pytest.mark.parametrize('name, size, fps, message', [
    ('a.png', (10, 10), 25, "has suffix '.png', expected .gif or .mp4 or .webp"),
    ('a.gif', (10, 10), 60, 'at most 50 frames a second'),
    ('a.mp4', (11, 10), 25, 'even height and width, not 11x10'),
    ('a.mp4', (10, 16386), 25, 'at most 16,384 pixels'), ('a.webp', (10, 16384), 25, 'too large for this format')])
def test_films_that_cannot_be(tmp_path, name, size, fps, message):
    with pytest.raises(UserError) as error:
        check_film(tmp_path / name, *size, fps)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(UserError, match='pip install av'):
        check_film(tmp_path / 'a.mp4', 10, 10, 25)


# the command

def call(arguments: str, capsys, monkeypatch) -> tuple[int, str, str]:
    import demo
    from common.cli import run
    monkeypatch.setattr('sys.argv', ['demo.py', *arguments.split()])
    status = 0
    try:
        run(demo.main)
    except SystemExit as leaving:
        status = leaving.code
    return status, *capsys.readouterr()


def test_the_command_writes_a_film(tmp_path, monkeypatch, capsys):
    """48×32 pixels become frames of 768 at the longer side: ×16, and ×16·5 at the end."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(32, 48)).save('a.png')
    status, out, err = call('-model bicubic -input a.png -zoom 1,5 -at 0.2,0.7 -frames 3 -fps 5', capsys, monkeypatch)
    assert (status, err) == (0, '')
    assert out == 'a.png -> output/a_zoom.webp (3 frames of 512x768, scale 16 to 80)\n'
    with Image.open('output/a_zoom.webp') as film:
        film.load()
        assert (film.n_frames, film.size, film.info['duration']) == (3, (768, 512), 200)


@pytest.mark.parametrize('arguments, message', [
    ('-zoom 0.5,3', 'two magnifications such as 1,30, each a number from 1 to 10,000'), ('-zoom 3', 'two magnifications'),
    ('-zoom 1,2,3', 'two magnifications'), ('-zoom 1,nan', 'two magnifications'), ('-zoom 1,1e99', 'two magnifications'),
    ('-zoom 1,3 -at 2,1', 'two fractions'), ('-zoom 1,3 -at 40,', 'two fractions'),
    ('-zoom 1,3 -size 10', 'expected height,width'),
    ('-zoom 1,3 -size 10,9.5', 'expected height,width'), ('-zoom 1,3 -size 1,99999', 'from 2 to 8,192'),
    ('-zoom 1,3 -frames 1', 'from 2 to 100000'), ('-zoom 1,3 -fps 0', 'from 1 to 100'), ('-at 0,1', 'give -zoom too'),
    ('-frames 9', 'give -zoom too'), ('-zoom 1,3 -scale 2', 'not allowed with'),
    ('-zoom 1,3 -output a.jpg', 'expected .gif or'),
    ('-zoom 1,3 -input .', 'is a folder, expected an image file'), ('-zoom 1,3 -input none.png', 'no such image file'),
])
def test_wrong_options(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(f'-model bicubic {arguments}', capsys, monkeypatch)
    assert (status, out) == (2, '') and message in err and err.count('\n') == 1
    assert not list(tmp_path.iterdir())
