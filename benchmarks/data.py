"""Training samples per second: the store of decoded images against decoding a whole image for every crop.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.data -output data.json

Images of DIV2K's size are made for the purpose, in a temporary folder. Samples are those of the faithful configs: LR crops
of 48×48, s ~ U(1, 4), 2304 queries, batches of 32. Both ways cut the same samples, in turns; all files are in the system's
cache, so reading from a disk is not part of either. Then a config is trained on crops of these images for some batches:
what share of its steps is waiting for data?
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import contextlib
import cProfile
import io
import json
import os
import platform
import pstats
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

import datasets
from common.cli import Parser, choose_device, run
from common.ranges import whole_number, whole_numbers
from datasets.sampling import DrawSampler
from engine.config import TRAIN_KEYS, load_config
from engine.training.record import Pace
from engine.training.trainer import Trainer
from utils import check_output, write_text

CONFIG = Path(__file__).resolve().parent.parent / 'configs/train/train_msit_s.yaml'
BATCH_SIZE = 32
WARM = 10  # steps that are not timed: a compiled network is compiled more than once in the first of them
BATCHES = {'none': 2, 'mapped': 64}  # of a timed epoch: about a second or two each


def main() -> None:
    parser = Parser(description='Times training samples cut from decoded images and from whole ones decoded each time.')
    parser.option('output', metavar='FILE', help='where to write the numbers as JSON')
    parser.option('images', type=whole_number(1, 10 ** 6), default=8, metavar='N', help='how many to make (default: 8)')
    parser.option('size', type=whole_numbers(192, 2 ** 15, 2), default=[1356, 2040], metavar='H,W',
                  help='of each, pixels (default: 1356,2040)')
    parser.option('workers', type=whole_numbers(0, 1024), default=[0, 1, 2], metavar='N,N',
                  help="numbers of a data loader's workers (default: 0,1,2)")
    parser.option('repeats', type=whole_number(1, 10 ** 6), default=7, metavar='N',
                  help='timed epochs, whose median counts (default: 7)')
    parser.option('config', default=CONFIG, metavar='FILE', help='whose training steps wait (default: train_msit_s.yaml)')
    parser.option('steps', type=whole_number(0, 10 ** 6), default=20, metavar='N',
                  help='timed training steps (default: 20; 0 leaves them out)')
    parser.option('profile', action='store_true', help='also show what a sample from the store costs, function by function')
    parser.device_options()
    options = parser.parse_args()
    device = choose_device(options)
    if options.output:
        check_output(options.output, ('.json',))
    height, width = options.size

    with tempfile.TemporaryDirectory() as folder:
        png_bytes = make_images(Path(folder) / 'images', options.images, height, width)
        started = time.perf_counter()
        stores = {cache: make_dataset(Path(folder), cache) for cache in BATCHES}
        build_seconds = time.perf_counter() - started
        rows = [measure(stores, count, options.repeats) for count in options.workers]
        steps = [{'workers': count, **{cache: time_steps(options.config, Path(folder), cache, count, options.steps, device)
                                       for cache in stores}} for count in options.workers if options.steps]
        if options.profile:
            show_profile(stores['mapped'])
    results = {
        'machine': {'processor': platform.processor() or platform.machine(), 'cores': usable_cores(),
                    'torch': torch.__version__, 'numpy': np.__version__, 'pillow': PIL.__version__},
        'images': {'count': options.images, 'size': [height, width], 'png_bytes': png_bytes,
                     'build_seconds': build_seconds},
        'rows': rows, 'steps': steps, 'config': str(options.config), 'device': str(device),
    }
    print(f'{options.images} images of {height}x{width}, {png_bytes / options.images / 1e6:.2f} MB each as PNG; '
          f'{results["machine"]["cores"]} core(s); medians of {options.repeats}')
    print(format_table(rows))
    if steps:
        print(f'\ntraining steps of {Path(options.config).name} on {device}:\n{format_steps(steps)}')
    if options.output:
        write_text(options.output, json.dumps(results, indent=1) + '\n')


def make_images(folder: Path, count: int, height: int, width: int) -> int:
    """Writes PNG images of soft shapes of every size and a camera's noise; returns their bytes in all.

    They take 1.6 bytes a pixel, as DIV2K's do, and so cost as much to decode.
    """
    folder.mkdir()
    for number in tqdm(range(count), 'making images', disable=None, leave=False):
        rng = np.random.default_rng(number)
        image = 128 + rng.normal(0, 3, (height, width, 3))
        for cell in (4, 16, 64, 256, 1024):
            grid = rng.normal(0, 60 * (cell / 1024) ** 0.5, (3, height // cell + 2, width // cell + 2)).astype(np.float32)
            shapes = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in grid]
            image += np.stack(shapes, -1)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f'{number}.png')
    return sum(file.stat().st_size for file in folder.iterdir())


def folder_spec(cache: str) -> dict:
    """The images, below the temporary data root."""
    return {'name': 'image-folder', 'args': {'root_path': 'images', 'cache': cache}}


def make_dataset(data_root: Path, cache: str):
    """The faithful configs' samples, from the images below `data_root`."""
    return datasets.make({
        'dataset': folder_spec(cache),
        'wrapper': {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 48, 'scale_min': 1, 'scale_max': 4,
                                                                'augment': True, 'sample_q': 2304}},
    }, data_root)


def measure(stores: dict, workers: int, repeats: int) -> dict:
    """Samples per second of each way with this many workers, medians over epochs timed in turns."""
    loaders = {cache: DataLoader(dataset, batch_sampler=DrawSampler(dataset, BATCH_SIZE, BATCHES[cache], seed=0),
                                 num_workers=workers, persistent_workers=workers > 0) for cache, dataset in stores.items()}
    rates = {cache: [] for cache in stores}
    for repeat in tqdm(range(repeats + 1), f'{workers} workers', disable=None, leave=False):
        for cache, loader in loaders.items():
            started = time.perf_counter()
            samples = sum(len(batch['inp']) for batch in loader)
            if repeat > 0:  # the first epoch starts the workers
                rates[cache].append(samples / (time.perf_counter() - started))
    medians = {cache: statistics.median(values) for cache, values in rates.items()}
    return {'workers': workers, 'samples_per_second': medians, 'ratio': medians['mapped'] / medians['none'],
            'samples_per_second_per_worker': {cache: value / max(workers, 1) for cache, value in medians.items()},
            'all': rates}


def time_steps(config: str | Path, folder: Path, cache: str, workers: int, count: int, device: torch.device) -> dict:
    """Mean seconds of a training step of the config, and of waiting for its data, on crops of the images."""
    config = load_config(config, TRAIN_KEYS)
    config['train_dataset'] |= {'dataset': folder_spec(cache), 'num_workers': workers, 'epoch_batches': WARM + count}
    config.pop('val_dataset', None)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(config=config, folder=folder / f'{cache}-{workers}', data_root=folder, device=device)
    trainer.state.model.train()
    pace = Pace()
    for sample in tqdm(pace.timed(trainer.loader), f'steps, {workers} workers', WARM + count, disable=None, leave=False):
        trainer.train_step(sample)
        if trainer.state.iteration == WARM:
            float(trainer.state.loss_sum)  # waits for the device
            pace.lap()
    float(trainer.state.loss_sum)
    seconds = pace.lap()
    trainer.record.close()
    return {'step': seconds['time/step'], 'waiting': seconds['time/data']}


def show_profile(dataset) -> None:
    """Prints which functions the time of a sample from the store goes to, measured in this process."""
    draws = [draw for batch in DrawSampler(dataset, BATCH_SIZE, BATCHES['mapped'], seed=0) for draw in batch]
    with cProfile.Profile() as profile:
        for draw in draws:
            dataset[draw]
    print(f'{len(draws)} samples:')
    pstats.Stats(profile).strip_dirs().sort_stats('tottime').print_stats(14)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def format_table(rows: list[dict]) -> str:
    """The result rows as a Markdown table."""
    lines = ['| workers | decoding each time (samples/s per worker) | store (samples/s per worker) | ratio |',
             '|---:|---:|---:|---:|']
    for row in rows:
        rate = row['samples_per_second_per_worker']
        lines.append(f'| {row["workers"]} | {rate["none"]:.1f} | {rate["mapped"]:.0f} | {row["ratio"]:.1f} |')
    return '\n'.join(lines)


def format_steps(rows: list[dict]) -> str:
    """The steps as a Markdown table."""
    lines = ['| workers | decoding each time: step (s), waiting | store: step (s), waiting |', '|---:|---:|---:|']
    for row in rows:
        cells = [f'{row[cache]["step"]:.3f}, {row[cache]["waiting"] / row[cache]["step"]:.1%}' for cache in BATCHES]
        lines.append(f'| {row["workers"]} | {cells[0]} | {cells[1]} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    run(main)
