"""How commands leave in processes of their own: signals at any time, closed and narrow streams, one line."""
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

WAIT = 120  # seconds that a busy machine may need
COMMANDS = {
    'demo': ('demo.py', '-scale', '16'), 'test': ('test.py', '-config', 'none.yaml', '-model', 'bicubic'),
    'train': ('train.py', '-config', 'none.yaml'), 'export': ('-m', 'engine.export', '-model', 'x', '-output', 'y.pth'),
    'prepare': ('-m', 'datasets.prepare', '-check'), 'curves': ('-m', 'benchmarks.curves', '-runs', 'x', '-output', 'y.png')}
PLACES = ('*.py', 'benchmarks/*.py', 'datasets/**/*.py', 'engine/**/*.py')
SCRIPTS = {file: text for place in PLACES for file in sorted(ROOT.glob(place))
           if '\n    run(main)\n' in (text := file.read_text(encoding='utf-8'))}


def start(words: tuple, folder, **settings) -> subprocess.Popen:
    script = (str(ROOT / words[0]), *words[1:]) if words[0].endswith('.py') else words
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **settings.pop('env', {})}
    return subprocess.Popen([sys.executable, *script], cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)


def wait_for_torch(process: subprocess.Popen) -> None:
    """Returns when the process has begun to load torch: it is amid its imports."""
    deadline = time.monotonic() + WAIT
    while 'libtorch' not in open(f'/proc/{process.pid}/maps').read():  # noqa: SIM115
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


def test_every_command_guards_itself_first():
    assert {file.stem for file in SCRIPTS} >= {'train', 'test', 'demo', 'visualize',
                                               'export', 'average', 'grow', 'queries', '__main__'}
    light = {'sys', 'pathlib', 'common.start'}  # what a script may import before
    for file, text in SCRIPTS.items():
        before = re.findall(r'^ *(?:from|import) (\S+)', text[:text.index('guard()\n')], re.MULTILINE)
        assert before[-1] == 'common.start' and {*before} <= light, file


@pytest.mark.skipif(not os.path.exists('/proc/self/maps'), reason='needs /proc')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('command', [
    'demo', 'export', *(pytest.param(name, marks=pytest.mark.slow) for name in ('test', 'train', 'prepare', 'curves'))])
@pytest.mark.slow
def test_a_signal_amid_imports(tmp_path, command, number):
    process = start(COMMANDS[command], tmp_path)
    wait_for_torch(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, out, err) == (130, '', 'interrupted\n')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_work(tmp_path, number):
    code = (f'import os, signal, time\nsignal.signal({int(number)}, signal.SIG_DFL)\n'
            'from common.start import guard\nguard()\nfrom common.cli import run\n'
            f'def main():\n    os.kill(os.getpid(), {int(number)})\n    time.sleep(60)\nrun(main)')
    process = start(('-c', code), tmp_path)
    out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, out, err) == (130, '', 'interrupted\n')


INTERRUPTED = {
    'a finalizer': ('import os, signal, time\nclass Last:\n    def __del__(self):\n'
                    '        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(0.001)\n'
                    'def main():\n    for _ in range(3):\n        Last()\n    time.sleep(60)\n'),
    'code that cannot leave': ('import threading\ndef main():\n    try:\n        raise KeyboardInterrupt\n'
                               '    finally:\n        threading.Lock().release()\n')}


@pytest.mark.slow
@pytest.mark.parametrize('where', INTERRUPTED)
def test_an_interrupt_that_gets_lost(tmp_path, where):
    code = f'from common.start import guard\nguard()\nfrom common.cli import run\n{INTERRUPTED[where]}run(main)'
    process = start(('-c', code), tmp_path)
    out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, out, err) == (130, '', 'interrupted\n')


@pytest.mark.slow
def test_an_ignored_signal_stays_ignored(tmp_path):
    code = ('import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom common.start import guard\nguard()\n'
            'from common.cli import run\nrun(lambda: os.kill(os.getpid(), signal.SIGINT))')
    process = start(('-c', code), tmp_path)
    assert process.communicate(timeout=WAIT) == ('', '') and process.returncode == 0


PRINTS = ('from common.start import guard\nguard()\nimport os, sys\nfrom tqdm import tqdm\nfrom common.cli import run\n'
          'def main():\n    print("4×4 → 8×8")\n    tqdm.write("4×4 → 8×8")\n    print("→", file=sys.stderr)\n'
          '    print(os.open("file", os.O_CREAT | os.O_RDWR) > 2, file=open("done", "w"))\nrun(main)')


@pytest.mark.slow
@pytest.mark.parametrize(('encoding', 'text'), [
    ('ascii', '4?4 ? 8?8'), ('cp1252', '4×4 ? 8×8'), ('latin-1', '4×4 ? 8×8'), ('utf-8', '4×4 → 8×8')])
def test_streams_that_cannot_write_every_character(tmp_path, encoding, text):
    process = subprocess.run([sys.executable, '-c', PRINTS], cwd=tmp_path, capture_output=True, timeout=WAIT,
                             env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': encoding})
    assert (process.returncode, process.stdout.decode(encoding)) == (0, f'{text}\n{text}\n')


@pytest.mark.parametrize('closed', ['2>&-', *(pytest.param(closed, marks=pytest.mark.slow) for closed in (
    '>&-', '>&- 2>&-', '<&- >&- 2>&-'))])
def test_closed_streams(tmp_path, closed):
    """A file must not take the number of a closed stream: what is printed would end up in it."""
    shell = f'"{sys.executable}" -c "$PRINTS" {closed}'
    process = subprocess.run(['sh', '-c', shell], cwd=tmp_path, capture_output=True, timeout=WAIT,
                             env={**os.environ, 'PYTHONPATH': str(ROOT), 'PRINTS': PRINTS})
    assert process.returncode == 0, process.stderr
    assert (tmp_path / 'done').read_text() == 'True\n' and (tmp_path / 'file').read_text() == ''


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_one_line(tmp_path):
    process = subprocess.run(['sh', '-c', f'"{sys.executable}" -c "$PRINTS" > /dev/full'], cwd=tmp_path, capture_output=True,
                             timeout=WAIT, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT), 'PRINTS': PRINTS})
    assert process.returncode == 1
    lines = [line for line in process.stderr.splitlines() if line != '→']
    assert len(lines) == 1 and 'No space left' in lines[0]


# what libraries say on their own

NOISE = {  # code that makes a library print, and what it prints
    'libtiff': ("with suppress(ValueError):\n    read_rgb('cut.tif')", 'not yet in table'),
    'a warning of Pillow': ("read_rgb('exif.jpg')", 'Corrupt EXIF data'),
    'a log line of Pillow': ("with suppress(ValueError):\n    read_rgb('samples.tif')", 'More samples per pixel'),
    'a data loader': ("DataLoader([1], num_workers=1000)", 'worker processes'),
}


@pytest.fixture(scope='module')
def noisy_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('noisy')
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8))
    image.save(folder / 'cut.tif', compression='tiff_lzw')
    content = (folder / 'cut.tif').read_bytes()
    (folder / 'cut.tif').write_bytes(content[:300] + bytes([255]) * 300 + content[600:])
    image.save(folder / 'exif.jpg', exif=b'Exif\0\0II*\0\x08\0\0\0\xff\0')
    image.save(folder / 'samples.tif')
    content = bytearray((folder / 'samples.tif').read_bytes())
    place = content.index(struct.pack('<HHI', 277, 3, 1))  # SamplesPerPixel, one SHORT
    content[place + 8:place + 10] = struct.pack('<H', 2048)
    (folder / 'samples.tif').write_bytes(content)
    return folder


@pytest.mark.slow
def test_libraries_print_nothing_and_nothing_else_is_lost(noisy_files):
    """The same code outside of a command, and in one."""
    code = '\n'.join(code for code, _ in NOISE.values()) + (
        "\nprint('first', file=sys.stderr, flush=True)\nos.write(2, b'second\\n')\nwarnings.warn('third')\n")
    script = ('import os, sys, warnings\nfrom contextlib import suppress\nfrom torch.utils.data import DataLoader\n'
              'from common.cli import run\nfrom imaging import read_rgb\n'
              f'def main():\n{textwrap.indent(code, "    ")}\nmain()\nrun(main)')
    process = start(('-c', script), noisy_files)
    loud, quiet = process.communicate(timeout=WAIT)[1].split('UserWarning: third', 1)
    assert process.returncode == 0 and all(words in loud for _, words in NOISE.values())
    assert re.fullmatch(r'\nfirst\nsecond\n\S+ UserWarning: third\n', quiet)
