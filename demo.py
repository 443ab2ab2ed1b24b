"""Upscales an image to any size: python demo.py -input a.png -scale 3.5 -output b.png

Without arguments it upscales the bundled sample with the bundled weights.
"""
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

import models
from common.arrays import to_tensor
from common.cli import Parser, choose_device, run
from imaging.reading import SUFFIXES, list_images, open_image, to_rgb
from imaging.writing import save_image, to_image
from models.sr_model import SRModel
from utils import UserError

HERE = Path(__file__).resolve().parent
OUTPUT = Path('output')
MAX_PIXELS = 2 ** 30


def main() -> None:
    parser = Parser(description='Upscales an image, or every image of a folder, to any size.')
    parser.option('input', default=HERE / 'assets/harbour.png', metavar='PATH',
                  help='an image or a folder of images (default: the bundled sample)')
    parser.option('model', default='MSIT-S', metavar='FILE',
                  help="a checkpoint, the name of weights in modelzoo/, or 'bicubic' (default: %(default)s)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument('-scale', '--scale', default='4', metavar='S|SY,SX',
                      help='factor ≥ 1, or one for the height and one for the width (default: 4)')
    size.add_argument('-resolution', '--resolution', metavar='H,W', help='exact height and width in pixels')
    parser.option('output', type=Path, metavar='PATH',
                  help='image to write, or folder when the input is one (default: output/)')
    parser.memory_option()
    parser.option('halo', type=int, metavar='N',
                  help='LR pixels that the encoder looks at around each part of an image too large for the memory; fewer '
                       'than it can see save time, and the error is measured (default: all, no error)')
    parser.device_options()
    parser.kernels_option()
    options = parser.parse_args()

    source = Path(options.input)
    scale, resolution = parse_scale(options.scale), parse_resolution(options.resolution)
    if options.halo is not None and options.halo < 0:
        raise UserError(f'-halo {options.halo}: expected a number of pixels, 0 or more')
    jobs = plan(source, options.output)
    model = models.load(options.model, choose_device(options)).use_kernels(not options.no_kernels)
    broken = 0
    for job in tqdm(jobs, 'upscaling', disable=None if len(jobs) > 1 else True, leave=False):
        try:
            upscale_file(model, job, scale, resolution, options.memory, options.halo)
        except UserError as error:
            if not source.is_dir():
                raise
            broken += 1
            tqdm.write(f'skipped: {error}', file=sys.stderr)
    if broken:
        raise UserError(f'{source}: {broken} of {len(jobs)} images could not be upscaled, see above; the others are done')


class Job(NamedTuple):
    """An image file and the file to write; without a `target` it goes to OUTPUT as NAME_HxW.png."""
    file: Path
    target: Path | None
    name: str


def plan(source: Path, output: Path | None) -> list[Job]:
    """What to do for one image, or for every image of a folder. Raises UserError when it cannot be written there."""
    if source.is_dir():
        folder = output or OUTPUT
        if folder.exists() and not folder.is_dir():
            raise UserError(f'{folder}: is a file, but the input is a folder; name a folder for the output')
        if folder.resolve() == source.resolve():
            raise UserError(f'{folder}: is the input folder itself; name another one for the output')
        files = list_images(source)
        stems = Counter(file.stem for file in files)
        names = {file: file.stem if stems[file.stem] == 1 else file.name for file in files}  # a.png beside a.jpg
        return [Job(file, output / f'{names[file]}.png' if output else None, names[file]) for file in files]
    if not source.is_file():
        raise UserError(f'{source}: no such image or folder')
    if output is not None and output.is_dir():
        output = output / f'{source.stem}.png'
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise UserError(f"{output}: '{output.suffix}' is no image format to write, expected {', '.join(sorted(SUFFIXES))}")
    return [Job(source, output, source.stem)]


def upscale_file(model: SRModel, job: Job, scale: tuple[float, float], resolution: tuple[int, int] | None,
                 memory: int | None, halo: int | None) -> None:
    """Upscales one image file, transparency (by bicubic) included, and says so in a line."""
    image = open_image(job.file)
    lr = to_tensor(to_rgb(image)).unsqueeze(0)                                       # (1, 3, H, W)
    height, width = lr.shape[2:]
    size = resolution or (round(height * scale[0]), round(width * scale[1]))
    if size[0] * size[1] > MAX_PIXELS:
        option = '-resolution' if resolution else '-scale'
        raise UserError(f'{option}: {job.file} would become {size[0]}x{size[1]}, more than {MAX_PIXELS:,} pixels')
    start = time.perf_counter()
    lr = lr.to(model.inp_sub.device)
    with tqdm(total=100, desc=job.name, unit='%', disable=None, leave=False) as bar:
        upscaled = to_image(model.upscale(lr, size, memory, halo, lambda share: bar.update(100 * share - bar.n))[0])
    target = job.target or OUTPUT / f'{job.name}_{size[0]}x{size[1]}.png'
    if image.has_transparency_data and target.suffix.lower() in ('.png', '.webp', '.tif', '.tiff'):
        alpha = image.convert('RGBA').getchannel('A')
        upscaled.putalpha(alpha.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    save_image(upscaled, target)
    seconds = time.perf_counter() - start
    tqdm.write(f'{job.file} ({height}x{width}) -> {target} ({size[0]}x{size[1]}) in {seconds:.1f} s')
    if halo is not None:
        error = model.halo_error(lr, size, halo, memory)
        tqdm.write(f'{job.file}: what a halo of {halo} pixels changes is unknown: too little memory' if error is None else
                   f'{job.file}: a halo of {halo} pixels changes the part in the middle by {255 * error:.3g} of 255 at most')


def parse_scale(text: str) -> tuple[float, float]:
    """'3.5' or '2,3.5' (height, width) → two finite factors of at least 1."""
    try:
        factors = [float(part) for part in text.split(',')]
    except ValueError:
        factors = []
    if len(factors) not in (1, 2) or not all(math.isfinite(factor) and factor >= 1 for factor in factors):
        raise UserError(f'-scale {text}: expected one factor of at least 1, such as 3.5, or two, height,width')
    return factors[0], factors[-1]


def parse_resolution(text: str | None) -> tuple[int, int] | None:
    """'480,640' → (480, 640): positive whole numbers."""
    if text is None:
        return None
    parts = text.split(',')
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f'-resolution {text}: expected height,width in pixels, two whole numbers above 0, such as 480,640')
    return int(parts[0]), int(parts[1])


if __name__ == '__main__':
    run(main)
