"""Commands that are killed at a random moment and run again: they end as if nothing had been."""
import json
import shutil
import signal
from pathlib import Path
from random import Random

import torch

from tests.hostile.campaign import Settings, described, new_yard, started
from tests.hostile.case import Case, Outcome
from tests.hostile.films import HAS_FILMS
from tests.hostile.inputs.figures import HAS_FIGURES
from tests.hostile.judge import contents, faults, is_unfinished
from tests.hostile.process import Process

FIRST = 10 ** 6  # the number of the first kill
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
CPU = ['-device', 'cpu']
LONGER = ['-set', 'epoch_max=3', 'train_dataset.epoch_batches=4', 'save_every=1']
ZOOM = ['-zoom', '1,6', '-frames', '12', '-size', '48,48']
COMMANDS = {  # what is killed: command, options, what it writes
    'demo': ('demo', ['-input', 'data/images', '-scale', '4', '-model', 'weights.pth', '-output', 'out', *CPU], 'out'),
    'test': ('test', ['-config', 'test.yaml', '-model', 'weights.pth', '-name', 'x', *CPU, '-set',
                      'test_dataset.wrapper.args.scales=[2, 2.5, 3]'], 'test'),
    'train': ('train', ['-config', 'train.yaml', '-name', 'x', '-resume', 'auto', *CPU, *LONGER], 'save'),
    'mapped': ('train', ['-config', 'train.yaml', '-name', 'x', '-resume', 'auto', *CPU, *LONGER,
                         'train_dataset.dataset.args.cache=mapped'], 'save'),
    'prepare': ('prepare', ['Set5', '-data', 'data', '-archives', 'archives'], 'data/benchmark'),
    'export': ('export', ['-model', 'weights.pth', '-output', 'out/small.pth', '-dtype', 'float16'], 'out'),
    'resume': ('demo', ['-input', 'data/images', '-recursive', '-scale', '3', '-model', 'weights.pth', '-resume', '-compare',
                        '-output', 'out', *CPU], 'out'),
    'zoom': ('demo', ['-input', 'data/images/0.png', *ZOOM, '-model', 'weights.pth', '-output', 'out/z.webp', *CPU], 'out')}
if HAS_FIGURES:
    COMMANDS['figure'] = ('visualize', ['zoom', '-input', 'data/images/0.png', '-scale', '2', '-box', '2,3,10,12', '-model',
                                        'bicubic', 'weights.pth', '-output', 'out/f.pdf', *CPU], 'out')
if HAS_FILMS:
    COMMANDS['film'] = ('demo', ['-input', 'films/a.mp4', '-scale', '2', '-model', 'weights.pth', '-resume', '-output',
                                 'out/a.mp4', *CPU], 'out')


def _case(name: str, folder: Path, originals: Path, odd: str) -> Case:
    """A valid command; writes its inputs."""
    command, words, writes = COMMANDS[name]
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    shutil.copytree(originals / 'archives', folder / 'archives')
    shutil.copytree(originals / 'films', folder / 'films')
    for file in ('weights.pth', 'test.yaml', 'train.yaml'):
        shutil.copy2(originals / file, folder)
    return Case(command=command, words=list(words), odd=odd, names=('',), writes=(writes, 'data/decoded'))


class Undisturbed:
    """What each command writes, and the seconds that it takes, when nothing disturbs it; found out when first asked for."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.known: dict[str, tuple[Path, float]] = {}

    def __getitem__(self, name: str) -> tuple[Path, float]:
        if name not in self.known:
            yard = new_yard(self.settings.root / f'undisturbed-{name}')
            case = _case(name, yard / 'case', self.settings.originals, 'nothing')
            outcome = started(case, yard, self.settings.commands).wait(self.settings.limit)
            if outcome.status != 0:
                raise RuntimeError(f'{described(case, outcome)}')
            self.known[name] = yard / 'case', outcome.seconds
        return self.known[name]


class Kill:
    """A command that is killed at a random moment, once or twice, then run to its end."""

    def __init__(self, number: int, undisturbed: Undisturbed, settings: Settings):
        rng = Random(f'{settings.seed} {number}')
        self.name, self.number, self.settings = name_of(number), number, settings
        self.family = f'kill {self.name}'
        self.whole, seconds = undisturbed[self.name]
        self.moments = [(rng.choice(SIGNALS), rng.uniform(0, 1.1 * seconds)) for _ in range(rng.choice((1, 1, 2)))]
        self.yard = new_yard(settings.root / f'{number}')
        odd = ', '.join(f'{signal.Signals(kind).name} after {moment:.3f} s' for kind, moment in self.moments)
        self.case = _case(self.name, self.yard / 'case', settings.originals, odd)
        self.before = contents(self.yard / 'case')
        self.left: set[str] = set()  # unfinished files of attempts that could not remove them
        self.outcome: Outcome | None = None
        self.found: list[str] = []
        self._start()

    def _start(self) -> None:
        self.process: Process = started(self.case, self.yard, self.settings.commands)
        self.signalled = False

    def advance(self) -> list[str] | None:
        """Faults of every attempt; None while an attempt is under way."""
        if self.moments and not self.signalled and self.process.seconds >= self.moments[0][1]:
            self.process.signal(self.moments[0][0])  # not reaped yet, so the number is still its own
            self.signalled = True
        self.outcome = self.process.finished(self.settings.limit)
        if self.outcome is None:
            return None
        self.found += self._judged(self.outcome)
        if self.moments:
            self.moments.pop(0)
            self._start()
            return None
        return self.found + (differences(self.name, self.whole, self.yard / 'case') if not self.found else [])

    def _judged(self, outcome: Outcome) -> list[str]:
        """Faults of one attempt: a killed one may leave unfinished files, under names that say so."""
        found = faults(self.case, outcome, self.yard, self.before, self.settings.unreadable)
        killed = self.signalled and outcome.status == -signal.SIGKILL
        excused = {name for name in self.left if self.signalled or name.endswith('/.lock')}  # nothing to do, nothing to lock
        found = [fault for fault in found if fault.removeprefix('leaves ') not in excused
                 and not (self.signalled and fault.startswith('leaves ') and fault.endswith('/.lock'))]  # amid locking
        if killed:
            self.left |= {name for name in contents(self.yard / 'case') if is_unfinished(name)}
            found = [fault for fault in found if fault != 'is ended by signal 9']
        elif outcome.status not in ((0, 130) if self.signalled else (0,)):
            found.append(f'ends with status {outcome.status}')
        return found

    def describe(self) -> str:
        return described(self.case, self.outcome)


def name_of(number: int) -> str:
    """Which command the kill of a number is for."""
    names = list(COMMANDS)
    return names[(number - FIRST) % len(names)]


def differences(name: str, whole: Path, mine: Path) -> list[str]:
    """In what the files of a command that was killed and run again differ from those of an undisturbed one."""
    place = COMMANDS[name][2]
    files = [sorted(str(path.relative_to(folder / place)) for path in (folder / place).rglob('*')
                    if path.is_file() and path.name != '.lock' and 'tfevents' not in path.name) for folder in (whole, mine)]
    if files[0] != files[1]:
        return [f'has {", ".join(files[1])[:200]}, expected {", ".join(files[0])[:200]}']
    return [f'{file} differs from that of an undisturbed command' for file in files[0]
            if not _same(whole / place / file, mine / place / file)]


def _same(a: Path, b: Path) -> bool:
    """Whether two files hold the same, clocks aside."""
    if a.suffix == '.pth':
        return _equal(*(torch.load(file, weights_only=True) for file in (a, b)))
    if a.suffix == '.json':
        rows = [[{key: value for key, value in row.items() if key not in ('seconds_per_image', 'peak_memory', 'measured_on')}
                 for row in json.loads(file.read_text())['rows']] for file in (a, b)]
        return rows[0] == rows[1]
    return a.suffix in ('.txt', '.md', '.yaml') or a.read_bytes() == b.read_bytes()


def _equal(a: object, b: object) -> bool:
    """Whether two values of checkpoints are equal to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b
