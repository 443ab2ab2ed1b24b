"""Times the forms of MSC's convolutions: python -m benchmarks.convolutions

`direct` and `direct, channels last` are PyTorch's convolution in its two memory layouts, `spectra` is fft_conv2d of
models/msit/conv.py. A form that takes ten times as long as the quickest one forward is not timed backward.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.cli import Parser, choose_device, run
from common.ranges import whole_number
from models.msit.conv import fft_conv2d

FORMS = {'direct': lambda *args: F.conv2d(*args, padding='same'), 'spectra': fft_conv2d}


def main() -> None:
    parser = Parser(description='Times direct convolutions and products of spectra for the kernel sizes of MSC.')
    parser.option('batch', type=whole_number(1, 4096), default=4, metavar='N', help='images (default: 4)')
    parser.option('side', type=whole_number(1, 4096), default=48, metavar='N', help='of the images, in pixels (default: 48)')
    parser.option('channels', type=whole_number(1, 4096), default=16, metavar='N', help='in and out (default: 16)')
    parser.option('sizes', type=whole_number(1, 255), nargs='+', default=[3, 9, 13, 15, 17, 21, 25, 33], metavar='K',
                  help='kernel sizes')
    parser.option('repeats', type=whole_number(1, 10 ** 6), default=3, metavar='N',
                  help='timed runs of each form (default: 3)')
    parser.device_options()
    options = parser.parse_args()
    device = choose_device(options)

    print('milliseconds, forward / forward and backward\n')
    print('| k | direct | direct, channels last | spectra | largest difference |\n|---:|---:|---:|---:|---:|')
    for size in options.sizes:
        shape = (options.batch, options.channels, options.side, options.side)
        x = torch.randn(shape, device=device)
        weight = torch.randn(options.channels, options.channels, size, size, device=device) / size / options.channels ** 0.5
        bias = torch.randn(options.channels, device=device)
        inputs = {'direct': x, 'direct, channels last': x.contiguous(memory_format=torch.channels_last), 'spectra': x}
        calls = {name: (FORMS[name.split(',')[0]], (source, weight, bias)) for name, source in inputs.items()}
        forward = {name: milliseconds(lambda f=f, a=a: f(*a), options.repeats, device) for name, (f, a) in calls.items()}
        both = {name: milliseconds(lambda f=f, a=a: step(f, *a), options.repeats, device)
                if forward[name] < 10 * min(forward.values()) else None for name, (f, a) in calls.items()}
        cells = [f'{forward[name]:.1f} / {both[name]:.1f}' if both[name] else f'{forward[name]:.1f} / —' for name in calls]
        difference = (FORMS['direct'](x, weight, bias) - fft_conv2d(x, weight, bias)).abs().max().item()
        print(f"| {size} | {' | '.join(cells)} | {difference:.0e} |", flush=True)


def step(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> None:
    x, weight, bias = (tensor.detach().requires_grad_() for tensor in (x, weight, bias))
    convolve(x, weight, bias).sum().backward()


def milliseconds(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median time of a call, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:])


if __name__ == '__main__':
    run(main)
