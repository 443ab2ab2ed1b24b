"""Many attacks, two at a time, and what came of them."""
import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

from tqdm import tqdm

from tests.hostile.case import Case, Outcome
from tests.hostile.judge import contents, faults
from tests.hostile.process import Process

Commands = dict[str, Callable[[], None]]
Make = Callable[[Path, Path, Random], Case]  # (folder of the case, of the originals, …) → the case, its files written


class Attack(Protocol):
    """An attack that is under way."""
    family: str
    number: int
    process: Process

    def advance(self) -> list[str] | None:
        """Its faults, None while it is under way."""

    @property
    def yard(self) -> Path:
        """Its folder."""

    def describe(self) -> str:
        """What is odd, the command and what it said."""


class Settings(NamedTuple):
    """What all attacks share.

    Attributes:
        commands: name → the function that runs it.
        originals: folder of the valid files.
        root: folder in which each attack gets its own.
        unreadable: what is wrong with a file that a command wrote.
        limit: seconds that a command may take.
    """
    commands: Commands
    originals: Path
    root: Path
    seed: int
    unreadable: Callable[[Path], str | None]
    limit: float


class Input:
    """A command that gets a hostile input."""

    def __init__(self, family: str, number: int, make: Make, settings: Settings):
        self.family, self.number, self.settings = family, number, settings
        self.yard = new_yard(settings.root / f'{number}')
        self.case = make(self.yard / 'case', settings.originals, Random(f'{settings.seed} {number}'))
        self.before = contents(self.yard / 'case')
        self.outcome: Outcome | None = None
        self.process = started(self.case, self.yard, settings.commands)

    def advance(self) -> list[str] | None:
        self.outcome = self.process.finished(self.settings.limit)
        if self.outcome is None:
            return None
        return faults(self.case, self.outcome, self.yard, self.before, self.settings.unreadable)

    def describe(self) -> str:
        return described(self.case, self.outcome)


def new_yard(yard: Path) -> Path:
    """A folder for an attack, with empty ones in it: in `case` its command works, in `tmp` it may write for a while."""
    (yard / 'case').mkdir(parents=True)
    (yard / 'tmp').mkdir()
    (yard / 'tmp').chmod(0o777)
    return yard


def started(case: Case, yard: Path, commands: Commands) -> Process:
    return Process(commands[case.command], [case.command, *case.words], yard, workers=case.workers,
                   file_size=case.file_size, unprivileged=case.unprivileged)


def described(case: Case, outcome: Outcome | None) -> str:
    """What is odd about a case, the command, and how it ended."""
    words = ' '.join(shlex.quote(word if len(word) < 200 else f'{word[:200]}…') for word in (case.command, *case.words))
    said = '' if outcome is None else (f'\n    status {outcome.status} after {outcome.seconds:.1f} s, '
                                       f'{outcome.growth / 2 ** 20:.0f} MiB\n    {outcome.err.strip()[-1500:]}')
    return f'    {case.odd}\n    {words}{said}'


class Broken(NamedTuple):
    """An attack that broke the contract."""
    family: str
    number: int
    faults: list[str]


class Tally:
    """What came of the attacks so far: how many each family had, and those that broke the contract."""

    def __init__(self) -> None:
        self.tried: Counter = Counter()
        self.broken: list[Broken] = []

    def add(self, attack: Attack, found: list[str]) -> None:
        self.tried[attack.family] += 1
        if found:
            self.broken.append(Broken(attack.family, attack.number, found))

    def report(self, rerun: str) -> str:
        """The table of all families, and a line for each attack that broke the contract.

        Args:
            rerun: the command that repeats an attack, without its number.
        """
        counts = Counter(attack.family for attack in self.broken)
        rows = [(name, number, counts[name]) for name, number in self.tried.items()]
        rows += [('all', self.tried.total(), counts.total())]
        lines = [f'{name:<12} tried {tries:>5}, kept {tries - wrong:>5}, broken {wrong:>3}' for name, tries, wrong in rows]
        lines += [f'{attack.family} {attack.number}: {"; ".join(attack.faults)}  ({rerun} -only {attack.number})'
                  for attack in sorted(self.broken, key=lambda attack: attack.number)]
        return '\n'.join(lines)


def run_all(attacks: Iterator[Callable[[], Attack]], total: int, tally: Tally, keep: bool = False, at_once: int = 2) -> None:
    """Runs attacks, `at_once` at a time, counts them, and removes their folders.

    Args:
        attacks: functions that start one each.
        keep: leave the folders, and describe every attack.
    """
    running: list[Attack] = []
    tqdm.monitor_interval = 0  # a thread would be copied by every fork
    try:
        with tqdm(total=total, desc='attacks', disable=None) as bar:
            while True:
                while len(running) < at_once and (start := next(attacks, None)):
                    running.append(start())
                if not running:
                    return
                for attack in list(running):
                    found = attack.advance()
                    if found is not None:
                        running.remove(attack)
                        tally.add(attack, found)
                        bar.update()
                        _leave(attack, keep)
                time.sleep(0.002)
    finally:
        for attack in running:
            attack.process.signal(signal.SIGKILL)


def _leave(attack: Attack, keep: bool) -> None:
    """Removes an attack's folder, or describes the attack."""
    if keep:
        tqdm.write(f'{attack.family} {attack.number}, files in {attack.yard}:\n{attack.describe()}')
        return
    for place, _, _ in os.walk(attack.yard):
        os.chmod(place, 0o700)  # some are read-only
    shutil.rmtree(attack.yard)


def silenced_bytecode() -> None:
    """Modules that are imported late leave no files."""
    sys.dont_write_bytecode = True
    os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
