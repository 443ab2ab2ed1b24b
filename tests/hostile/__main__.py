"""The command: python -m tests.hostile -inputs 500 -kills 40 -seed 0"""
import os

os.environ.update(OMP_NUM_THREADS='1', http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9')  # no network

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch._dynamo  # noqa: F401  (so that no command imports it for itself)

with contextlib.suppress(ImportError):
    import av  # noqa: F401  (likewise)
with contextlib.suppress(ImportError):
    import matplotlib.backends.backend_pdf
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401  (likewise, with its list of fonts)

from common.cli import Parser, run
from common.ranges import real_number, whole_number
from tests.hostile import inputs, kills
from tests.hostile.campaign import Attack, Input, Settings, Tally, run_all, silenced_bytecode
from tests.hostile.originals import COMMANDS, make_originals
from tests.hostile.outputs import unreadable
from utils import RunError


def main() -> None:
    parser = Parser(prog='python -m tests.hostile', description='Attacks every command; exit status 1 when one broke.')
    parser.option('inputs', type=whole_number(0, 10 ** 6), default=500, metavar='N', help='hostile inputs (default: 500)')
    parser.option('kills', type=whole_number(0, 10 ** 6), default=40, metavar='N', help='kills (default: 40)')
    parser.option('seed', type=whole_number(0, 10 ** 9), default=0, metavar='N', help='another seed, other attacks')
    parser.option('only', type=whole_number(0, 10 ** 7), metavar='N', help='only the attack of this number; keeps its files')
    parser.option('family', choices=[*inputs.FAMILIES, *(f'kill {name}' for name in kills.COMMANDS)], metavar='NAME',
                  help='only the inputs of this family, or the kills of this command, such as jobs or "kill zoom"')
    parser.option('limit', type=real_number(1, 1000), default=30.0, metavar='S', help='seconds for a command (default: 30)')
    options = parser.parse_args()
    silenced_bytecode()
    for line in inputs.LEFT_OUT:
        print(line, file=sys.stderr)
    root = Path(tempfile.mkdtemp(prefix='hostile-'))
    root.chmod(0o755)
    tally = Tally()
    try:
        (root / 'originals').mkdir()
        make_originals(root / 'originals')
        settings = Settings(COMMANDS, root / 'originals/case', root, options.seed, unreadable, options.limit)
        attacks = list(_attacks(options.inputs, options.kills, options.family, options.only, settings))
        run_all(iter(attacks), len(attacks), tally, keep=options.only is not None)
    finally:
        if options.only is None:
            shutil.rmtree(root, ignore_errors=True)
        print(tally.report(f'python -m tests.hostile -seed {options.seed}'))
    if tally.broken:
        raise RunError(f'{len(tally.broken)} of {tally.tried.total()} attacks broke the contract of the commands')


def _attacks(count: int, killed: int, family: str | None, only: int | None,
             settings: Settings) -> Iterator[Callable[[], Attack]]:
    """Functions that start an attack each. Inputs have the numbers from 0 on, kills those from KILLS on."""
    names = list(inputs.FAMILIES)
    for number in range(count) if only is None else [only] if only < kills.FIRST else []:
        name = names[number % len(names)]
        if family in (None, name):
            yield partial(Input, name, number, inputs.FAMILIES[name], settings)
    numbers = list(range(kills.FIRST, kills.FIRST + killed)) if only is None else [only] if only >= kills.FIRST else []
    numbers = [number for number in numbers if family in (None, f'kill {kills.name_of(number)}')]
    if numbers:
        undisturbed = kills.Undisturbed(settings)
        yield from (partial(kills.Kill, number, undisturbed, settings) for number in numbers)


if __name__ == '__main__':
    sys.exit(run(main))
