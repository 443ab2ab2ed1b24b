"""A run that is killed at any moment, or whose disk is full: the last checkpoint survives, and nothing else is left."""
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import Lab, after_step, checkpoints_of, differences, epoch_lines, hashes, one_error_line, scalars
from launch import DEADLINE, Launcher

import engine.checkpoint
import train
from engine.training.trainer import Trainer
from utils import ROOT, RunError, atomic_path, remove_partial, write_text

posix = pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are forked, file sizes limited')


@pytest.fixture(scope='module')
def launcher():
    with Launcher() as launcher:
        yield launcher


def job(lab: Lab, name: str, code: str = 'run(train.main)') -> dict:
    """Starts, or continues, a run of lab's last config."""
    return {'cwd': str(lab.folder), 'code': code, 'arguments': [
        '-config', 'tiny.yaml', '-name', name, '-device', 'cpu', '-resume', 'auto']}


# killed

HALF = '''
import os, signal, torch
from engine.training.trainer import Trainer
original, saved = torch.save, []

def half(content, path):
    saved.append(path)
    original(content, path)
    if len(saved) == 4:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
run(train.main)
'''


@posix
@pytest.mark.slow
def test_kill_amid_writing_a_checkpoint(lab, launcher):
    """The half-written file is neither taken for a checkpoint nor kept."""
    lab.write_config(save_every=1, val_dataset=None, epoch_save=None)
    assert launcher.run(job(lab, 'whole')) == 0
    assert launcher.run(job(lab, 'run', HALF)) == -signal.SIGKILL
    assert len(list(lab.save('run').glob('.partial-epoch-last-*.pth'))) == 1
    assert (lab.loaded('run')['epoch'], lab.loaded('run')['batch']) == (1, 0)  # the fourth was to be (1, 1)
    assert launcher.run(job(lab, 'run')) == 0
    assert not list(lab.save('run').glob('.*'))
    assert differences(lab.loaded('whole'), lab.loaded('run')) == []


# killed between the files of an epoch

BETWEEN = """
import os, signal
import utils
original, renamed = os.replace, []

def replace(source, target):
    original(source, target)
    if str(target).endswith('.pth'):
        renamed.append(target)
        if len(renamed) == COUNT:
            os.kill(os.getpid(), signal.SIGKILL)
utils.os.replace = replace
run(train.main)
"""


@posix
@pytest.mark.slow
@pytest.mark.parametrize(('count', 'missing'), [
    (1, ['epoch-1.pth', 'epoch-best.pth']), (2, ['epoch-1.pth']), (3, [])])
def test_kill_between_the_files_of_an_epoch(lab, launcher, count, missing):
    """What should have followed epoch-last.pth is written at the next start, with the same bits, and the log's line once."""
    lab.write_config(epoch_max=1)
    assert launcher.run(job(lab, 'whole')) == 0
    names = ['epoch-1.pth', 'epoch-best.pth', 'epoch-last.pth']
    assert launcher.run(job(lab, 'run', BETWEEN.replace('COUNT', str(count)))) == -signal.SIGKILL
    assert sorted(file.name for file in lab.save('run').glob('*.pth')) == [name for name in names if name not in missing]
    assert launcher.run(job(lab, 'run')) == 0
    for name in names:
        assert differences(lab.loaded('whole', name), lab.loaded('run', name)) == []
    lines = [line[20:] for line in lab.save('run', 'log.txt').read_text().splitlines()]
    said = 'wrote epoch-best.pth and epoch-1.pth' if count == 1 else 'wrote epoch-1.pth'
    expected = [f'{said}, which were missing since the run was stopped'] if missing else []
    assert [line for line in lines if line.startswith('wrote')] == expected
    assert launcher.run(job(lab, 'run')) == 0
    assert epoch_lines(lab.save('run', 'log.txt')) == epoch_lines(lab.save('whole', 'log.txt')) != []


@pytest.mark.parametrize('damage', [Path.unlink, lambda file: os.truncate(file, 1000), 'epoch 1'])
def test_the_best_of_another_epoch_is_replaced(lab, damage):
    """The disk was full after the epoch-last.pth of a better epoch; what was the best before is still there, or damaged."""
    scores = iter([{2: 20.0, 3: 30.0}, {2: 27.0, 3: 26.0}, {2: 27.0, 3: 27.0}])
    lab.monkeypatch.setattr(Trainer, 'validate', lambda trainer: next(scores))
    assert lab.train('run').status == 0
    best = lab.save('run', 'epoch-best.pth')
    assert lab.loaded('run', best.name)['epoch'] == 2
    if damage == 'epoch 1':
        shutil.copy(lab.save('run', 'epoch-1.pth'), best)
    else:
        damage(best)
    assert lab.train('run', '-resume', 'auto').status == 0
    assert differences(lab.loaded('run'), lab.loaded('run', best.name)) == []
    before = hashes(lab.save('run'))['epoch-best.pth']
    assert lab.train('run', '-resume', 'auto').status == 0
    assert hashes(lab.save('run'))['epoch-best.pth'] == before


def test_an_epoch_that_was_not_the_best_does_not_become_it(lab):
    scores = iter([{2: 30.0, 3: 30.0}, {2: 27.0, 3: 26.0}])
    lab.monkeypatch.setattr(Trainer, 'validate', lambda trainer: next(scores))
    assert lab.train('run').status == 0
    assert (lab.loaded('run')['best_epoch'], lab.loaded('run', 'epoch-best.pth')['epoch']) == (1, 1)
    lab.save('run', 'epoch-best.pth').unlink()
    assert lab.train('run', '-resume', 'auto').status == 0
    assert not lab.save('run', 'epoch-best.pth').exists()


# killed before the first epoch-last.pth

EARLY = '''
import os, signal
from engine.training.trainer import Trainer
original, done = Trainer.train_step, []

def step(trainer, sample):
    done.append(original(trainer, sample))
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return done[-1]
Trainer.train_step = step
run(train.main)
'''


@pytest.mark.slow
@posix
@pytest.mark.parametrize('stage', [1, 2])
def test_killed_before_the_first_checkpoint(lab, launcher, stage):
    """The folder is refused, unchanged, unless -resume auto starts the run afresh: then it is an undisturbed one."""
    options = []
    if stage == 2:
        assert lab.train('first', epoch_max=1).status == 0
        options = ['-pretrain', lab.save('first', 'epoch-last.pth')]
        lab.config['model']['args']['reparam'] = 'rim'
    lab.write_config()
    killed = job(lab, 'run', EARLY)
    assert launcher.run({**killed, 'arguments': [*killed['arguments'], *map(str, options)]}) == -signal.SIGKILL
    assert {file.name for file in lab.save('run').glob('*.pth')} == ({'epoch-best.pth'} if stage == 2 else set())

    before = hashes(lab.save('run'))
    before.pop('.lock')  # of the killed process
    done = lab.train('run', *options)
    assert done.status == 2 and one_error_line(done, 'save/run: a run began here', '-resume auto', '-name')
    assert hashes(lab.save('run')) == before

    assert lab.train('run', '-resume', 'auto', *options).status == 0
    assert lab.train('whole', *options).status == 0
    for file in ('epoch-last.pth', 'epoch-best.pth'):
        assert differences(lab.loaded('whole', file), lab.loaded('run', file)) == []
    assert scalars(lab.save('run')) == scalars(lab.save('whole'))


@pytest.mark.parametrize('resume', [(), ('-resume', 'auto')], ids=['plain', 'auto'])
def test_trained_checkpoints_without_the_last_are_never_overwritten(lab, resume):
    """Someone removed epoch-last.pth: the run continues from a named file only."""
    assert lab.train('run', epoch_save=None).status == 0
    lab.save('run', 'epoch-last.pth').unlink()
    before = hashes(lab.save('run'))
    done = lab.train('run', *resume)
    assert done.status == 2 and one_error_line(done, 'save/run: holds epoch-best.pth but no epoch-last.pth', '-resume FILE')
    assert hashes(lab.save('run')) == before
    assert lab.train('run', '-resume', lab.save('run', 'epoch-best.pth'), epoch_max=3).status == 0


def test_a_folder_without_a_run_is_used(lab):
    """A place for the output of a batch system, or for a config."""
    lab.save('run').mkdir(parents=True)
    lab.save('run', 'config.yaml').write_text('of another program')
    lab.save('run', 'out.txt').write_text('job 7')
    assert lab.train('run', epoch_max=1).status == 0
    assert lab.save('run', 'out.txt').read_text() == 'job 7'


def wait_for_saves(lab: Lab, file: Path, count: int) -> None:
    """Returns when `file` has been replaced so many times."""
    deadline = time.monotonic() + DEADLINE
    for _ in range(count):
        before = file.stat().st_mtime_ns if file.exists() else None
        while (file.stat().st_mtime_ns if file.exists() else None) == before:
            assert time.monotonic() < deadline, (lab.folder / 'err.txt').read_text()
            time.sleep(0.0005)


@posix
@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_killed_at_twenty_random_moments(lab, launcher, workers):
    """While it starts, trains, validates or writes: resumed each time, it ends with the weights of an undisturbed run."""
    data = {**lab.with_workers(workers), 'epoch_batches': 10}
    lab.write_config(train_dataset=data, epoch_max=1, save_every=1)
    seconds = []
    for _ in range(2):  # the second time there is nothing left to do but to start
        started = time.monotonic()
        assert launcher.run(job(lab, 'pace')) == 0
        seconds.append(time.monotonic() - started)
    starting, step = seconds[1], (seconds[0] - seconds[1]) / 10

    lab.write_config(train_dataset=data, epoch_max=1000, save_every=1)
    last, moments, positions = lab.save('run', 'epoch-last.pth'), random.Random(0), []
    for _ in range(20):
        process = launcher.start(job(lab, 'run'))
        saves = moments.choice([0, 0, 1, 1, 2])
        wait_for_saves(lab, last, saves)
        time.sleep(moments.uniform(0, 2 * step if saves else starting))
        os.kill(process, signal.SIGKILL)
        assert launcher.finish(process) == -signal.SIGKILL
        assert len(list(lab.save('run').glob('.partial-*'))) <= 1
        if last.exists():
            positions.append((lab.loaded('run')['epoch'], lab.loaded('run')['batch']))
    assert positions == sorted(positions) and len(set(positions)) > 10

    lab.write_config(train_dataset=data, epoch_max=positions[-1][0] + 1, save_every=1)
    for name in ('run', 'whole'):
        assert launcher.run(job(lab, name)) == 0
        assert not list(lab.save(name).glob('.*'))
    for file in ('epoch-last.pth', 'epoch-best.pth'):
        run, whole = lab.loaded('run', file), lab.loaded('whole', file)
        for content in (run, whole):
            content.pop('config')  # the best was written when the run was to be longer
        assert differences(run, whole) == []


def test_save_every(lab):
    """Within an epoch too, but not twice at its end; a checkpoint amid an epoch continues there."""
    saved = []
    original = engine.checkpoint.torch.save
    lab.monkeypatch.setattr(engine.checkpoint.torch, 'save', lambda content, path: saved.append(
        (content['epoch'], content['batch'])) or original(content, path))
    assert lab.train('run', save_every=2, val_dataset=None, epoch_save=None).status == 0
    assert saved == [(0, 2), (1, 0), (1, 2), (2, 0)]
    saved.clear()
    assert lab.train('ends', save_every=3, val_dataset=None, epoch_save=None).status == 0
    assert saved == [(1, 0), (2, 0)]


# a disk that takes no more

@posix
@pytest.mark.parametrize('size', [0, 50_000], ids=['no byte more', 'amid the file'])
def test_full_disk(lab, size):
    """A limit on the size of files stands for it: one line, status 1, the previous checkpoint untouched."""
    import resource
    assert lab.train('run', epoch_max=1).status == 0
    before = hashes(lab.save('run'))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = max(size, max(file.stat().st_size for file in lab.save('run').rglob('*') if file.suffix != '.pth') + 10_000)
    assert room < lab.save('run', 'epoch-last.pth').stat().st_size

    def fill(trainer):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with after_step(lab.monkeypatch, 3, fill):
            done = lab.train('run', '-resume', 'auto')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 1 and one_error_line(done, 'error: save/run/epoch-last.pth: could not be written', 'disk full')
    assert checkpoints_of(hashes(lab.save('run'))) == checkpoints_of(before)
    assert not list(lab.save('run').glob('.*'))
    assert lab.train('run', '-resume', 'auto').status == 0 and lab.train('whole').status == 0
    assert differences(lab.loaded('whole'), lab.loaded('run')) == []


@posix
@pytest.mark.slow
def test_full_disk_for_the_curves(lab):
    """The command itself, since the curves are written by a thread, whose failure is printed apart."""
    import resource
    lab.write_config(epoch_max=100)
    command = [sys.executable, Path(train.__file__), '-config', 'tiny.yaml', '-name', 'run']
    done = subprocess.run([*command, '-device', 'cpu'], cwd=lab.folder, capture_output=True, text=True, timeout=240,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert done.stderr.startswith('error: save/run/tensorboard: could not be written, is the disk full?')


def test_error_of_the_system_while_writing(lab):
    """The operating system's error, when it comes only as the file is brought to the disk."""
    assert lab.train('run', epoch_max=1).status == 0
    before = checkpoints_of(hashes(lab.save('run')))

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')
    lab.monkeypatch.setattr(engine.checkpoint.os, 'fsync', full)
    done = lab.train('run', '-resume', 'auto')
    assert done.status == 1 and one_error_line(done, 'save/run/epoch-last.pth', 'No space left on device', 'is intact')
    assert checkpoints_of(hashes(lab.save('run'))) == before and not list(lab.save('run').glob('.*'))


def test_partial_files_of_dead_processes_are_removed_and_no_others(tmp_path):
    done = subprocess.Popen([sys.executable, '-c', ''])
    done.wait()
    with pytest.raises(RunError), atomic_path(tmp_path / 'a.pth') as partial:
        assert partial.parent == tmp_path and partial.suffix == '.pth' and f'-{os.getpid()}-' in partial.name
        twin = partial.with_name(partial.name.replace('a-', 'b-'))
        dead = partial.with_name(partial.name.replace(f'-{os.getpid()}-', f'-{done.pid}-'))
        elsewhere = dead.with_name(re.sub(r'-[0-9a-f]{8}-', '-00000000-', dead.name))  # on another machine
        for file in (twin, dead, elsewhere):
            file.write_text('')
        raise RunError('stopped')
    others = {'epoch-last.pth', '.hidden', 'partial-x.pth', '.partial-x', '.partial-x-1.pth'}
    for name in others:
        (tmp_path / name).write_text('')
    assert twin.exists() and not partial.exists()
    remove_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others | {twin.name, elsewhere.name}


def test_writing_removes_what_a_killed_process_left(tmp_path):
    """A process that is killed amid writing: the next file written into the folder, whatever its name, is all there is."""
    script = f"""
import os, signal
from utils import atomic_path
with atomic_path({str(tmp_path / 'out' / 'a.png')!r}) as partial:
    partial.write_text('half')
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, '-c', script], cwd=ROOT, timeout=120).returncode == -signal.SIGKILL
    left, = (tmp_path / 'out').iterdir()
    assert left.name.startswith('.partial-a-')
    write_text(tmp_path / 'out' / 'b.txt', 'whole')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['b.txt']
