"""Every option in every mode of demo.py: it has an effect, or it is refused by name."""
import sys

import pytest
from helpers import message

import demo
from engine.modes import check_options

MODES = {'info': ['-info', 'MSIT-S'], 'web': ['-web'], 'zoom': ['-zoom', '1,3'], 'film': ['-input', 'x/a.mp4'],
         'image': ['-input', 'a.png']}
TABLE = {  # has it an effect (y, n) in these modes?
    'input': 'nnyyy', 'output': 'nnyyy', 'recursive': 'nnnny', 'resume': 'nnnyy', 'compare': 'nnnny',
    'scale': 'nnnyy', 'resolution': 'nnnyy', 'height': 'nnnyy', 'width': 'nnnyy', 'longest': 'nnnyy', 'shortest': 'nnnyy',
    'at': 'nnynn', 'frames': 'nnynn', 'fps': 'nnynn', 'size': 'nnynn', 'port': 'nynnn', 'host': 'nynnn',
    'memory': 'nnnyy', 'halo': 'nnnyy', 'ensemble': 'nyyyy',
    'format': 'nnnyy', 'quality': 'nnnyy', 'bits': 'nnnyy', 'background': 'nnnyy', 'range': 'nnyny', 'first_frame': 'nnnny',
    'model': 'nyyyy', 'config': 'nyyyy', 'device': 'nyyyy', 'gpu': 'nyyyy', 'precision': 'nyyyy', 'no_kernels': 'nyyyy'}


def read(monkeypatch, *words: str):
    monkeypatch.setattr(sys, 'argv', ['demo.py', *words])
    return demo.read_options()


@pytest.mark.parametrize('mode', MODES)
def test_every_option_in_every_mode(monkeypatch, mode):
    options = read(monkeypatch, *MODES[mode])
    assert set(vars(options)) == {*TABLE, 'info', 'web', 'zoom'}
    for name, effects in TABLE.items():
        if effects[list(MODES).index(mode)] == 'y':
            check_options(options, {name})
        else:
            said = message(check_options, options, {name})
            assert said.startswith(f'-{name.replace("_", "-")}: ') and said.endswith('leave it out')


@pytest.mark.parametrize(('words', 'line'), [
    ('-at 0,0', '-at: belongs to -zoom; give -zoom too, or leave it out'),
    ('-input a.mov -at=0,0', '-at: belongs to -zoom; give -zoom too, or leave it out'),
    ('-port 80', '-port: belongs to -web; give -web too, or leave it out'),
    ('-zoom 1,3 -quality 95', '-quality: has no effect with -zoom; leave it out'),  # also what is the default
    ('-web -input a.png', '-input: has no effect with -web; leave it out'),
    ('-info MSIT-S -no-kernels', '-no-kernels: has no effect with -info; leave it out'),
    ('-input x/a.mkv --first-frame', '-first-frame: has no effect on films, because x/a.mkv is one; leave it out')])
def test_what_is_said(monkeypatch, words, line):
    assert message(read, monkeypatch, *words.split()) == line


def test_options_keep_their_values_and_defaults(monkeypatch):
    options = read(monkeypatch, '-quality', '95', '--scale', '2,3')
    assert (options.quality, options.scale, options.model, options.bits) == (95, (2, 3), 'MSIT-S', None)
