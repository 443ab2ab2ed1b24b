"""Measures the memory of upscaling against what it was allowed: python -m benchmarks.memory

Each method of configs/train at full size, the shipped weights and bicubic, at several budgets, each in a process of its own.
The process upscales a small image first, so that libraries and threads are in place, and gives back what that freed. Then it
notes its resident memory, upscales, and compares the peak, less the result. Linux only.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import models
from common.allocator import release_unused
from common.cli import Parser, parse_memory, run
from common.ranges import real_number, whole_number
from engine.config import TRAIN_KEYS, load_config
from models.contract import SRModel
from models.upscale import SAMPLE_SIDES, encoding_stages
from utils import ROOT, UserError

CONFIGS = ROOT / 'configs/train'
MODELS = ('bicubic', 'MSIT-S', *sorted(file.stem for file in CONFIGS.glob('train_*_baseline_*.yaml')
                                       if '_rim' not in file.stem and '_fast' not in file.stem))
BUDGETS = ('100M', '300M', '500M', '1G')
TOLERANCE = 1.1  # of the memory that may be used


class Case(NamedTuple):
    """A model upscales one image of side × side LR pixels by a factor within `memory` bytes."""
    model: str
    side: int
    scale: float
    memory: int


def main() -> None:
    parser = Parser(description='Prints a table of the memory used beside weights, input and result, in MiB.')
    parser.option('models', nargs='+', default=MODELS, metavar='NAME',
                  help='names of configs in configs/train/, of weights in modelzoo/, or bicubic (default: all)')
    parser.option('side', type=whole_number(8, 2 ** 15), default=256, metavar='N', help='of the LR image (default: 256)')
    parser.option('scale', type=real_number(1, 100), default=2, metavar='S', help='factor (default: 2)')
    parser.option('budgets', nargs='+', default=BUDGETS, metavar='SIZE', help=f'(default: {" ".join(BUDGETS)})')
    parser.option('case', help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(Case(*json.loads(options.case)))))
        return

    print(f'MiB beside weights, input and result; {options.side}x{options.side} x{options.scale:g}; '
          f'torch {torch.__version__}, {torch.get_num_threads()} threads\n')
    print('| model | ' + ' | '.join(options.budgets) + ' |\n|---|' + '---:|' * len(options.budgets))
    for name in tqdm(options.models, disable=None, leave=False):
        cells = [cell(Case(name, options.side, options.scale, parse_memory(size))) for size in options.budgets]
        tqdm.write(f'| {name} | ' + ' | '.join(cells) + ' |')


def cell(case: Case) -> str:
    """The entry of the table: MiB, bold where they exceed the budget; of a model that refused, what it asks for."""
    answer = in_own_process(case)
    if isinstance(answer, str):
        return re.sub(r'.*allow at least (\d+) MiB.*', r'needs \1', answer)
    text = f'{answer / 2 ** 20:.0f}'
    return f'**{text}**' if answer > TOLERANCE * case.memory else text


def in_own_process(case: Case) -> int | str:
    """`measure` in a process of its own. Raises UserError when that fails."""
    child = subprocess.run([sys.executable, '-m', 'benchmarks.memory', '-case', json.dumps(case)], cwd=ROOT,
                           capture_output=True, text=True)
    if child.returncode:
        raise UserError(f'{case.model}: the measurement ended with status {child.returncode}: {child.stderr[-300:]}')
    return json.loads(child.stdout)


def measure(case: Case) -> int | str:
    """Bytes by which the peak of this process exceeds weights, input and result; or what a refusal said."""
    model = make_model(case.model)
    scale = model.fixed_scale or case.scale
    size = (round(scale * case.side),) * 2
    lr = torch.rand(1, 3, case.side, case.side)
    model.upscale(lr[:, :, :24, :24], (round(24 * scale),) * 2)
    with torch.no_grad():
        for side in SAMPLE_SIDES:
            encoding_stages(model, lr, None, side)  # small images are not measured
    result = 12 * size[0] * size[1]
    release_unused(0)  # what is kept from the small image
    before = resident('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    try:
        model.upscale(lr, size, memory=case.memory)
    except UserError as error:
        return str(error)
    return resident('VmHWM') - before - result


def make_model(name: str) -> SRModel:
    """The model of a config of configs/train with random weights, weights of modelzoo/, or bicubic."""
    config = CONFIGS / f'{name}.yaml'
    if not config.is_file():
        return models.load(name)
    torch.manual_seed(0)
    spec = load_config(config, TRAIN_KEYS)
    return models.make(spec['model'], spec.get('data_norm')).eval().fold()


def resident(key: str) -> int:
    """Resident bytes of this process, now ('VmRSS') or at most ('VmHWM')."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return 1024 * int(line.split()[1])
    raise UserError('/proc/self/status does not tell the resident memory: this needs Linux')


if __name__ == '__main__':
    run(main)
