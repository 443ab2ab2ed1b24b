"""The page's server: what it renders, that images of several users stay apart, what it refuses, and what it deletes."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_models import variant

import models
from engine.windows import WindowedImage
from models.latents import LatentCache
from utils import RunError, UserError
from web import MISSING, options

pytest.importorskip('starlette')
pytest.importorskip('uvicorn')

from page import Page, png, serving

from web.costs import Costs
from web.limits import Limits
from web.server import bind, serve

ROOT = Path(__file__).resolve().parent.parent


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return models.load('bicubic', 'cpu')


@pytest.fixture(scope='module')
def page(model):
    with serving(model) as page:
        yield page


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where servers that start in this test keep their files."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob('*') if path.is_file()]


# what it renders

def test_views_are_windows_of_the_upscaled_image(tiny_msit):
    """Rows 30 to 60, columns 20 to 80 at ×2.5, by the network and by Pillow."""
    torch.manual_seed(0)
    network, rgb = models.make(tiny_msit).eval(), 80 + noise(40, 44) // 4  # Pillow clips nothing between its two passes
    whole = network.upscale(rgb, (100, 110))[0].permute(1, 2, 0).numpy() * 255
    with serving(network) as page:
        token = page.open(rgb)
        status, view = page.view(token, (12, 8, 24, 32), (30, 60))
        assert status == 200 and np.abs(view - whole[30:60, 20:80]).max() < 0.51 and view.std() > 1
        status, view = page.view(token, (12, 8, 24, 32), (30, 60), 'bicubic')
        pillow = np.asarray(Image.fromarray(rgb).resize((110, 100), Image.Resampling.BICUBIC))
        assert status == 200 and np.abs(view - pillow[30:60, 20:80].astype(int)).max() <= 1
        assert page.ask('POST', f'images/{token}/job?size=100,110&format=png')[0] == 202
        progress, seen = page.finish(token)
        assert (progress['state'], progress['error']) == ('done', '') and seen == sorted(seen)
        status, headers, _ = page.whole('GET', f'images/{token}/result')
        assert status == 200 and headers['content-disposition'] == 'attachment'
        status, result = page.ask('GET', f'images/{token}/result')
        assert result.shape == (100, 110, 3) and np.abs(result - whole).max() < 0.51


def test_views_of_fewer_pixels_are_downscaled(page):
    rgb = noise(60, 50)
    status, view = page.view(page.open(rgb), (0, 0, 60, 50), (30, 25))
    assert status == 200
    assert np.array_equal(view, np.asarray(Image.fromarray(rgb).resize((25, 30), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize('pixels, mode, expected', [
    ((255, 0, 0, 0), 'RGBA', (255, 255, 255)), ((255, 0, 0, 51), 'RGBA', (255, 204, 204)), (100, 'L', (100, 100, 100)),
    (25700, 'I;16', (100, 100, 100)), ((0, 255), 'LA', (0, 0, 0))])
def test_images_look_as_on_a_screen(page, tmp_path, pixels, mode, expected):
    """Transparent parts are white; 25700 of 65535 is 100 of 255."""
    Image.new(mode, (8, 8), pixels).save(tmp_path / 'a.png')
    _, answer = page.ask('POST', 'images', (tmp_path / 'a.png').read_bytes())
    _, view = page.view(answer['token'], (0, 0, 8, 8), (16, 16))
    assert (view == expected).all()


def test_costs_grow_with_the_size(page):
    token = page.open(noise(64, 64))
    (_, small), (_, large) = (page.ask('GET', f'images/{token}/costs?size={side},{side}') for side in (64, 4096))
    assert 0 < small['seconds'] <= large['seconds']                                    # measured, with noise
    assert large['bytes'] - small['bytes'] == 3 * (4096 ** 2 - 64 ** 2)                # the result


def test_costs_by_hand(model):
    """An image of 64×64 is one region, its own margin is cut at its border."""
    image = WindowedImage(model=model, rgb=noise(64, 64), cache=LatentCache(memory=2 ** 30))
    costs = Costs(encoding=2.0, near=3.0, far=0.5, latent=10.0, working=100.0)
    pixels = 64 ** 2
    assert costs.of(image, (64, 64)) == (2 * pixels + 3 * pixels + 0.5 * pixels, 3 * pixels + 10 * pixels + 100 * pixels)
    assert costs.of(image, (640, 64)) == (5 * pixels + 5 * pixels, 30 * pixels + 110 * pixels)


# several users

def test_users_do_not_mix(model):
    """Four users with images of one colour each, at the same time: views and results have that colour."""
    colours, wrong = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)], []

    def use(page: Page, colour: tuple[int, int, int]) -> None:
        token = page.open(np.full((20, 24, 3), colour, np.uint8))
        assert page.ask('POST', f'images/{token}/job?size=200,240')[0] == 202
        for serial in range(1, 9):
            status, view = page.view(token, (1, 2, 9, 10), (64, 64), serial=serial)
            if status != 200 or (view != colour).any():
                wrong.append((colour, status))
        page.finish(token)
        if (page.ask('GET', f'images/{token}/result')[1] != colour).any():
            wrong.append((colour, 'result'))
    with serving(model) as page:
        users = [threading.Thread(target=use, args=(page, colour)) for colour in colours]
        for user in users:
            user.start()
        for user in users:
            user.join()
    assert not wrong


def test_only_the_token_leads_to_an_image(page):
    tokens = [page.open(noise(8, 8, seed)) for seed in range(3)]
    assert len({*tokens}) == 3 and all(len(token) == 32 for token in tokens)
    for token in ('x', tokens[0][:-1], tokens[0] + 'a', '..', '..%2f..%2fetc%2fpasswd', tokens[0].swapcase()):
        assert page.view(token, (0, 0, 8, 8), (16, 16))[0] == 404


class Waiting:
    """In its block, what a model computes of a grid waits until `go` is set."""

    def __init__(self, model):
        self.model, self.original = model, model.query_grid
        self.entered, self.go = threading.Event(), threading.Event()

    def __enter__(self):
        self.model.query_grid = self.wait
        return self

    def __exit__(self, *error):
        self.go.set()
        del self.model.query_grid

    def wait(self, *arguments):
        self.entered.set()
        assert self.go.wait(30)
        return self.original(*arguments)


def test_stale_views_are_dropped(model):
    """While view 1 is computed, 2 to 6 wait for their turn. Then only 6, the newest, is computed."""
    answers = {}

    def ask(serial):
        answers[serial] = page.view(token, (0, 0, 8, 8), (16, 16), serial=serial)[0]
    with serving(model) as page, Waiting(model) as waiting:
        token = page.open(noise(8, 8))
        threads = [threading.Thread(target=ask, args=(serial,)) for serial in range(1, 7)]
        threads[0].start()
        assert waiting.entered.wait(10)
        for thread in threads[1:]:
            thread.start()
            time.sleep(0.03)
        waiting.go.set()
        for thread in threads:
            thread.join()
    assert answers == {1: 200, 2: 204, 3: 204, 4: 204, 5: 204, 6: 200}


def test_the_page_answers_while_the_model_computes(model):
    with serving(model) as page, Waiting(model) as waiting:
        token = page.open(noise(8, 8))
        page.ask('POST', f'images/{token}/job?size=16,16')
        assert waiting.entered.wait(10)
        start = time.monotonic()
        assert page.view(token, (0, 0, 8, 8), (16, 16), 'bicubic')[0] == 200
        assert page.ask('GET', f'images/{token}/job')[1]['state'] == 'running'
        assert page.ask('GET', 'model')[0] == 200
        assert page.ask('POST', f'images/{token}/job?size=16,16') == (409, {'error': 'this image is being upscaled already'})
        assert time.monotonic() - start < 5


@pytest.mark.parametrize('error, status, message', [
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 503, 'not enough memory'),
    (MemoryError(), 503, 'not enough memory'),
    (RunError('upscale: the output is not finite'), 500, 'upscale: the output is not finite'),
    (OSError(28, 'No space left on device'), 500, 'No space left on device')])
def test_errors_of_the_machine_are_one_line(model, monkeypatch, page, error, status, message):
    """Of a view, and of a job; the page goes on."""
    def fail(*arguments):
        raise error
    token = page.open(noise(8, 8))
    with monkeypatch.context() as patch:
        patch.setattr(model, 'query_grid', fail)
        found, answer = page.view(token, (0, 0, 8, 8), (16, 16))
        page.ask('POST', f'images/{token}/job?size=16,16')
        progress, _ = page.finish(token)
    assert found == status and message in answer['error']
    assert progress['state'] == 'failed' and message in progress['error']
    assert page.view(token, (0, 0, 8, 8), (16, 16), serial=2)[0] == 200


# what is deleted

def test_a_cancelled_job_leaves_nothing(model, folder):
    with serving(model) as page, Waiting(model) as waiting:
        token = page.open(noise(8, 8))
        page.ask('POST', f'images/{token}/job?size=16,16')
        assert waiting.entered.wait(10)
        assert page.ask('GET', f'images/{token}/result')[0] == 409
        assert page.ask('DELETE', f'images/{token}/job')[0] == 204
        assert page.ask('GET', f'images/{token}/job') == (404, {'error': 'nothing is being upscaled'})
        waiting.go.set()
        assert page.ask('POST', f'images/{token}/job?size=24,24')[0] == 202            # the next one is not in its way
        assert page.finish(token)[0]['state'] == 'done' and len(files(folder)) == 1


def test_images_that_are_left_are_deleted_with_all_that_was_made_of_them(model, folder):
    with serving(model) as page:
        token, other = page.open(noise(8, 8)), page.open(noise(8, 8))
        page.ask('POST', f'images/{token}/job?size=16,16')
        page.finish(token)
        assert len(files(folder)) == 1                                                # the result; no upload is kept
        assert page.ask('DELETE', f'images/{token}')[0] == 204
        assert files(folder) == []
        for path in ('job', 'result', 'costs?size=16,16'):
            status, answer = page.ask('GET', f'images/{token}/{path}')
            assert status == 404 and 'no longer here' in answer['error']
        assert page.view(other, (0, 0, 8, 8), (16, 16))[0] == 200
    assert list(folder.iterdir()) == []                                               # at the end nothing is left


@pytest.mark.slow
def test_idle_images_are_deleted(model, folder):
    with serving(model, Limits(idle=0.4)) as page:
        token = page.open(noise(8, 8))
        page.ask('POST', f'images/{token}/job?size=16,16')
        page.finish(token)
        deadline = time.monotonic() + 20
        while files(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert page.ask('GET', f'images/{token}/job')[0] == 404


# what is refused

SMALL = Limits(bytes=5000, pixels=400, all_pixels=1000, images=3, view_pixels=1000, result_pixels=2000)


@pytest.mark.parametrize('body, status, message', [
    (b'x' * 5001, 413, 'too large; at most 0 MiB'), (iter([b'x' * 3000] * 2), 413, 'too large'), (b'', 400, 'not an image'),
    (b'GIF89a nothing', 400, 'image'), (b'%!PS-Adobe-3.0 EPSF-3.0', 400, 'not an image'),
    (png(noise(1, 401)), 413, '401×1 pixels'), (png(noise(20, 20))[:600], 400, 'damaged'),
    (b'P6 40000 40000 255 ', 400, 'more than the 1,073,741,824 pixels')])
def test_uploads_that_are_refused(small_page, body, status, message):
    page, _, folder = small_page
    found, answer = page.ask('POST', 'images', body, encode_chunked=not isinstance(body, bytes))
    assert found == status and message in answer['error'] and '\n' not in answer['error']
    assert str(folder) not in answer['error'] and files(folder) == []


def test_as_many_images_as_there_is_room_for(model):
    """Three images, or 1000 pixels; what is deleted makes room."""
    with serving(model, SMALL) as page:
        tokens = [page.open(noise(10, 40)), page.open(noise(10, 40))]
        assert page.ask('POST', 'images', png(noise(10, 21)))[0] == 503
        tokens.append(page.open(noise(10, 20)))
        assert page.ask('POST', 'images', png(noise(1, 1)))[0] == 503
        page.ask('DELETE', f'images/{tokens[0]}')
        page.open(noise(10, 40))


@pytest.mark.parametrize('path', [
    'view?window=0,0,8,8&size=40,26', 'view?window=0,0,8,9&size=9,9', 'view?window=0,0,0,8&size=9,9',
    'view?window=-1,0,8,8&size=9,9',
    'view?window=0,0,nan,8&size=9,9', 'view?window=0,0,8&size=9,9', 'view?size=9,9', 'view?window=0,0,8,8&size=0,9',
    'view?window=0,0,8,8&size=9', 'view?window=0,0,8,8&size=9,1e9', 'view?window=0,0,8,8&size=9,9&serial=-1',
    'view?window=0,0,8,8&size=٣,9', 'costs?size=7,8', 'costs?size=50,50', 'costs', 'costs?size=99999999999999999999,1'])
def test_wrong_requests(small_page, path):
    page, token, _ = small_page
    status, answer = page.ask('GET', f'images/{token}/{path.encode("ascii", "namereplace").decode()}'.replace(' ', '%20'))
    assert status == 400 and answer['error'] and '\n' not in answer['error']


@pytest.mark.parametrize('query', ['size=16,16&format=exe', 'size=16,16&format=../png', 'size=7,16', 'size=50,50', ''])
def test_wrong_jobs(small_page, query):
    page, token, _ = small_page
    assert page.ask('POST', f'images/{token}/job?{query}')[0] == 400


@pytest.fixture(scope='module')
def small_page(model, tmp_path_factory):
    """A page with narrow limits, the token of an image of 8×8, and the folder of its files."""
    folder = tmp_path_factory.mktemp('files')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, 'tempdir', str(folder))
        with serving(model, SMALL) as page:
            yield page, page.open(noise(8, 8)), folder


@pytest.mark.parametrize('host, status', [
    ('127.0.0.1:{}', 200), ('localhost:{}', 200), ('LOCALHOST', 200), ('[::1]:{}', 200), ('192.168.0.7', 200),
    ('evil.example', 403),     ('localhost.evil.example:{}', 403),
    ('127.0.0.1.evil.example', 403), ('', 403), ('[::1', 403), ('127.1', 403)])
def test_other_names_of_this_machine_are_refused(page, host, status):
    assert page.ask('GET', 'model', headers={'Host': host.format(page.port)})[0] == status


def test_the_name_that_the_user_gave_is_answered(model):
    with serving(model, host='Desk.example') as page:
        for host, status in (('desk.example:80', 200), ('other.example', 403)):
            assert page.ask('GET', 'model', headers={'Host': host})[0] == status


@pytest.mark.parametrize('origin, status', [('http://127.0.0.1:{}', 201), ('http://evil.example', 403), ('null', 403),
                                            ('http://127.0.0.1:1', 403)])
def test_other_sites_cannot_send_images(page, origin, status):
    headers = {'Origin': origin.format(page.port)}
    assert page.ask('POST', 'images', png(noise(4, 4)), headers)[0] == status


@pytest.mark.parametrize('path', ['', 'style.css', 'page.js', 'model', 'none', 'images/x/view'])
def test_every_answer_forbids_what_comes_from_elsewhere(page, path):
    _, headers, _ = page.whole('GET', path)
    assert "default-src 'none'; script-src 'self'" in headers['content-security-policy']
    assert headers['x-content-type-options'] == 'nosniff' and 'access-control-allow-origin' not in headers


@pytest.mark.parametrize('path', ['../server.py', '..%2fserver.py', '%2e%2e/server.py', '/etc/passwd', 'page/../../demo.py'])
def test_only_the_files_of_the_page_are_served(page, path):
    assert page.ask('GET', path)[0] == 404


def test_the_page_names_no_other_place():
    """No address of another machine in what browsers load; that of SVG's name space is none."""
    for file in sorted((ROOT / 'web/page').iterdir()):
        text = file.read_text(encoding='utf-8').replace('http://www.w3.org/2000/svg', '')
        assert not re.search(r'\w+://|["\'`(=]//', text), file.name


# the command

def test_models_without_windows_are_refused():
    with bind('127.0.0.1', 0) as listener, pytest.raises(UserError, match='-web: this model upscales by exactly 2'):
        serve(variant('edsr-baseline', 0), 'edsr-baseline', '127.0.0.1', listener)


def test_an_address_that_is_taken():
    with bind('127.0.0.1', 0) as taken, pytest.raises(UserError, match=r'cannot be used .* try another -port'):
        bind('127.0.0.1', taken.getsockname()[1])


@pytest.mark.parametrize('arguments, message', [
    ('-port 80', 'give -web too'), ('-host ::1', 'give -web too'), ('-web -port 65536', 'from 0 to 65535'),
    ('-web -zoom 1,2', 'not allowed with'), ('-web -output a.png', 'leave it out'),
    ('-web -host no.such.host.invalid', 'cannot be used')])
def test_wrong_options(monkeypatch, capsys, arguments, message):
    assert command(arguments, monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == '' and message in err and err.count('\n') == 1


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(options.importlib.util, 'find_spec', lambda name: None)
    assert command('-web', monkeypatch) == 2
    assert capsys.readouterr().err == f'error: {MISSING}\n' and 'pip install starlette uvicorn' in MISSING


def command(arguments: str, monkeypatch) -> int:
    import demo
    from common.cli import run
    monkeypatch.setattr('sys.argv', ['demo.py', '-model', 'bicubic', *arguments.split()])
    with pytest.raises(SystemExit) as leaving:
        run(demo.main)
    return leaving.value.code


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, ROOT / 'demo.py', '-web', '-port', '0', '-model', 'bicubic'], text=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, 'TMPDIR': str(tmp_path)})
    line = process.stdout.readline()
    assert line.startswith('bicubic at http://127.0.0.1:')
    page = Page(int(line.split(':')[2].split('/')[0]))
    token = page.open(noise(8, 8))
    page.ask('POST', f'images/{token}/job?size=16,16')
    page.finish(token)
    assert len(files(tmp_path)) == 1
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, '', 'interrupted\n') and files(tmp_path) == []
