"""The command: python -m datasets.prepare NAME… -data DIR"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, run
from datasets.prepare.check import check, is_complete
from datasets.prepare.download import obtain
from datasets.prepare.sources import ARCHIVES, SETS, Folder, Source
from datasets.prepare.unpack import unpack
from utils import UserError, nearest_name, printable


def main() -> None:
    parser = Parser(prog='python -m datasets.prepare', description='Downloads, unpacks and checks data sets.')
    parser.add_argument('names', nargs='*', metavar='NAME', help=', '.join(SETS))
    parser.option('data', default='data', metavar='DIR', help='root of the data sets (default: data)')
    parser.option('archives', metavar='DIR', help='archives found here are used, others downloaded to it '
                                                  '(default: archives in the root)')
    parser.option('mirror', metavar='URL', help='address of a folder of archives, tried before the known ones')
    parser.option('check', action='store_true', help='only check; without names, every data set of which a folder exists')
    options = parser.parse_args()

    root = Path(options.data)
    archives = Path(options.archives) if options.archives else root / 'archives'
    names = _choose_names(options.names, root, options.check)
    if not options.check:
        if options.archives and not archives.is_dir():
            raise UserError(f'-archives {archives}: no such folder')
        if options.mirror and not re.match('https?://', options.mirror):
            raise UserError(f'-mirror {options.mirror}: expected an address that starts with http:// or https://')
        try:
            _prepare(names, root, archives, options.mirror)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt('run the same command again to continue') from interrupt
    _report(names, root)


def _choose_names(names: Sequence[str], root: Path, check_only: bool) -> list[str]:
    """The data sets to work on: those named, or every one below `root` when there is only to check."""
    for name in names:
        if name not in SETS:
            raise UserError(f"'{name}': no such data set, {nearest_name(name, SETS)}")
    if not root.is_dir() and (check_only or root.exists()):
        raise UserError(f'-data {root}: no such folder')
    if check_only and not names:
        names = [name for name, folders in SETS.items() if any((root / folder.path).exists() for folder in folders)]
        if not names:
            raise UserError(f'{root}: holds none of the data sets {", ".join(SETS)}')
    if not names:
        raise UserError(f'name the data sets to prepare: {", ".join(SETS)}')
    return list(dict.fromkeys(names))


def _prepare(names: Sequence[str], root: Path, archives: Path, mirror: str | None) -> None:
    """Downloads and unpacks the folders of the named data sets that are missing or incomplete."""
    needed: dict[str, list[Folder]] = {}
    for name in names:
        for folder in SETS[name]:
            if not is_complete(folder, root):
                needed.setdefault(folder.archive, []).append(folder)
    for name, folders in needed.items():
        sources = ARCHIVES[name]
        if mirror:
            files = dict.fromkeys((source.file, source.sha256) for source in sources)
            sources = (*(Source(file, f"{mirror.rstrip('/')}/{file}", sha256) for file, sha256 in files), *sources)
        archive = obtain(sources, archives)
        unpack(archive, folders, root)
        print(f"{archive} -> {', '.join(str(root / folder.path) for folder in folders)}")


def _report(names: Sequence[str], root: Path) -> None:
    """Checks the named data sets; prints a line for each complete one and, on stderr, a line for each problem.

    Raises: UserError with the number of problems when there are any.
    """
    problems = {}
    for name in names:
        problems[name] = check(SETS[name], root, name)
        for problem in problems[name]:
            print(printable(problem), file=sys.stderr)
        if not problems[name]:
            print(f'{name}: complete, {sum(folder.count for folder in SETS[name])} images')
    wrong = [name for name in names if problems[name]]
    if wrong:
        count = sum(map(len, problems.values()))
        raise UserError(f"{count} problem{'s' if count > 1 else ''} in {', '.join(wrong)}; delete the wrong files named, "
                        f"then 'python -m datasets.prepare {' '.join(wrong)} -data {root}' unpacks what is missing")


if __name__ == '__main__':
    run(main)
