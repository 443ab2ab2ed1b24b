"""Times views of 512×512 pixels of an encoded image: python -m benchmarks.views

Each is the middle of the image at one scale, and is rendered several times; the best time counts. The seconds of all cores
together depend less on what else the machine does. Encoding is that of the regions that the view needs.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import time
from collections.abc import Callable
from pathlib import Path

import torch

import models
from common.cli import Parser, choose_device, run
from common.ranges import real_number, whole_number
from engine.windows import LATENT_MEMORY, Window, WindowedImage, check_windows, read_for_screen
from models.latents import LatentCache

IMAGE = Path(__file__).resolve().parent.parent / 'assets/harbour_original.png'
SIDE = 512  # of a view
SCALES = (1.25, 2.0, 4.0, 8.0, 16.0, 30.0)


def main() -> None:
    parser = Parser(description='Times views of an encoded image; prints a table.')
    parser.option('model', default='MSIT-S', metavar='FILE', help='as of demo.py')
    parser.option('scales', nargs='+', type=real_number(1, 1000), default=SCALES, metavar='S',
                  help='output pixels per LR pixel')
    parser.option('repeats', type=whole_number(1, 1000), default=3, metavar='N', help='of each view (default: 3)')
    parser.device_options()
    options = parser.parse_args()
    model = models.load(options.model, choose_device(options))
    check_windows(model, f'-model {options.model}')
    image = WindowedImage(model=model, rgb=read_for_screen(IMAGE), cache=LatentCache(memory=LATENT_MEMORY))
    print(f'{options.model}, {torch.get_num_threads()} threads, view of {SIDE}x{SIDE}\n')
    print('| scale | view, s | of all cores, s | encoding, s |\n|---:|---:|---:|---:|')
    for scale in sorted(options.scales, reverse=True):  # each needs more regions than the one before
        window = middle(image, scale)
        encoding, _ = seconds(lambda window=window: [image.encode(region) for region in image.regions(window, (SIDE, SIDE))])
        runs = [seconds(lambda window=window: image.render(window, (SIDE, SIDE))) for _ in range(options.repeats)]
        view, cores = map(min, zip(*runs))
        print(f'| {scale:g} | {view:.2f} | {cores:.2f} | {encoding:.1f} |', flush=True)


def middle(image: WindowedImage, scale: float) -> Window:
    """The window that a view in the middle of the image shows at a scale."""
    half = min(SIDE / scale, image.height, image.width) / 2
    y, x = image.height / 2, image.width / 2
    return Window(y - half, x - half, y + half, x + half)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock time, and that of all cores together."""
    wall, cores = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cores


if __name__ == '__main__':
    run(main)
