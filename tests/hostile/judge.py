"""The contract of the commands: how they may end, what they may print and write. What breaks it is a fault."""
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import Case, Outcome

LINE = 2000               # characters of a line on stderr
OUT = 20_000              # characters of a line on stdout: a whole config is one
MEMORY = 2 ** 30          # bytes beyond those at the start
FAILURES = re.compile(    # what ends a command whose input was right, with status 1
    r'memory|cannot be written|could not be written|could not be upscaled|No space|File too large|the loss is|'
    r'no longer finite|not finite|no mirror gives')
UNFINISHED = re.compile(r'\.partial-.*|.*\.unpacking|\.lock')  # names that no finished command leaves


def faults(case: Case, outcome: Outcome, yard: Path, before: dict[str, str],
           unreadable: Callable[[Path], str | None]) -> list[str]:
    """What of an outcome breaks the contract, a line each.

    Args:
        before: `contents` of the case's folder before.
        unreadable: what is wrong with a file that the command has written, None when nothing is.
    """
    folder = yard / 'case'
    after = contents(folder)
    found = [*_ending(case, outcome), *_lines(case, outcome), *outcome.actions]
    if outcome.growth > MEMORY:
        found.append(f'needs {outcome.growth / 2 ** 20:,.0f} MiB of memory')
    others = {entry.name for entry in yard.iterdir()} - {'case', 'tmp'}
    found += [f'writes {name} outside of its folder' for name in sorted(others)]
    if outcome.status is not None and outcome.status >= 0:
        found += [f'leaves tmp/{entry.name}' for entry in (yard / 'tmp').iterdir()]
    found += [f'changes its input {name}' for name, content in before.items()
              if after.get(name) != content and not _may_write(case, name)]
    new = [name for name, content in after.items() if before.get(name) != content]
    if outcome.status is not None and outcome.status >= 0:
        found += [f'leaves {name}' for name in new if is_unfinished(name)]
    if outcome.status == 0 or not case.copies:
        found += [f'leaves {name} half-written ({problem})' for name in new if not is_unfinished(name)
                  and after[name] and (problem := unreadable(folder / name))]
    if outcome.status == 0:
        found += [f'ends with status 0, but without {name}' for name in case.outputs if name not in after]
        if not found and (problem := case.verify(folder)):
            found.append(problem)
    return found


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, and a hash of its content; of links, FIFOs and files that may not be read, ''."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*files, *folders):
            path = Path(place) / name
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                readable = stat.S_ISREG(mode) and os.access(path, os.R_OK)
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if readable else ''
    return found


def is_unfinished(name: str) -> bool:
    """Whether a path below a folder is one that no finished command leaves."""
    return any(map(UNFINISHED.fullmatch, Path(name).parts))


def _may_write(case: Case, name: str) -> bool:
    return any(name == place or name.startswith(f'{place}/') for place in case.writes)


def _ending(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with the status."""
    if outcome.status is None:
        return [f'does not end within {outcome.seconds:.0f} s']
    if outcome.status < 0:
        return [f'is ended by signal {-outcome.status}']
    if outcome.status not in (0, 1, 2, 130):
        return [f'ends with status {outcome.status}']
    if outcome.status == 1 and not case.may_fail and not FAILURES.search(outcome.err):
        return ['ends with status 1, which is for memory and disks alone']
    return []


def _lines(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with what was printed."""
    if 'Traceback (most recent call last)' in outcome.err + outcome.out:
        return [f'prints a traceback: {outcome.err.strip().splitlines()[-1][:200]}']
    lines = outcome.err.split('\n')
    if lines.pop():
        return ['ends amid a line on stderr']
    found = [f'prints a line of {len(line)} characters' for line in lines if len(line) > LINE]
    found += [f'prints a line of {len(line)} characters' for line in outcome.out.split('\n') if len(line) > OUT]
    if outcome.status in (1, 2, 130):
        if not lines:
            return [f'ends with status {outcome.status} without a word']
        last = lines.pop()
        if not last.startswith('interrupted' if outcome.status == 130 else 'error: '):
            found.append(f'ends with the line {last[:200]!r}')
        elif outcome.status != 130 and not any(name and name in last for name in map(_plain, case.names)):
            found.append(f'does not name {" or ".join(map(repr, case.names))[:200]}: {last[:300]!r}')
    further = [line for line in lines if not (case.lines and re.fullmatch(case.lines, line))]
    return found + [f'prints a further line on stderr: {line[:200]!r}' for line in further[:1]]


def _plain(name: str) -> str:
    """A name as a message prints it: on one line, of a long one the beginning."""
    return ' '.join(name.encode('utf-8', 'backslashreplace').decode('utf-8').split())[:30]
