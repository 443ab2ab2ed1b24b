"""The driver of hostile inputs reports every way in which a command can break its contract."""
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from conftest import ROOT

from tests.hostile.campaign import Tally
from tests.hostile.case import Case, Outcome
from tests.hostile.judge import contents, faults
from tests.hostile.mutate import changed_often, damaged

forks = pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs fork and /proc')


def case(**settings) -> Case:
    return Case(**{'command': 'demo', 'words': [], 'odd': '', 'names': ('in.png',), 'writes': ('out',), **settings})


def judged(yard: Path, status: int | None, err: str = '', attack: Case | None = None, before: dict | None = None,
           **settings) -> list[str]:
    """The faults of an outcome; a file named half* cannot be read."""
    outcome = Outcome(status=status, err=err, **{'out': '', 'seconds': 1, 'growth': 0, **settings})
    return faults(attack or case(), outcome, yard, before or {}, lambda path: 'cut short' if 'half' in path.name else None)


@pytest.fixture
def yard(tmp_path) -> Path:
    (tmp_path / 'case/out').mkdir(parents=True)
    (tmp_path / 'tmp').mkdir()
    return tmp_path


KEPT = [(0, ''), (2, 'error: in.png: no image\n'), (130, 'interrupted\n'), (130, 'interrupted: saved x\n'),
        (1, 'error: in.png: out of memory\n'), (1, 'error: in.png: cannot be written (File too large)\n')]


@pytest.mark.parametrize(('status', 'err'), KEPT)
def test_the_contract_by_hand(yard, status, err):
    assert judged(yard, status, err) == []


@pytest.mark.parametrize(('status', 'err', 'settings', 'fault'), [
    (None, '', {}, 'does not end within 1 s'), (-11, '', {}, 'is ended by signal 11'),
    (3, 'error: in.png\n', {}, 'ends with status 3'),
    (1, 'error: in.png: odd\n', {}, 'for memory and disks alone'), (2, '', {}, 'without a word'),
    (1, 'Traceback (most recent call last):\n  File\nKeyError: 1\n', {}, 'traceback: KeyError: 1'),
    (2, 'warning\nerror: in.png\n', {}, "further line on stderr: 'warning'"), (0, 'warning\n', {}, 'further line'),
    (2, 'in.png: no image\n', {}, "ends with the line 'in.png"), (2, 'error: no image\n', {}, "does not name 'in.png'"),
    (2, f'error: in.png {"x" * 2000}\n', {}, 'a line of 2014 characters'), (2, 'error: in.png', {}, 'amid a line'),
    (0, '', {'growth': 2 ** 30 + 1}, 'needs 1,024 MiB'), (0, '', {'actions': ('starts os.system',)}, 'starts os.system'),
    (0, '', {'attack': case(outputs=('out/a.png',))}, 'without out/a.png'),
    (0, '', {'attack': case(verify=lambda folder: f'{folder.name} is wrong')}, 'case is wrong'),
    (0, '', {'before': {'gone.png': 'hash'}}, 'changes its input gone.png')])
def test_what_breaks_it(yard, status, err, settings, fault):
    assert any(fault in line for line in judged(yard, status, err, **settings))


@pytest.mark.parametrize(('name', 'status', 'fault'), [
    ('case/out/half.png', 0, 'leaves out/half.png half-written (cut short)'), ('case/out/whole.png', 0, None),
    ('case/out/half.png', -9, 'leaves out/half.png half-written'),
    ('case/out/.partial-a-0-1.png', 2, 'leaves out/.partial-'),
    ('case/out/.HR.unpacking', 130, 'leaves out/.HR.unpacking'), ('pwned', 0, 'writes pwned outside'),
    ('tmp/x', 0, 'leaves tmp/x'), ('tmp/x', -9, None)])
def test_what_a_command_may_leave(yard, name, status, fault):
    (yard / name).write_text('x')
    err = {0: '', 2: 'error: in.png\n', 130: 'interrupted\n', -9: ''}[status]
    found = [line for line in judged(yard, status, err) if not line.startswith('is ended')]
    assert len(found) == (fault is not None) and all(fault in line for line in found)


def test_inputs_may_change_where_the_command_writes(yard):
    (yard / 'case/in.png').write_text('a')
    (yard / 'case/out/old.png').write_text('b')
    before = contents(yard / 'case')
    assert set(before) == {'in.png', 'out/old.png'}
    (yard / 'case/in.png').write_text('c')
    (yard / 'case/out/old.png').write_text('d')
    assert judged(yard, 0, before=before) == ['changes its input in.png']


def test_the_report_counts_and_says_how_to_repeat():
    tally = Tally()
    for family, number, found in (('images', 7, ['hangs', 'lies']), ('configs', 8, []), ('images', 9, []),
                                  ('images', 10, []), ('configs', 11, [])):
        tally.add(SimpleNamespace(family=family, number=number), found)
    lines = tally.report('run -seed 0').splitlines()
    assert [line.split() for line in lines[:3]] == [
        ['images', 'tried', '3,', 'kept', '2,', 'broken', '1'], ['configs', 'tried', '2,', 'kept', '2,', 'broken', '0'],
        ['all', 'tried', '5,', 'kept', '4,', 'broken', '1']]
    assert lines[3:] == ['images 7: hangs; lies  (run -seed 0 -only 7)']


def test_changes_follow_from_the_seed_and_leave_the_original():
    value, data = {'a': {'b': [1, 2.5, 'x'], 'c': None}, 'd': True}, bytes(range(200))
    kinds = set()
    for seed in range(60):
        twice = [(changed_often(value, Random(seed)), damaged(data, Random(seed))) for _ in range(2)]
        assert repr(twice[0]) == repr(twice[1])
        kinds.add(twice[0][1][1].split()[1])
    assert value == {'a': {'b': [1, 2.5, 'x'], 'c': None}, 'd': True} and data == bytes(range(200)) and len(kinds) > 7


STUBS = '''
import json, os, subprocess, sys, time
from pathlib import Path
from tests.hostile.process import Process

def hang():
    print('begun', flush=True)
    time.sleep(60)

def crash():
    raise KeyError('a')

def half():
    Path('out.png').write_text('half')
    os.kill(os.getpid(), 9)

def outside():
    open('../pwned', 'w').close()
    subprocess.run(['true'])

def full():
    try:
        Path('out.png').write_text('x' * 100)
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        sys.exit(1)

def large():
    bytearray(b'x') * 2 ** 26

def fine():
    print(*sys.argv)

found = {}
for stub in (hang, crash, half, outside, full, large, fine):
    yard = Path(stub.__name__)
    (yard / 'case').mkdir(parents=True)
    (yard / 'tmp').mkdir()
    process = Process(stub, ['stub', '-x'], yard.absolute(), file_size=50 if stub is full else None)
    found[stub.__name__] = vars(process.wait(0.1 if stub is hang else 30))
print(json.dumps(found))
'''


@forks
def test_what_a_process_does_is_seen(tmp_path):
    done = subprocess.run([sys.executable, '-c', STUBS], cwd=tmp_path, capture_output=True, text=True, timeout=100,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: outcome['status'] for name, outcome in found.items()} == {
        'hang': None, 'crash': 1, 'half': -9, 'outside': 0, 'full': 1, 'large': 0, 'fine': 0}
    assert found['hang']['out'] == 'begun\n' and 0.1 <= found['hang']['seconds'] < 20
    assert found['crash']['err'].startswith('Traceback') and found['crash']['err'].endswith("KeyError: 'a'\n")
    assert found['full']['err'] == 'File too large\n' and found['fine']['out'] == 'stub -x\n'
    assert [action.split()[0] for action in found['outside']['actions']] == ['writes', 'starts']
    assert str(tmp_path / 'outside/pwned') in found['outside']['actions'][0]
    assert found['large']['growth'] > 2 ** 25 > found['fine']['growth']
    assert not any(outcome['actions'] for name, outcome in found.items() if name != 'outside')


@forks
@pytest.mark.slow
def test_a_few_attacks(tmp_path):
    """One of each family, and a kill of each command."""
    pytest.importorskip('av')
    done = subprocess.run([sys.executable, '-m', 'tests.hostile', '-inputs', '10', '-kills', '9', '-seed', '3'], cwd=ROOT,
                          capture_output=True, text=True, timeout=500, env={**os.environ, 'TMPDIR': str(tmp_path)})
    assert done.returncode == 0 and done.stderr == '', done
    assert done.stdout.splitlines()[-1].split() == ['all', 'tried', '19,', 'kept', '19,', 'broken', '0']
    assert not list(tmp_path.glob('hostile-*'))
