"""Times whole programs that upscale an image, ours and others, in turns:

    python -m benchmarks.peers -models MSIT-S train_edsr_baseline_MsIT -data data -output output/peers.json \\
        -program LIIF 'python /path/liif.py --input {input} --resolution {height},{width} --output {output}'

Each line of the table is a command that reads a PNG file and writes one: `demo.py` for each of -models, `benchmarks.plain`
(the algorithm of MSIT's authors) for those that are an MSIT, and each -program. Commands alternate, A B C A B C …, and
medians are compared, so that a busy machine disturbs all alike. All have the same environment: the number of threads of
-threads, and settings of glibc's allocator by which it keeps freed memory. The time is that of the whole command, as a user
waits for it. Beside it stands what is left of it without the start-up, which the same command shows on an image of 16×16
pixels just before.

A config in the place of weights is given random ones. The scores of weights are those of Set5 by the protocol `benchmark`,
measured where -data has the set.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

import datasets
import models
from benchmarks.memory import CONFIGS
from benchmarks.queries import checked_case, describe, parse_case
from common.cli import Parser, choose_device, run
from common.ranges import whole_number
from engine.checkpoint import save_checkpoint
from engine.config import TEST_KEYS, TRAIN_KEYS, load_config
from engine.evaluation.evaluate import evaluate
from figures import look
from imaging import read_size
from models.checkpoint import find
from models.decoders.msit import MSIT
from utils import ROOT, UserError, check_output, one_line, shortened, write_text

CASES = ['64x2', '64x4', '24x12']
START = 16  # side of the image whose time is start-up
NAMES = ('input', 'output', 'scale', 'height', 'width')  # what {…} in a command may be
# freed memory is kept for the next tensors, as our commands have it by themselves (common/allocator.py)
ALLOCATOR = {'MALLOC_MMAP_THRESHOLD_': '33554432', 'MALLOC_TRIM_THRESHOLD_': '4000000000', 'MALLOC_TOP_PAD_': '67108864'}
SET5 = ROOT / 'configs/test/test-set5.yaml'
TOLERANCE = 1  # pixels by which a program may round a side otherwise


class Program(NamedTuple):
    """A line of the table: the words of its command, with {…} in them, and the folder it runs in."""
    name: str
    words: list[str]
    folder: Path

    def command(self, **values: object) -> list[str]:
        """The words with the values of {input}, {output}, {scale}, {height} and {width}."""
        return [re.sub(r'\{(\w+)\}', lambda found: str(values.get(found[1], found[0])), word) for word in self.words]


class Case(NamedTuple):
    """A file of side × side LR pixels, and the factor by which it is upscaled."""
    file: Path
    side: int
    scale: float

    @property
    def size(self) -> int:
        """The side of the result."""
        return round(self.scale * self.side)


def main() -> None:
    options = read_options()
    check_output(options.output, ('.json',))
    others = [other_program(*words) for words in options.program]
    device = choose_device(options)
    torch.set_num_threads(options.threads)
    environment = make_environment(options.threads, device)
    with tempfile.TemporaryDirectory() as folder:
        weights = {Path(name).stem: weights_of(name, Path(folder)) for name in options.models}
        programs = [line for name, file in weights.items() for line in our_programs(name, file, device)] + others
        if repeated := {line.name for line in programs if [other.name for other in programs].count(line.name) > 1}:
            raise UserError(f'-program, -models: {min(repeated)} is the name of several; each needs its own')
        cases = [make_case(Path(folder), *parse_case(case)) for case in options.cases]
        start = make_case(Path(folder), START, cases[0].scale)
        results = {'machine': describe(device), 'environment': environment, 'repeats': options.repeats,
                   'commands': {line.name: shlex.join(line.words) for line in programs},
                   **compare(programs, start, cases, options.repeats, environment),
                   'psnr': scores({name: file for name, file in weights.items() if not is_config(options.models, name)},
                                  [case.scale for case in cases], Path(options.data), device)}
    print(f"{results['machine']}; {' '.join(f'{key}={value}' for key, value in environment.items())}")
    print(report(results))
    write_text(options.output, json.dumps(results, indent=1) + '\n')
    write_text(options.output.with_suffix('.md'), report(results) + '\n')
    draw(results, options.output.with_suffix('.png'))
    print(f'wrote {options.output}, and a table and a figure beside it')


def read_options() -> argparse.Namespace:
    parser = Parser(prog='python -m benchmarks.peers', description='Times programs that upscale, in turns; prints a table, '
                                                                   'writes it, JSON and a figure.')
    parser.option('models', nargs='+', default=['MSIT-S'], metavar='NAME',
                  help='weights as of demo.py -model, names of configs in configs/train/, or YAML files (default: MSIT-S)')
    parser.option('program', nargs=2, action='append', default=[], metavar=('NAME', 'COMMAND'),
                  help='another program; its command has {input} and {output}, and may have {scale}, {height} and {width}')
    parser.option('cases', nargs='+', type=checked_case, default=CASES, metavar='SIDExSCALE',
                  help=f"LR side and scale of each comparison (default: {' '.join(CASES)})")
    parser.option('repeats', type=whole_number(1, 10 ** 4), default=5, metavar='N',
                  help='timed runs of each command, whose median counts (default: 5)')
    parser.option('threads', type=whole_number(1, 1024), default=torch.get_num_threads(), metavar='N',
                  help="of each command (default: PyTorch's own choice)")
    parser.option('data', default='data', metavar='DIR', help='where Set5 is looked for (default: data)')
    parser.option('output', type=Path, default=Path('output/peers.json'), metavar='FILE',
                  help='JSON; the table and the figure lie beside it (default: output/peers.json)')
    parser.device_options()
    return parser.parse_args()


def other_program(name: str, text: str) -> Program:
    """The -program NAME COMMAND. Raises UserError for a command that cannot be one."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f'-program {name}: {one_line(error)} in {shortened(text)}') from error
    found = {match for word in words for match in re.findall(r'\{(\w+)\}', word)}
    for needed in ('input', 'output'):
        if needed not in found:
            raise UserError(f'-program {name}: expected {{{needed}}} in its command, got {shortened(text)}')
    if unknown := found - {*NAMES}:
        raise UserError(f'-program {name}: {{{min(unknown)}}} is unknown, expected {", ".join(map("{{{}}}".format, NAMES))}')
    return Program(name, words, Path.cwd())


def is_config(given: list[str], stem: str) -> bool:
    """Whether the model of this stem was given as a config."""
    return any(config_of(name) for name in given if Path(name).stem == stem)


def config_of(name: str) -> Path | None:
    """The file of a config; None for weights."""
    file = CONFIGS / f'{name}.yaml'
    return file if file.is_file() else Path(name) if Path(name).suffix in ('.yaml', '.yml') else None


def weights_of(name: str, folder: Path) -> str:
    """What demo.py takes as -model: the weights, or for a config a file of random ones that is written into `folder`."""
    config = config_of(name)
    if config is None:
        return name if name == 'bicubic' else str(find(name).resolve())
    spec = load_config(config, TRAIN_KEYS)
    torch.manual_seed(0)
    file = folder / f'{config.stem}.pth'
    save_checkpoint(file, models.make(spec['model'], spec.get('data_norm')), spec['model'])
    return str(file)


def our_programs(name: str, weights: str, device: torch.device) -> list[Program]:
    """demo.py with these weights, and the plain path where there is one."""
    rest = ['-model', weights, '-input', '{input}', '-scale', '{scale}', '-output', '{output}', '-device', str(device)]
    lines = [Program(name, [sys.executable, 'demo.py', *rest], ROOT)]
    if isinstance(models.load(weights), MSIT):
        lines.append(Program(f'{name}, plain', [sys.executable, '-m', 'benchmarks.plain', *rest], ROOT))
    return lines


def make_environment(threads: int, device: torch.device) -> dict[str, str]:
    """What is set for every command."""
    counts = {name: str(threads) for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}
    return {**counts, **ALLOCATOR, **({'CUDA_VISIBLE_DEVICES': ''} if device.type == 'cpu' else {})}


def make_case(folder: Path, side: int, scale: float) -> Case:
    """An image of noise, written into `folder`."""
    file = folder / f'noise{side}.png'
    pixels = torch.randint(256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    Image.fromarray(pixels.numpy()).save(file)
    return Case(file, side, scale)


def compare(programs: list[Program], start: Case, cases: list[Case], repeats: int, environment: dict[str, str]) -> dict:
    """'rows': see `case_rows`. Each command is timed on the image of `start` just before it is timed on a case."""
    rows = []
    for case in cases:
        calls = {line.name: lambda line=line, case=case: tuple(seconds(line, each, environment) for each in (start, case))
                 for line in programs}
        rows += case_rows(case, alternate(calls, repeats, f'{case.side}² ×{case.scale:g}'))
    return {'rows': rows}


def alternate(calls: dict[str, Callable[[], Any]], repeats: int, label: str = '') -> dict[str, list]:
    """What each of the calls returns, `repeats` times, all called in turns: A B C A B C …"""
    found: dict[str, list] = {name: [] for name in calls}
    for _ in tqdm(range(repeats), label, disable=None, leave=False):
        for name, call in calls.items():
            found[name].append(call())
    return found


def seconds(program: Program, case: Case, environment: dict[str, str]) -> float:
    """Of the whole command. Raises UserError in one line when it fails, or does not write an image of the right size."""
    output = case.file.with_name('result.png')
    output.unlink(missing_ok=True)
    command = program.command(input=case.file, output=output, scale=f'{case.scale:g}', height=case.size, width=case.size)
    started = time.perf_counter()
    try:
        child = subprocess.run(command, cwd=program.folder, env={**os.environ, **environment}, capture_output=True,
                               stdin=subprocess.DEVNULL, text=True, errors='replace')
    except OSError as error:
        raise UserError(f'{program.name}: cannot be started ({error.strerror}): {shortened(command[0])}') from error
    elapsed = time.perf_counter() - started
    which = f'{program.name}, {case.side}x{case.side} at x{case.scale:g}'
    if child.returncode:
        last = (child.stderr.strip() or child.stdout.strip() or 'it printed nothing').splitlines()[-1]
        raise UserError(f'{which}: ended with status {child.returncode}: {shortened(last, quotes=False)}')
    if not output.is_file():
        raise UserError(f'{which}: wrote no image to its {{output}}')
    if any(abs(side - case.size) > TOLERANCE for side in read_size(output)):
        raise UserError(f'{which}: wrote {"x".join(map(str, read_size(output)))} pixels, expected {case.size}x{case.size}')
    return elapsed


def case_rows(case: Case, times: dict[str, list[tuple[float, float]]]) -> list[dict]:
    """A row for each program, its ratios to the first one.

    Args:
        times: of each program, seconds of its start-up and of the whole command, a pair for each turn.
    """
    rows = []
    for name, values in times.items():
        whole = statistics.median(value for _, value in values)
        rows.append({'side': case.side, 'scale': case.scale, 'program': name, 'seconds': whole, 'all': values,
                     'after_start': statistics.median(value - start for start, value in values),
                     'seconds_per_megapixel': whole / (case.size ** 2 / 1e6)})
    for row in rows:
        row['ratio'] = row['seconds'] / rows[0]['seconds']
        both = row['after_start'], rows[0]['after_start']
        row['ratio_after_start'] = both[0] / both[1] if min(both) > 0 else None  # noise, where there is little to do
    return rows


def scores(weights: dict[str, str], scales: list[float], data: Path, device: torch.device) -> dict[str, dict[str, float]]:
    """PSNR on Set5 at each scale of each of the weights; empty where the set is absent."""
    config = load_config(SET5, TEST_KEYS, [f'test_dataset.wrapper.args.scales={sorted({*scales})}'])['test_dataset']
    if not (data / config['dataset']['args']['root_path']).is_dir():
        print(f'{data}: has no Set5, so nothing is scored; -data DIR names the folder above benchmark/', file=sys.stderr)
        return {}
    dataset = datasets.make(config, data, 'test_dataset')
    return {name: {f'{row["scale"]:g}': row['psnr'] for row in evaluate(models.load(file, device), dataset, device, name)}
            for name, file in weights.items()}


def report(results: dict) -> str:
    """The rows as a Markdown table."""
    heads = ('LR', 'scale', 'program', 'command (s)', 'ratio', 'after start-up (s)', 'ratio', 's per megapixel', 'PSNR (dB)')
    lines = [f"| {' | '.join(heads)} |", '|---:|---:|---|---:|---:|---:|---:|---:|---:|']
    for row in results['rows']:
        after = f"{row['ratio_after_start']:.3g}" if row['ratio_after_start'] else '—'
        psnr = results['psnr'].get(row['program'], {}).get(f"{row['scale']:g}")
        lines.append('| {side}² | ×{scale:g} | {program} | {seconds:.2f} | {ratio:.3g} | {after_start:.2f} | {0} '
                     '| {seconds_per_megapixel:.2f} | {1} |'.format(after, f'{psnr:.2f}' if psnr else '—', **row))
    return '\n'.join(lines)


def draw(results: dict, path: Path) -> None:
    """Seconds per output megapixel against scale; beside it PSNR against them, where something was scored."""
    figure, axes = look.new_plots(look.WIDTHS['page'], 3.5, columns=2 if results['psnr'] else 1)
    scales = sorted({row['scale'] for row in results['rows']})
    for name, (colour, marker) in zip(results['commands'], look.line_styles()):
        rows = sorted((row for row in results['rows'] if row['program'] == name), key=lambda row: row['scale'])
        times = [row['seconds_per_megapixel'] for row in rows]
        axes[0].plot([row['scale'] for row in rows], times, color=colour, marker=marker, label=name)
        if name in results['psnr']:
            psnr = [results['psnr'][name][f"{row['scale']:g}"] for row in rows]
            axes[1].plot(times, psnr, color=colour, marker=marker, linestyle='', label=name)
            for x, y, row in zip(times, psnr, rows):
                axes[1].annotate(f"×{row['scale']:g}", (x, y), textcoords='offset points', xytext=(4, 3), fontsize=6)
    axes[0].set(xscale='log', yscale='log', xlabel='scale', ylabel='seconds per output megapixel')
    axes[0].set_xticks(scales, [f'×{scale:g}' for scale in scales], minor=False)
    axes[0].minorticks_off()
    look.plain_ticks(axes[0].yaxis)
    for axis in axes[1:]:
        axis.set(xscale='log', xlabel='seconds per output megapixel', ylabel='PSNR on Set5 (dB)')
        axis.margins(x=0.1)  # room for the scales beside the points
        look.plain_ticks(axis.xaxis)
    with look.style():
        for axis in axes:
            axis.legend()
    look.save(figure, path)


if __name__ == '__main__':
    run(main)
