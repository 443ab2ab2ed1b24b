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
    scripts = ('demo.py', 'test.py', 'train.py', '-m engine.export', '-m datasets.prepare')
    covered = tuple(f'python {script}' for script in scripts)
    assert len(COMMANDS) >= 9 and [command for command in COMMANDS if not command.startswith(covered)] == []


@pytest.mark.parametrize('command', slow_except(chosen('demo.py')[:2], chosen('demo.py')))
def test_demo(tmp_path, command):
    """Each writes an image of the size it names; bicubic stands in for the weights, for speed."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    (tmp_path / 'folder').mkdir()
    for path in ('photo.jpg', 'folder/a.png'):
        image.save(tmp_path / path)
    before = set(tmp_path.rglob('*.png'))
    done = call([*arguments(command), '-model', 'bicubic'], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    written, = set(tmp_path.rglob('*.png')) - before
    sizes = {'-scale 3.5': (70, 84), '-scale 2,3.5': (40, 84), '-resolution 1080,1920': (1080, 1920), '-scale 4': (80, 96)}
    expected, = (size for option, size in sizes.items() if f'{option} ' in f'{command} ')
    with Image.open(written) as image:
        assert image.size[::-1] == expected


SUITES = [command for command in chosen('test.py') if '/paper-' in command]


@pytest.mark.parametrize('command', slow_except(SUITES[:1], SUITES))
def test_suites_need_only_the_data(tmp_path, command):
    done = call(arguments(command), tmp_path)
    assert (done.returncode, done.stdout) == (2, '') and list(tmp_path.iterdir()) == []
    assert re.fullmatch(r'error: nothing to measure: data/\S+: no such folder.*\n', done.stderr)


@pytest.mark.parametrize('command', [command for command in chosen('test.py') if command not in SUITES])
def test_benchmark(shared, tmp_path, command):
    done = call([*arguments(command), '-model', 'bicubic', '-data', str(shared / 'data')], tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    assert '| Set5 | 4 | 28.43 |' in done.stdout


@pytest.mark.parametrize('command', chosen('train.py'))
def test_training_needs_only_the_data(tmp_path, command):
    """Everything but the data is in place: the first thing missed is the stage-1 checkpoint, or DIV2K."""
    done = call(arguments(command), tmp_path)
    missing = 'save/EDSR_MSIT/epoch-last.pth' if '-pretrain' in command else 'data/DIV2K/DIV2K_train_HR'
    assert done.returncode == 2 and done.stdout == ''
    assert re.fullmatch(rf'error: (-pretrain )?{missing}: no such [a-z ]+\n', done.stderr)


@pytest.mark.parametrize('command', chosen('-m engine.export'))
def test_export_needs_only_the_checkpoint(tmp_path, command):
    done = call(arguments(command), tmp_path)
    assert done.returncode == 2
    assert done.stderr == 'error: save/EDSR_MSIT_rim/epoch-best.pth: no such checkpoint file\n'


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


def test_files_that_the_readme_names_exist():
    named = re.findall(r'`((?:models|datasets|engine|configs|docs|assets|modelzoo)/[\w./-]*)`', README)
    links = re.findall(r'\]\(([\w./-]+)\)', README)
    assert len(named) > 10 and [path for path in [*named, *links] if not (ROOT / path).exists()] == []
