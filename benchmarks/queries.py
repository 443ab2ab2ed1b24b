"""Times the plain and the fast path of MSIT side by side: python -m benchmarks.queries

Both upscale the same images with the same weights, encoder included. `plain` is the authors' algorithm (plain.py), `fast`
is `model.upscale`. Runs alternate and medians are compared, so that a busy machine disturbs both alike. The floor is the
counted multiply-adds of the fast path, convolutions counted as direct ones, at the rate of matrix products measured in the
same run. Peak memory is that of a process of its own on CPUs, of the allocator on GPUs.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import models
from benchmarks import plain
from common.cli import Parser, choose_device, run
from common.coords import nearest_index, pixel_centres
from common.ranges import real_number, whole_number
from engine.config import TRAIN_KEYS, load_config
from figures import look
from models.decoders.msit import MSIT
from utils import check_output, write_text

CONFIG = Path(__file__).resolve().parent.parent / 'configs/train/train_edsr_baseline_MsIT.yaml'
CASES = ['96x2', '96x3.3', '96x4', '32x12']
QUERIES = 48 ** 2  # of a training sample


def main() -> None:
    parser = Parser(description='Times MSIT\'s plain and fast queries; prints a table, writes JSON and a plot.')
    parser.option('config', default=CONFIG, metavar='FILE', help='of the model')
    parser.option('cases', nargs='+', type=checked_case, default=CASES, metavar='SIDExSCALE',
                  help='LR side and scale of each comparison')
    parser.option('repeats', type=whole_number(1, 10 ** 6), default=3, metavar='N',
                  help='timed runs of each path (default: 3)')
    parser.option('precision', choices=['float32', 'bfloat16', 'float16'], default='float32', help='autocast to this')
    parser.option('batch', type=whole_number(0, 4096), default=4, metavar='N',
                  help='of the training step; 0 leaves it out (default: 4)')
    parser.option('profile', action='store_true',
                  help='also show which operators the time of the fast path goes to; on CPUs with OMP_NUM_THREADS=1, which '
                       'keeps them in one thread')
    parser.option('output', type=Path, default=Path('output/queries.json'), metavar='FILE',
                  help='JSON; the plot lies beside it (default: output/queries.json)')
    parser.option('measure', nargs=2, help=argparse.SUPPRESS)  # path and case: peak memory, in a process of its own
    parser.device_options()
    options = parser.parse_args()
    check_output(options.output, ('.json',))

    device = choose_device(options)
    bench = Bench(options.config, device, getattr(torch, options.precision))
    if options.measure:
        path, case = options.measure
        bench.paths(*parse_case(case))[path]()
        print(peak_resident())
        return

    results = {'machine': describe(device), 'precision': options.precision, 'matmul_gmacs': bench.matmul_rate() / 1e9}
    print(f"{results['machine']}, {options.precision}; matrix products: {results['matmul_gmacs']:.0f} G multiply-adds/s")
    cases = tqdm(options.cases, 'comparing', disable=None, leave=False)
    results['upscale'] = [bench.compare(case, options.repeats, sys.argv[1:]) for case in cases]
    print(table(results['upscale']))
    for case in options.cases if options.profile else []:
        print(f'{case}, fast:\n{operators(lambda case=case: bench.time(bench.paths(*parse_case(case))["fast"]), device)}')
    if options.batch:
        results['training_step'] = bench.compare_training(options.batch, options.repeats)
        print('training step, batch {batch}: plain {plain_seconds:.2f} s, fast {fast_seconds:.2f} s, '
              '{ratio:.1f} times as fast'.format(**results['training_step']))
    write_text(options.output, json.dumps(results, indent=1) + '\n')
    draw(results, options.output.with_suffix('.png'))
    print(f'wrote {options.output} and {options.output.with_suffix(".png")}')


class Bench:
    """Both paths on one device with the same random weights."""

    def __init__(self, config: str | Path, device: torch.device, precision: torch.dtype):
        torch.manual_seed(0)
        spec = load_config(config, TRAIN_KEYS)
        self.fast, self.plain = (models.make(spec['model'], spec.get('data_norm')) for _ in range(2))
        self.plain.load_state_dict(self.fast.state_dict())
        self.plain = plain.plain_convs(self.plain).to(device).eval()
        self.fast = self.fast.to(device).eval()
        if not isinstance(self.fast, MSIT):
            raise SystemExit(f'{config}: the model is no MSIT')
        self.device, self.precision = device, precision

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def paths(self, side: int, scale: float) -> dict[str, Callable[[], torch.Tensor]]:
        """Both paths as functions without arguments that upscale the same noise."""
        lr = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side)).to(self.device)
        size = (round(scale * side),) * 2
        return {'plain': partial(plain.upscale, self.plain, lr, size), 'fast': partial(self.fast.upscale, lr, size)}

    def time(self, function: Callable[[], object]) -> tuple[float, object]:
        """Seconds of one call, and its result."""
        self.synchronise()
        start = time.perf_counter()
        with self.autocast():
            result = function()
        self.synchronise()
        return time.perf_counter() - start, result

    def synchronise(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def compare(self, case: str, repeats: int, arguments: list[str]) -> dict:
        """A row of the table: medians of alternating runs, the largest difference, peak memory, and the floor."""
        side, scale = parse_case(case)
        paths = self.paths(side, scale)
        seconds, outputs, peak = {'plain': [], 'fast': []}, {}, {}
        for path in paths:
            if self.device.type == 'cuda':  # warms up, too
                torch.cuda.reset_peak_memory_stats(self.device)
                self.time(paths[path])
                peak[path] = torch.cuda.max_memory_allocated(self.device)
            else:
                command = [sys.executable, '-m', 'benchmarks.queries', *arguments, '-measure', path, case]
                peak[path] = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-1])
        for _ in range(repeats):
            for path in paths:
                elapsed, outputs[path] = self.time(paths[path])
                seconds[path].append(elapsed)
        medians = {path: statistics.median(values) for path, values in seconds.items()}
        floor = self.multiply_adds(side, scale) / self.rate
        return {'side': side, 'scale': scale, 'plain_seconds': medians['plain'], 'fast_seconds': medians['fast'],
                'ratio': medians['plain'] / medians['fast'], 'floor_seconds': floor,
                'share_of_floor': floor / medians['fast'], 'plain_peak_bytes': peak['plain'],
                'fast_peak_bytes': peak['fast'], 'output_megapixels': round(scale * side) ** 2 / 1e6,
                'largest_difference': (outputs['plain'] - outputs['fast']).abs().max().item()}

    def matmul_rate(self) -> float:
        """Multiply-adds per second of large matrix products in this precision."""
        self.rate = matmul_rate(lambda product: self.time(product)[0], self.device)
        return self.rate

    def multiply_adds(self, side: int, scale: float) -> float:
        """Of the fast path for a side × side image, convolutions counted as direct ones, small terms left out."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            plain.encode(self.plain, torch.zeros(1, 3, 32, 32, device=self.device))
        encode = counter.get_total_flops() / 2 / 32 ** 2 * side ** 2
        mssa, layers = self.fast.mssa, [layer for layer in self.fast.imnet.layers if hasattr(layer, 'weight')]
        keys, (width, inputs) = (2 * mssa.radius + 1) ** 2, layers[0].weight.shape
        rest = sum(layer.weight.numel() for layer in layers[1:])
        nearest = nearest_index(pixel_centres(round(scale * side)), side)
        counts = Counter(Counter(nearest.tolist()).values())  # of LR lines by their number of output lines
        decode = 0
        for m, lines in counts.items():
            for n, columns in counts.items():
                own, shared = m * n * inputs * width, inputs * width + m * n * keys * mssa.heads * width
                logits = 9 * self.fast.attended + m * n * 9 * keys * mssa.heads
                decode += lines * columns * ((own if m * n == 1 else shared) + logits + m * n * rest)
        return encode + decode

    def compare_training(self, batch: int, repeats: int) -> dict:
        """Medians of a training step (forward, loss, backward) on random samples."""
        generator = torch.Generator().manual_seed(0)
        lr = torch.rand(batch, 3, 48, 48, generator=generator).to(self.device)
        coord = torch.rand(batch, QUERIES, 2, generator=generator, dtype=torch.float64).to(self.device) * 2 - 1
        cell = torch.full((batch, 2), 2 / 120, dtype=torch.float64, device=self.device)

        def step(path: str) -> None:
            model = getattr(self, path).train()
            x = model.normalise_lr(lr)
            rgb = model.query(model.encode(x), coord, cell) if path == 'fast' else \
                plain.query(model, plain.encode(model, x), coord, cell)
            with torch.autocast(self.device.type, enabled=False):
                F.l1_loss(rgb.float(), torch.zeros_like(rgb, dtype=torch.float32)).backward()
            model.zero_grad(set_to_none=True)

        seconds, peak = {'plain': [], 'fast': []}, {}
        for turn in range(repeats + 1):
            for path in seconds:
                if self.device.type == 'cuda':
                    torch.cuda.reset_peak_memory_stats(self.device)
                elapsed = self.time(partial(step, path))[0]
                if self.device.type == 'cuda':
                    peak[f'{path}_peak_bytes'] = torch.cuda.max_memory_allocated(self.device)
                if turn:
                    seconds[path].append(elapsed)
        medians = {path: statistics.median(values) for path, values in seconds.items()}
        return {'batch': batch, 'plain_seconds': medians['plain'], 'fast_seconds': medians['fast'],
                'ratio': medians['plain'] / medians['fast'], **peak}


def operators(function: Callable[[], object], device: torch.device) -> str:
    """A table of the operators of a call by the time that they take themselves. The call is made twice, first to warm up."""
    function()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == 'cuda' else [])]
    with profile(activities=kinds) as found:
        function()
    key = 'self_cuda_time_total' if device.type == 'cuda' else 'self_cpu_time_total'
    return found.key_averages().table(sort_by=key, row_limit=16, max_name_column_width=40)


def matmul_rate(seconds: Callable[[Callable[[], object]], float], device: torch.device) -> float:
    """Multiply-adds per second of large matrix products; `seconds` times a call, in the precision that counts."""
    size = 8192 if device.type == 'cuda' else 1024
    a, b = torch.rand(2, size, size, device=device)
    return size ** 3 / statistics.median([seconds(lambda: a @ b) for _ in range(15)][5:])


def peak_resident() -> int:
    """The most main memory that this process has held, in bytes."""
    status = Path('/proc/self/status')
    if status.is_file():  # where getrusage counts what the parent held as well
        return int(status.read_text().split('VmHWM:')[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def parse_case(case: str) -> tuple[int, float]:
    """'96x3.3' → (96, 3.3)."""
    side, _, scale = case.partition('x')
    return whole_number(1, 4096)(side), real_number(1, 100)(scale)


def checked_case(text: str) -> str:
    """The type of an option that holds what `parse_case` reads."""
    parse_case(text)
    return text


def describe(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}'


def table(rows: list[dict]) -> str:
    lines = ['| LR | scale | plain (s) | fast (s) | ratio | floor (s) | of floor | peak plain / fast (MiB) | difference |',
             '|---:|---:|---:|---:|---:|---:|---:|---:|---:|']
    lines += ['| {side}² | ×{scale:g} | {plain_seconds:.2f} | {fast_seconds:.2f} | {ratio:.1f} | {floor_seconds:.2f} '
              '| {share_of_floor:.0%} | {0:.0f} / {1:.0f} | {largest_difference:.0e} |'.format(
                  row['plain_peak_bytes'] / 2 ** 20, row['fast_peak_bytes'] / 2 ** 20, **row) for row in rows]
    return '\n'.join(lines)


def draw(results: dict, path: Path) -> None:
    """Time per output megapixel against scale, a line for each path and LR size."""
    figure, (axes,) = look.new_plots(look.WIDTHS['page'], 4.5)
    for side, marker in zip(sorted({row['side'] for row in results['upscale']}), 'os^dv'):
        rows = sorted((row for row in results['upscale'] if row['side'] == side), key=lambda row: row['scale'])
        scales = [row['scale'] for row in rows]
        for label, colour in (('plain', 'tab:red'), ('fast', 'tab:blue'), ('floor', 'tab:gray')):
            axes.plot(scales, [row[f'{label}_seconds'] / row['output_megapixels'] for row in rows], marker=marker,
                      color=colour, linestyle=':' if label == 'floor' else '-', label=f'{label}, {side}×{side} LR')
    axes.set(xscale='log', yscale='log', xlabel='scale', ylabel='seconds per output megapixel')
    axes.set_title(f"{results['machine']}, {results['precision']}", fontsize=9)
    scales = sorted({row['scale'] for row in results['upscale']})
    axes.set_xticks(scales, [f'×{scale:g}' for scale in scales], minor=False)
    axes.minorticks_off()
    look.plain_ticks(axes.yaxis)
    axes.legend()
    look.save(figure, path)


if __name__ == '__main__':
    run(main)
