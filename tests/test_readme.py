"""The README's commands do what it says; setting up and running the tests themselves aside."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lab import slow_except
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
DOCS = sorted((ROOT / 'docs').glob('*.md'))
FOLDERS = ('assets', 'benchmarks', 'common', 'configs', 'datasets', 'docs', 'engine', 'figures', 'imaging', 'modelzoo',
           'models', 'tests', 'web')
COMMANDS = re.findall(r'^    (python .+)$', README.replace('\\\n', ' '), re.MULTILINE)


def arguments(command: str) -> list[str]:
    """The words of a command after 'python', comments left out, repository files as absolute paths."""
    words = shlex.split(command, comments=True)[1:]
    return [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]


def call(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300,
                          env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'})


def chosen(script: str) -> list[str]:
    found = [command for command in COMMANDS if command.startswith(f'python {script}')]
    assert found, f'the README shows no {script} command'
    return found


def test_every_command_is_covered():
    scripts = ('demo.py', 'test.py', 'train.py', 'visualize.py', '-m engine.export', '-m datasets.prepare')
    covered = tuple(f'python {script}' for script in scripts)
    assert len(COMMANDS) >= 9 and [command for command in COMMANDS if not command.startswith(covered)] == []


LOOKING = [command for command in chosen('demo.py') if '-zoom' in command or '-web' in command]
FILM, = (command for command in chosen('demo.py') if 'film' in command and command not in LOOKING)
UPSCALING = [command for command in chosen('demo.py') if command not in (*LOOKING, FILM)]


@pytest.mark.parametrize('command', slow_except(UPSCALING[:1], UPSCALING))
def test_demo(tmp_path, command):
    """Each writes what it names; bicubic in the place of the weights, for speed."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    for folder in ('folder', 'more'):
        (tmp_path / folder).mkdir()
    for path in ('photo.jpg', 'folder/a.png', 'more/b.tif'):
        image.save(tmp_path / path)
    before = set(tmp_path.rglob('*.png'))
    stand_in = [] if '-info' in command else ['-model', 'bicubic']
    done = call([*arguments(command), *stand_in], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    written = {}
    for path in set(tmp_path.rglob('*.png')) - before:
        with Image.open(path) as image:
            written[str(path.relative_to(tmp_path))] = image.size[::-1]
    results = {
        '-scale 3.5': {'photo_x3.5.png': (70, 84)}, '-scale 2,3.5': {'output/photo_40x84.png': (40, 84)},
        '-longest 1920': {'output/photo_1600x1920.png': (1600, 1920),
                          'output/photo_1600x1920_compare.png': (1600 + 2 * (1600 // 24), 2 * 1920 + 8)},
        '-recursive': {'upscaled/folder/a.png': (80, 96), 'upscaled/b.png': (80, 96)}, '-info': {}}
    expected, = (result for option, result in results.items() if f'{option} ' in f'{command} ')
    assert written == expected


@pytest.mark.slow
def test_film(tmp_path):
    av = pytest.importorskip('av')
    with av.open(tmp_path / 'film.mp4', 'w') as film:
        stream = film.add_stream('libx264', rate=10, width=24, height=20, pix_fmt='yuv420p')
        for level in (40, 120, 200):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((20, 24, 3), level, np.uint8), 'rgb24')))
        film.mux(stream.encode(None))
    done = call([*arguments(FILM), '-model', 'bicubic'], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    with av.open(tmp_path / 'film_x2.mp4') as film:
        frames = [frame.to_ndarray(format='rgb24') for frame in film.decode(video=0)]
    assert [frame.shape for frame in frames] == [(40, 48, 3)] * 3
    assert [round(frame.mean() / 40) for frame in frames] == [1, 3, 5]


@pytest.mark.slow
def test_zoom(tmp_path):
    command, page = LOOKING
    done = call([*arguments(command), '-model', 'bicubic'], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    with Image.open(tmp_path / 'zoom.webp') as film:
        assert (film.n_frames, film.size) == (60, (600, 400))
    assert arguments(page)[1:] == ['-web']                                           # started by test_web.py


@pytest.mark.slow
@pytest.mark.parametrize('command', chosen('visualize.py'))
def test_figures(shared, tmp_path, command):
    done = call([*arguments(command), '-model', 'bicubic', '-data', str(shared / 'data')], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    written, = (tmp_path / word for word in done.stdout.removeprefix('wrote ').splitlines())
    assert written.stat().st_size > 10_000


SUITES = [command for command in chosen('test.py') if '/paper-' in command]


@pytest.mark.slow
@pytest.mark.parametrize('command', slow_except(SUITES[:1], SUITES))
def test_suites_need_only_the_data(tmp_path, command):
    done = call(arguments(command), tmp_path)
    assert (done.returncode, done.stdout) == (2, '') and list(tmp_path.iterdir()) == []
    assert re.fullmatch(r'error: nothing to measure: data/\S+: no such folder.*\n', done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize('command', [command for command in chosen('test.py') if command not in SUITES])
def test_benchmark(shared, tmp_path, command):
    done = call([*arguments(command), '-model', 'bicubic', '-data', str(shared / 'data')], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    assert '| Set5 | 4 | 28.43 |' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('command', chosen('train.py'))
def test_training_needs_only_the_data(tmp_path, command):
    """Everything but the data is in place: the first thing missed is the stage-1 checkpoint, or DIV2K."""
    done = call(arguments(command), tmp_path)
    missing = 'save/EDSR_MSIT/epoch-last.pth' if '-pretrain' in command else 'data/DIV2K/DIV2K_train_HR'
    assert done.returncode == 2 and done.stdout == ''
    assert re.fullmatch(rf'error: (-pretrain )?{missing}: no such [a-z ]+\n', done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize('command', chosen('-m engine.export'))
def test_export_needs_only_the_checkpoint(tmp_path, command):
    done = call(arguments(command), tmp_path)
    assert done.returncode == 2
    assert done.stderr == 'error: save/EDSR_MSIT_rim/epoch-best.pth: no such checkpoint file\n'


@pytest.mark.slow
@pytest.mark.parametrize('command', chosen('-m datasets.prepare'))
def test_data_is_asked_for(tmp_path, command):
    """Only as far as the check: it names every folder that the command would fill, in the layout that the README shows."""
    (tmp_path / 'data').mkdir()
    done = call([*arguments(command), '-check'], tmp_path)
    assert done.returncode == 2 and done.stdout == '' and list(tmp_path.rglob('*')) == [tmp_path / 'data']
    *missing, summary = done.stderr.splitlines()
    assert summary.startswith('error: ')
    named = [name for name in ('DIV2K', 'Flickr2K', 'Set5', 'Set14', 'BSD100', 'Urban100') if name in arguments(command)]
    line = r'data/(?:benchmark/)?(\w+)/\S+: no such folder of images; expected \d+ images'
    assert {re.fullmatch(line, problem)[1] for problem in missing} == set(named)


def test_python_example(tmp_path, monkeypatch):
    """The whole image as a window gives what `upscale` gives, and so does a file, in its 8 bits."""
    monkeypatch.chdir(tmp_path)
    example, = re.findall(r'^```python\n(.*?)^```', README, re.MULTILINE | re.DOTALL)
    lr = np.random.default_rng(0).random((6, 8, 3), dtype=np.float32)
    names = {'lr': lr, 'h': 15, 'w': 20, 'top': 0, 'left': 0, 'bottom': 6, 'right': 8}
    pixels = np.rint(255 * lr).astype(np.uint8)
    Image.fromarray(pixels).save('a.png', dpi=(300, 300))
    exec(example, names)
    assert names['sr'].shape == (1, 3, 15, 20) and (names['sr'] - names['window']).abs().max() < 1e-5
    with Image.open('b.png') as made:
        expected = names['model'].upscale(pixels, size=(12, 16))[0].permute(1, 2, 0).numpy()
        assert made.info['dpi'] == pytest.approx((300, 300), abs=0.1)
        assert np.array_equal(np.asarray(made), np.rint(255 * expected))


@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md', *(f'docs/{file.name}' for file in DOCS)])
def test_named_files_exist(page):
    """Every path below a folder of the project that a document names, and every link.

    Left out are the files that a document adds by showing their content, and those that users put there.
    """
    text = (ROOT / page).read_text(encoding='utf-8')
    added = {*re.findall(r'^`([^`\n]+)`:\n\n```', text, re.MULTILINE), 'modelzoo/lpips/alex.pth'}
    words = {word for code in re.findall(r'`([^`\n]+)`', text) for word in code.split()}
    paths = {word for word in words if re.match(rf"({'|'.join(FOLDERS)})/[^:]*$", word)} - added
    patterns = [re.sub(r'\{[^}]*\}|NAME', '*', path) for path in sorted(paths)]  # {edsr,rdn} and NAME: any of several
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern))] == []
    links = re.findall(r'\]\((?!https?:)([^)#]+)[^)]*\)', text)
    assert [link for link in links if not (ROOT / link).exists() and not ((ROOT / page).parent / link).exists()] == []


def test_table_of_modules():
    """Each part has a line that names a file or folder; `test_named_files_exist` looks for them."""
    lines = [line for line in README.splitlines() if line.startswith('| ') and '`' in line]
    parts = ('MSIT,', 'FEM', 'MSC', 'SIM', 'MSNO', 'MSSA', 'RIM', 'encoders', 'coordinates', 'protocols', 'metrics',
             'losses', 'memory budget', 'training step', 'second stage')
    assert [part for part in parts if not any(part in line.split('|')[1] for line in lines)] == []
