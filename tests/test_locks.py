"""Two processes on one folder: the second is refused by name or waits, and a killed process keeps nothing locked."""
import errno
import json
import os
import signal
import time
from pathlib import Path

import filelock
import pytest
import yaml
from helpers import message
from lab import after_step, differences, hashes, one_error_line
from launch import DEADLINE, Launcher

from common.locks import locked

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are forked')


@pytest.fixture(scope='module')
def launcher():
    with Launcher() as launcher:
        yield launcher


HOLD = '''
import os, sys, time
from pathlib import Path
from common.locks import locked
with locked(Path('folder'), 'busy'):
    if sys.argv[1:] == ['with a child'] and os.fork() == 0:  # such as a worker of a data loader
        Path('child').write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    Path('held').touch()
    while not Path('go').exists():
        time.sleep(0.01)
'''


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not file.exists() or (file.name == 'child' and not file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(launcher: Launcher, place: Path, code: str, *arguments: str) -> int:
    return launcher.start({'cwd': str(place), 'code': code, 'arguments': list(arguments)})


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize('ending', ['done', 'killed'])
def test_a_folder_has_one_process(tmp_path, launcher, ending):
    process = start(launcher, tmp_path, HOLD)
    wait_for(tmp_path / 'held')
    assert message(locked(tmp_path / 'folder', 'in use').__enter__) == f'{tmp_path / "folder"}: in use'
    if ending == 'killed':
        os.kill(process, signal.SIGKILL)
    (tmp_path / 'go').touch()
    assert launcher.finish(process) == (-signal.SIGKILL if ending == 'killed' else 0)
    with locked(tmp_path / 'folder', 'in use'):
        (tmp_path / 'folder/result').touch()
    assert [file.name for file in (tmp_path / 'folder').iterdir()] == ['result']


@needs_fork
@pytest.mark.slow
def test_the_children_of_a_killed_process_hold_no_lock(tmp_path, launcher):
    process = start(launcher, tmp_path, HOLD, 'with a child')
    wait_for(tmp_path / 'held')
    wait_for(tmp_path / 'child')
    os.kill(process, signal.SIGKILL)
    launcher.finish(process)
    try:
        with locked(tmp_path / 'folder', 'in use'):
            (tmp_path / 'folder/result').touch()
            os.kill(int((tmp_path / 'child').read_text()), 0)  # raises when the child is gone: it lives, without the lock
        assert [file.name for file in (tmp_path / 'folder').iterdir()] == ['result']
    finally:
        os.kill(int((tmp_path / 'child').read_text()), signal.SIGKILL)


@pytest.mark.slow
@needs_fork
def test_a_process_may_wait(tmp_path, launcher):
    process = start(launcher, tmp_path, HOLD.replace("'busy'", 'None'))
    wait_for(tmp_path / 'held')
    (tmp_path / 'held').unlink()
    second = start(launcher, tmp_path, HOLD.replace("'busy'", 'None'))
    time.sleep(0.5)
    assert not (tmp_path / 'held').exists()
    (tmp_path / 'go').touch()
    assert launcher.finish(process) == launcher.finish(second) == 0 and (tmp_path / 'held').exists()
    assert not list((tmp_path / 'folder').glob('*'))


@pytest.mark.parametrize('error', [
    OSError(errno.EROFS, 'Read-only file system', 'x/.lock'), OSError(errno.ENOLCK, 'No locks available'),
    PermissionError(errno.EACCES, 'Permission denied', 'x/.lock')])
def test_a_folder_that_cannot_be_locked_is_named(tmp_path, monkeypatch, error):
    def refuse(*args, **settings):
        raise error
    monkeypatch.setattr(filelock.FileLock, 'acquire', refuse)
    text = message(locked(tmp_path / 'folder', 'in use').__enter__, kind=OSError)
    assert text.startswith(f'{tmp_path / "folder"}: cannot be ') and error.strerror in text


# the commands

TRAIN_AND_WAIT = '''
import time
from pathlib import Path
from engine.training.trainer import Trainer
original = Trainer.train_step

def step(trainer, sample):
    result = original(trainer, sample)
    Path('started').touch()
    while not Path('go').exists():
        time.sleep(0.01)
    return result
Trainer.train_step = step
run(train.main)
'''


@needs_fork
@pytest.mark.parametrize('resume', [(), ('-resume', 'auto')], ids=['plain', 'auto'])
def test_two_trainings_of_one_name(lab, launcher, resume):
    """The second changes nothing; the first ends as if it had been alone."""
    assert lab.train('whole').status == 0
    process = start(launcher, lab.folder, TRAIN_AND_WAIT, '-config', 'tiny.yaml', '-name', 'run', '-device', 'cpu')
    wait_for(lab.folder / 'started')
    partial = lab.save('run', '.partial-epoch-last-0.pth')  # that the first may be writing
    partial.touch()
    before = hashes(lab.save('run'))
    done = lab.train('run', *resume)
    assert done.status == 2 and one_error_line(done, 'error: save/run: another process trains in this folder', '-name')
    assert hashes(lab.save('run')) == before
    partial.unlink()
    (lab.folder / 'go').touch()
    assert launcher.finish(process) == 0
    assert differences(lab.loaded('whole'), lab.loaded('run')) == []
    assert not list(lab.save('run').glob('.*'))


def test_a_refused_training_leaves_no_folder(lab):
    assert lab.train('run', train_dataset={**lab.config['train_dataset'], 'dataset': {
        'name': 'image-folder', 'args': {'root_path': 'nowhere'}}}).status == 2
    assert not (lab.folder / 'save').exists()


def test_a_training_is_free_again_after_an_error(lab):
    def fail(trainer):
        raise OSError(errno.EIO, 'Input/output error')
    with after_step(lab.monkeypatch, 1, fail):
        assert lab.train('run').status == 1
    assert lab.train('run', '-resume', 'auto').status == 0


MEASURE = '''
import sys, time
from pathlib import Path
import test
import engine.evaluation.comparison as comparison
original = comparison.evaluate_scale

def slow(*args, **settings):
    Path('started').touch()
    while not Path('go').exists():
        time.sleep(0.01)
    return original(*args, **settings)
comparison.evaluate_scale = slow
run(test.main)
'''


@needs_fork
def test_two_measurements_of_one_name(lab, launcher):
    for name, scales in (('first', [2]), ('second', [3])):
        (lab.folder / f'{name}.yaml').write_text(yaml.safe_dump({'test_dataset': {**lab.config['val_dataset'], 'wrapper': {
            'name': 'sr-evaluation', 'args': {'name': 'V', 'protocol': 'div2k', 'scales': scales, 'crop': 24}}}}))

    def words(name: str) -> list[str]:
        return ['-config', f'{name}.yaml', '-model', 'bicubic', '-device', 'cpu']
    process = start(launcher, lab.folder, MEASURE, *words('first'))
    wait_for(lab.folder / 'started')
    assert launcher.run({'cwd': str(lab.folder), 'code': 'import test\nrun(test.main)', 'arguments': words('second')}) == 2
    errors = (lab.folder / 'err.txt').read_text()
    assert errors.count('\n') == 1 and errors.startswith('error: test/bicubic: another process measures into this folder')
    (lab.folder / 'go').touch()
    assert launcher.finish(process) == 0
    assert launcher.run({'cwd': str(lab.folder), 'code': 'import test\nrun(test.main)', 'arguments': words('second')}) == 0
    rows = json.loads((lab.folder / 'test/bicubic/results.json').read_text())['rows']
    assert [row['scale'] for row in rows] == [2, 3]
    assert sorted(file.name for file in (lab.folder / 'test/bicubic').iterdir()) == ['results.json', 'results.md']


@needs_fork
@pytest.mark.slow
def test_tables_are_of_one_process(lab, launcher):
    """While another process writes its tables, this one waits; then all four files are there."""
    (lab.folder / 'v.yaml').write_text(yaml.safe_dump({'test_dataset': lab.config['val_dataset']}))
    assert lab.train('run', epoch_max=1).status == 0
    holding = start(launcher, lab.folder, HOLD.replace("'folder'), 'busy'", "'test/table'), None"))
    wait_for(lab.folder / 'held')
    words = ['-config', 'v.yaml', '-model', 'bicubic', 'save/run/epoch-last.pth', '-name', 'table', '-device', 'cpu']
    measuring = start(launcher, lab.folder, 'import test\nrun(test.main)', *words)
    wait_for(lab.folder / 'test/epoch-last/results.md')
    time.sleep(0.5)
    assert [file.name for file in (lab.folder / 'test/table').iterdir()] == ['.lock']
    (lab.folder / 'go').touch()
    assert launcher.finish(holding) == launcher.finish(measuring) == 0
    assert sorted(file.name for file in (lab.folder / 'test/table').iterdir()) == [
        'table.csv', 'table.json', 'table.md', 'table.tex']
