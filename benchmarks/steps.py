"""Times training steps, and their parts, on random samples: python -m benchmarks.steps -batch 8

A step is the trainer's own: forward, loss, backward, optimiser, average of the weights. Its parts are timed in other steps,
waiting for the device in between. The floor is the counted multiply-adds of convolutions and matrix products, backward
included, at the rate of matrix products in the same run; spectra are not counted. The memory-bound share is the time that
the bytes which operators read and write take, at the bandwidth that a copy of a large tensor reaches in the same run; the
kernels of models/msit/fused.py count as the tensors that they read and write. The hours are those of the config's whole
schedule, without data and validation. -profile lists the operators of a step.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.queries import describe, matmul_rate, operators
from common.cli import Parser, choose_device, run
from common.ranges import whole_number
from engine.config import TRAIN_KEYS, load_config
from engine.distributed import ALONE
from engine.training.build import build_model, build_network
from engine.training.state import RunState
from engine.training.step import DTYPES, TrainingStep
from models.contract import SRModel
from utils import ROOT, check_output, is_out_of_memory, write_text

CONFIG = ROOT / 'configs/train/train_edsr_baseline_MsIT.yaml'
PARTS = ('forward', 'backward', 'optimiser')
COPIED = {'cuda': 2 ** 30, 'cpu': 2 ** 28}  # bytes of the tensor whose copy shows the bandwidth: far more than caches hold
ITERATIONS = 2 ** 40  # of an epoch that does not end


def main() -> None:
    options = read_options()
    check_output(options.output, ('.json',))
    device = choose_device(options)
    bandwidth = copy_bandwidth(device)
    results: dict[str, Any] = {'machine': describe(device), 'config': Path(options.config).stem, 'batch': options.batch,
                               'bandwidth': bandwidth, 'rows': []}
    for precision in options.precisions:
        for kernels in (True, False) if device.type == 'cuda' else (False,):
            settings = [f'precision={precision}', f'fused={str(kernels).lower()}', *options.set]
            config = load_config(options.config, TRAIN_KEYS, settings)
            row = {'precision': precision, 'kernels': kernels, **measure(config, device, options.batch, options.repeats)}
            results['rows'].append(row)
            if options.profile:
                step, sample = make_step(config, device, options.batch)
                print(operators(lambda step=step, sample=sample: step(sample), device))
    print(report(results))
    write_text(options.output, json.dumps(results, indent=1) + '\n')


def read_options() -> argparse.Namespace:
    parser = Parser(prog='python -m benchmarks.steps', description='Times training steps; prints a table, writes JSON.')
    parser.option('config', default=str(CONFIG), metavar='FILE', help='(default: train_edsr_baseline_MsIT.yaml)')
    parser.config_options()
    parser.option('batch', type=whole_number(1, 4096), default=4, metavar='N', help='samples (default: 4)')
    parser.option('precisions', nargs='+', choices=tuple(DTYPES), default=['float32'], metavar='NAME',
                  help=f"of {', '.join(DTYPES)} (default: float32)")
    parser.option('repeats', type=whole_number(1, 10 ** 6), default=5, metavar='N', help='timed steps (default: 5)')
    parser.option('profile', action='store_true', help='also show which operators the time of a step goes to')
    parser.option('output', type=Path, default=Path('output/steps.json'), metavar='FILE',
                  help='(default: output/steps.json)')
    parser.device_options()
    return parser.parse_args()


def measure(config: dict, device: torch.device, batch: int, repeats: int) -> dict:
    """A row of the table; of a step that needs too much memory 'failed' alone."""
    try:
        step, sample = make_step(config, device, batch)
        step(sample)  # warms up: libraries, and the optimiser's averages
        with Traffic() as traffic, FlopCounterMode(display=False) as counter:
            step(sample)
        rate = matmul_rate(lambda product: seconds(lambda: autocast(step, product), device), device)
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(device)
        parts = [time_parts(step, sample) for _ in range(repeats)]
        whole = [seconds(lambda: step(sample), device) for _ in range(repeats)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {'failed': 'out of memory'}
    median = statistics.median(whole)
    iterations = config['epoch_max'] * config['train_dataset'].get('epoch_batches', 0)
    return {'seconds': median, 'all': whole, 'bytes': traffic.bytes, 'multiply_adds': counter.get_total_flops() // 2,
            'floor': counter.get_total_flops() / 2 / rate, 'hours': iterations * median / 3600,
            'parts': {name: statistics.median(part[name] for part in parts) for name in PARTS},
            'peak_bytes': torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else None}


def make_step(config: dict, device: torch.device, batch: int) -> tuple[TrainingStep, dict[str, Tensor]]:
    """The training step of a config, with random weights, and a batch of noise."""
    torch.manual_seed(0)
    model = build_model(config, device, ALONE, None)[0]
    return step_of(model, config, device, batch), noise_batch(config, device, batch)


def step_of(model: SRModel, config: dict, device: torch.device, batch: int) -> TrainingStep:
    """The training step of a config for a model on its device, in an epoch that does not end."""
    state = RunState(config=config, model=model.train(), device=device, epoch_iterations=ITERATIONS)
    sampler: Any = SimpleNamespace(batch_samples=lambda number: batch, share=lambda number: batch)
    network = build_network(config, model, ALONE)
    return TrainingStep(config=config, state=state, network=network, sampler=sampler, world=ALONE)


def noise_batch(config: dict, device: torch.device, batch: int) -> dict[str, Tensor]:
    """A batch of the shapes of a config, on the host as a data loader gives it: in pinned memory where it is for a GPU."""
    args = config['train_dataset']['wrapper']['args']
    side, queries = args.get('inp_size', 48), args.get('sample_q') or args.get('inp_size', 48) ** 2
    sample = {'inp': torch.rand(batch, 3, side, side), 'coord': torch.rand(batch, queries, 2, dtype=torch.float64) * 2 - 1,
              'cell': torch.full((batch, 2), 0.8 / side, dtype=torch.float64), 'gt': torch.rand(batch, queries, 3),
              'lowered': torch.zeros(batch, dtype=torch.bool)}
    return {key: value.pin_memory() if device.type == 'cuda' else value for key, value in sample.items()}


def time_parts(step: TrainingStep, sample: dict[str, Tensor]) -> dict[str, float]:
    """Seconds of the loss of a batch, of its gradients, and of the update of the weights."""
    state, device = step.state, step.state.device
    losses: list[Tensor] = []
    (part, _), = step.micro_batches(sample) if step.parts == 1 else [next(step.micro_batches(sample))]
    state.optimizer.zero_grad(set_to_none=True)
    times = {'forward': seconds(lambda: losses.append(step.part_loss(part)), device),
             'backward': seconds(lambda: state.scaler.scale(losses[0]).backward(), device)}

    def update() -> None:
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average:
            state.average.update(state.model)
    return {**times, 'optimiser': seconds(update, device)}


def autocast(step: TrainingStep, function: Callable[[], object]) -> object:
    """A call in the precision of a step."""
    with torch.autocast(step.state.device.type, step.dtype, enabled=step.dtype != torch.float32):
        return function()


class Traffic(TorchDispatchMode):
    """Counts the bytes of tensors that operators read and write; views move none.

    Attributes:
        bytes: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            tensors = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return result


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy of a large tensor."""
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median([seconds(lambda: target.copy_(source), device) for _ in range(7)][2:])


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Of a call, the device's work included."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def report(results: dict) -> str:
    """The rows as a Markdown table."""
    heads = ('precision', 'kernels', 'step (s)', *PARTS, 'floor', 'memory-bound', 'peak (GiB)', 'schedule (h)')
    lines = [f"training step of {results['config']}, batch {results['batch']}, {results['machine']}; a copy moves "
             f"{results['bandwidth'] / 1e9:.0f} GB/s\n", f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * 8}"]
    for row in results['rows']:
        start = f"| {row['precision']} | {'yes' if row['kernels'] else 'no'} | "
        if 'failed' in row:
            lines.append(f"{start}{row['failed']} | | | | | | | |")
            continue
        floor, memory = (bound / row['seconds'] for bound in (row['floor'], row['bytes'] / results['bandwidth']))
        peak = f"{row['peak_bytes'] / 2 ** 30:.1f}" if row['peak_bytes'] else '—'
        parts = ' | '.join(f"{row['parts'][name]:.4f}" for name in PARTS)
        lines.append(f"{start}{row['seconds']:.4f} | {parts} | {floor:.0%} | {memory:.0%} | {peak} | {row['hours']:.1f} |")
    return '\n'.join(lines)


if __name__ == '__main__':
    run(main)
