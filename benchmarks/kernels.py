"""Times the GPU kernels of MSSA's queries against plain PyTorch: python -m benchmarks.kernels

Both compute the products of queries and keys, the weighted values times the decoder's first layer, and all gradients, for
the queries of a training batch of the paper's network. Without a GPU there are no kernels, and plain PyTorch is timed alone.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import json
import statistics
from pathlib import Path

import torch

from benchmarks.queries import QUERIES, describe
from benchmarks.steps import seconds
from common.cli import Parser, choose_device, run
from common.ranges import whole_number
from models.msit import fused
from utils import check_output, is_out_of_memory, write_text

SIDE = 48 + 2 * 3  # of the maps of a sample, with their padding


def main() -> None:
    parser = Parser(prog='python -m benchmarks.kernels',
                    description="Times MSSA's GPU kernels; prints a table, writes JSON.")
    parser.option('batch', type=whole_number(1, 4096), default=4, metavar='N', help='samples (default: 4)')
    parser.option('channels', type=whole_number(8, 4096), default=256, metavar='N', help='a multiple of 8 (default: 256)')
    parser.option('precisions', nargs='+', choices=('float32', 'bfloat16', 'float16'), default=['float32', 'bfloat16'],
                  metavar='NAME', help='(default: float32 bfloat16)')
    parser.option('repeats', type=whole_number(1, 10 ** 6), default=5, metavar='N', help='timed calls (default: 5)')
    parser.option('output', type=Path, default=Path('output/kernels.json'), metavar='FILE',
                  help='(default: output/kernels.json)')
    parser.device_options()
    options = parser.parse_args()
    check_output(options.output, ('.json',))
    device = choose_device(options)
    case = fused.CASE._replace(queries=options.batch * QUERIES, rows=options.batch * SIDE ** 2, channels=options.channels)
    rows = [measure(case, device, getattr(torch, name), options.repeats) for name in options.precisions]
    results = {'machine': describe(device), 'batch': options.batch, 'rows': rows}
    print(report(results))
    write_text(options.output, json.dumps(results, indent=1) + '\n')


def measure(case: fused.Case, device: torch.device, dtype: torch.dtype, repeats: int) -> dict:
    """Median seconds of both, forward and all gradients; None for kernels that are off, and where memory is too short."""
    inputs, rows, grads = fused.example(case, device, dtype)
    row = {'precision': str(dtype).removeprefix('torch.'), 'kernels': None, 'plain': None}
    for name, compute in (('kernels', fused.fused_results), ('plain', fused.plain_results)):
        if name == 'plain' or fused.usable(device, dtype):
            try:
                times = [seconds(lambda compute=compute: fused.results(compute, inputs, rows, grads, None), device)
                         for _ in range(repeats + 1)]
                row[name] = statistics.median(times[1:])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
    return row


def report(results: dict) -> str:
    """The rows as a Markdown table."""
    lines = [f"queries of a batch of {results['batch']}, {results['machine']}\n",
             '| precision | plain (s) | kernels (s) | ratio |', '|---|---:|---:|---:|']
    for row in results['rows']:
        plain, kernels = (f'{row[name]:.4f}' if row[name] else '—' for name in ('plain', 'kernels'))
        ratio = f"{row['plain'] / row['kernels']:.1f}" if row['plain'] and row['kernels'] else '—'
        lines.append(f"| {row['precision']} | {plain} | {kernels} | {ratio} |")
    return '\n'.join(lines)


if __name__ == '__main__':
    run(main)
