"""Upscaling within a memory budget: an image of any size, or a window of one. Read it from top to bottom.

    upscale_parts:   image → LR batch → regions that fit → for each: encode → bands of the output → `write`
    upscale_image:   the same, written into one tensor
    encode_image and render_window:   image → latents, once;   latents → bands of any window at any size

A region is encoded with the margin that its outputs depend on, so they are those of the whole image, to rounding. The size
of regions follows from the options and from the measured bytes of the model's tensors (`models/memory.py`), never from the
memory that is free at the moment: the same options give the same bits.

Shapes: B batch, H×W the LR image, h×w the output.
"""
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from numbers import Integral, Real
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from common import coords
from common.allocator import release_unused, resident_bytes, return_large_blocks
from common.coords import Region, has_float64, upload
from models.latents import LatentCache, LazyLatents
from models.memory import PeakMeter, peak_bytes
from models.mirror import mirror
from models.requests import DTYPES, kind_of
from utils import RunError, UserError, shortened

if TYPE_CHECKING:
    from models.contract import SRModel

# the default memory in bytes, and the limit up to which it grows where regions would be narrower than their margins
CPU_MEMORY = 3 * 2 ** 29, 3 * 2 ** 31
GPU_MEMORY = 0.5, 0.75  # of the GPU's memory, free or not
ENCODING_SHARE = 0.6    # of the memory; the queries take the rest
SMALLEST_SIDE = 16      # of a region, in LR pixels
SAMPLE_SIDES = 16, 64   # of images on which an encoding is measured: the larger tells more exactly and takes longer
SAMPLE_QUERIES = 256    # on which queries are measured
AMPLE = 2 ** 15         # bytes per LR pixel: with as many in the budget, an image is encoded whole, without measuring
CPU_CHUNK = 2 ** 25     # bytes that the queries of one chunk hold on a CPU: more would leave its caches
CPU_BAND = 2 ** 25      # bytes of a band of the output on a CPU: more would save nothing
SMALL_MEMORY = 2 ** 29  # bytes: with less, no freed memory is kept
KEPT_SHARE = 0.75       # of the memory: more than this is given back to the system, as far as it is not in use
BAND_COPIES = 4         # of a band of the output, held while it is made, denormalised and written
MAX_PIXELS = 2 ** 33    # of an output; in float32 they take 96 GiB
MAX_BYTES = 2 ** 60     # of memory that may be asked for
LARGEST = 1e30          # of any number
OUTSIDE = 0.5           # how far floating-point values may lie outside [0, 1]: resampling overshoots, other ranges are wrong


class EncodedImage(NamedTuple):
    """An image of B, H, W whose regions are encoded once, for `render_window`. `latent(region)` is the model's latent.

    Where the model mirrors images, the regions are those of the larger image.
    """
    regions: list[Region]
    latent: Callable[[Region], Any]
    batch: int
    height: int
    width: int


def upscale_image(model: 'SRModel', image: Any, size: tuple[int, int], memory: int | None = None, halo: int | None = None,
                  progress: Callable[[float], None] | None = None) -> Tensor:
    """An image at another size: (B, 3, h, w), RGB in [0, 1], clamped, of the weights' type. The model does not change.

    Args:
        progress: called with the fraction of the output that is done, above 0 to 1.
        others: those of `upscale_parts`.
    Raises: what `upscale_parts` raises.
    """
    out, done = None, 0

    def write(rows: slice, columns: slice, rgb: Tensor) -> None:
        nonlocal out, done
        out = rgb.new_empty(len(rgb), 3, *size) if out is None else out
        out[:, :, rows, columns] = rgb
        done += rgb.shape[2] * rgb.shape[3]
        if progress:
            progress(done / (size[0] * size[1]))

    upscale_parts(model, image, size, write, memory, halo)
    assert out is not None  # every image has pixels
    return out


def upscale_parts(model: 'SRModel', image: Any, size: tuple[int, int], write: Callable[[slice, slice, Tensor], None],
                  memory: int | None = None, halo: int | None = None) -> None:
    """An image at another size, part by part: for results that shall not be held as floating-point numbers.

    Args:
        image: RGB; see `lr_batch`.
        size: (h, w), each at least the LR side.
        write: called once for each part of the output with its rows, its columns and its RGB (B, 3, h', w') in [0, 1],
            clamped, of the weights' type.
        memory: bytes that may be used beside the input, the weights and what is written; default: 1.5 GiB on CPUs, half of
            a GPU's memory there. An image that does not fit is processed in regions, with the same result to rounding.
        halo: LR pixels around a region that the encoder reads; None: all that its features depend on. Fewer are faster and
            not exact. No effect where the image is processed as a whole.
    Raises: UserError for another input, a size that the model cannot make, or too little memory.
    """
    with _inference(model):
        lr, rows, columns, cell = _request(model, image, size)
        regions, memory = plan_regions(model, lr, size, memory, halo)
        if memory < SMALL_MEMORY:
            return_large_blocks()
        limit = resident_bytes() + int(KEPT_SHARE * memory) if len(regions) > 1 else sys.maxsize
        for region in regions:
            latent = model.encode(lr, region, halo)
            for part in _decode_region(model, latent, region, rows, columns, cell, memory):
                if len(regions) > 1:
                    release_unused(limit)
                write(*part)
            del latent, part  # before the next region is encoded


def encode_image(model: 'SRModel', image: Any, side: int | None = None, cache: LatentCache | None = None) -> EncodedImage:
    """Encodes an image once, for any number of calls of `render_window`.

    Args:
        image: RGB; see `lr_batch`.
        side: None encodes the image as a whole, now. Otherwise regions of at most side × side LR pixels are encoded, each
            when a window first needs it. A model that always encodes whole images has one region.
        cache: keeps the latents of regions; default: all of them.
    """
    with _inference(model):
        lr = model.normalise_lr(lr_batch(model, image))
        height, width = lr.shape[2:]
        mirrored = getattr(getattr(model, 'encoder', None), 'mirrored', 1)
        if mirrored > 1:
            lr = mirror(lr, mirrored, 1)
        whole = Region.whole(*lr.shape[2:])
        if side is None:
            return EncodedImage([whole], {whole: model.encode(lr)}.__getitem__, len(lr), height, width)
    regions = [whole] if model.reach is None else list(whole.split(side, side))

    def encode(region: Region) -> Any:
        with _inference(model):
            return model.encode(lr, region)
    latents = LazyLatents(encode=encode, cache=cache or LatentCache(memory=sys.maxsize))
    return EncodedImage(regions, latents, len(lr), height, width)


def render_window(model: 'SRModel', encoded: EncodedImage, window: tuple[float, float, float, float],
                  size: tuple[int, int], memory: int | None = None) -> Tensor:
    """A window of an encoded image at any size: (B, 3, h, w), RGB in [0, 1], clamped.

    A window that is a part of the grid of `upscale_image` gives the same pixels.

    Args:
        window: (top, left, bottom, right) in LR pixels, real numbers; the whole image is (0, 0, H, W).
        size: (h, w).
        memory: bytes that may be used beside the latent and the result.
    Raises: UserError for a window that is not inside the image, or that the model cannot render alone or at this factor.
    """
    _check_window(model, encoded, window, size)
    top, left, bottom, right = window
    image_height, image_width = encoded.regions[0][4:]
    with _inference(model):
        rows = 2 * (top + (bottom - top) * (coords.pixel_centres(size[0]) + 1) / 2) / image_height - 1
        columns = 2 * (left + (right - left) * (coords.pixel_centres(size[1]) + 1) / 2) / image_width - 1
        cell = coords.make_cell(*size) * rows.new_tensor([(bottom - top) / image_height, (right - left) / image_width])
        edges = [int(edge) for line, n, each in ((rows, image_height, cell[0]), (columns, image_width, cell[1]))
                 for edge in coords.nearest_index(line[[0, -1]], n, each)]
        visible = Region(edges[0], edges[1] + 1, edges[2], edges[3] + 1, image_height, image_width)
        cell, out = cell.expand(encoded.batch, 2), model.inp_sub.new_empty(encoded.batch, 3, *size)
        memory = default_memory(out.device)[0] if memory is None else memory
        for region in encoded.regions:
            if part := region.overlap(visible):
                for y, x, rgb in _decode_region(model, encoded.latent(region), part, rows, columns, cell, memory):
                    out[:, :, y, x] = rgb
    return out


def halo_error(model: 'SRModel', image: Any, size: tuple[int, int], halo: int, memory: int | None = None) -> float | None:
    """The largest error, of RGB in [0, 1], that `halo` causes in the middle region of an image.

    Args: those of `upscale_image`.
    Returns: 0 where the image is not processed in regions; None where not even one exact region fits into the memory.
    """
    with _inference(model):
        lr, rows, columns, cell = _request(model, image, size)
        try:
            regions, memory = plan_regions(model, lr, size, memory, None)
        except UserError:
            return None
        if len(regions) == 1:
            return 0.0
        middle = regions[len(regions) // 2]
        exact, quick = (_decode_region(model, model.encode(lr, middle, margin), middle, rows, columns, cell, memory)
                        for margin in (None, halo))
        return max((a - b).abs().max().item() for (*_, a), (*_, b) in zip(exact, quick))


# regions and bands

def plan_regions(model: 'SRModel', lr: Tensor, size: tuple[int, int], memory: int | None,
                 halo: int | None) -> tuple[list[Region], int]:
    """The regions to process one by one: the whole image if its encoding fits into the memory, else parts that fit.

    Args:
        lr: (B, 3, H, W), for its shape, type and device.
        size, memory, halo: those of `upscale_parts`.
    Returns: the regions, and the bytes of the memory that are left for them beside what is in use throughout.
    Raises: UserError that names a sufficient amount of memory, when not even the smallest region fits.
    """
    height, width = lr.shape[2:]
    at_once = BAND_COPIES * math.prod(size) if model.whole_grid and model.reach is None else 0
    taken = len(lr) * 3 * (height * width + at_once) * lr.element_size()             # the LR image, and the whole grid
    least, most = default_memory(lr.device) if memory is None else (memory, memory)
    memory = least
    if len(lr) * height * width * AMPLE <= (memory - taken) * ENCODING_SHARE:
        return [Region.whole(height, width)], memory - taken
    smallest = _smallest_side(model, lr)
    for sample in SAMPLE_SIDES:
        stages = encoding_stages(model, lr, halo, sample)
        wanted = max(smallest, min(max(margin for margin, _ in stages), max(height, width)))
        memory = least
        side, uncut = _region_side(lr, memory - taken, stages)
        while side < wanted and memory < most:
            memory = min(2 * memory, most)
            side, uncut = _region_side(lr, memory - taken, stages)
        if side >= max(height, width) or min(side, height, width) < SAMPLE_SIDES[-1]:
            break  # it fits, or the larger sample is larger than a region
    if side < smallest:
        needed, halo = _least_memory(model, lr, stages), _halo_that_fits(model, lr, memory - taken, stages)
        raise UserError(f'upscale: {memory >> 20} MiB of memory are too few for this model and this image; '
                        f'allow at least {math.ceil((needed + taken) / 2 ** 20)} MiB'
                        + ('' if halo is None else f', or a halo of at most {halo} pixels, which is not exact'))
    sides = (length if length <= uncut else side for length in (height, width))
    return list(Region.whole(height, width).split(*sides)), memory - taken


def _smallest_side(model: 'SRModel', lr: Tensor) -> int:
    """The shortest side that regions may have; a model that needs the whole image has one region.

    An even cut may halve a side. Half of it is more than an image is continued by, so every region has a part of the image.
    """
    continued = getattr(getattr(model, 'encoder', None), 'mirrored', 1)              # by so many pixels at most
    return max(lr.shape[2:]) if model.reach is None else min(max(SMALLEST_SIDE, 2 * continued + 1), *lr.shape[2:])


def _least_memory(model: 'SRModel', lr: Tensor, stages: list[tuple[int, int]]) -> float:
    """Bytes with which the smallest regions can be encoded."""
    height, width = lr.shape[2:]
    outer = [(2 * margin + max(SMALLEST_SIDE, _smallest_side(model, lr)), size) for margin, size in stages]
    return max(min(height, side) * min(width, side) * size for side, size in outer) / ENCODING_SHARE


def _halo_that_fits(model: 'SRModel', lr: Tensor, memory: int, stages: list[tuple[int, int]]) -> int | None:
    """The largest halo with which the smallest regions fit into the memory; None where none does."""
    if model.reach is None:
        return None
    after, sizes = _margins(model, 0)[0], [size for _, size in stages]
    for halo in range(stages[0][0] - after - 1, -1, -1):
        margins = _margins(model, halo)[-len(sizes):]
        if _least_memory(model, lr, list(zip(margins, sizes))) <= memory:
            return halo
    return None


def default_memory(device: torch.device) -> tuple[int, int]:
    """The default memory, and the limit up to which it may grow, in bytes."""
    if device.type != 'cuda':
        return CPU_MEMORY
    total = torch.cuda.get_device_properties(device).total_memory
    return int(GPU_MEMORY[0] * total), int(GPU_MEMORY[1] * total)


def encoding_stages(model: 'SRModel', lr: Tensor, halo: int | None, side: int) -> list[tuple[int, int]]:
    """(margin in LR pixels, measured bytes per LR pixel of the batch) of the encoder, and of the layers after it.

    Measured on side × side LR pixels. Larger images hold fewer bytes per pixel: spectra of kernels do not grow with them.
    """
    margins, stages = _margins(model, halo), []
    encoder = getattr(model, 'encoder', None)
    with PeakMeter() as meter:
        def encoder_done(*_: Any) -> None:
            stages.append((margins[0], meter.peak))
            meter.peak = meter.held
        hook = encoder.register_forward_hook(encoder_done) if encoder is not None else None
        try:
            latent = model.encode(lr.new_zeros(len(lr), 3, side, side))
        finally:
            if hook:
                hook.remove()
    del latent
    stages.append((margins[1], meter.peak))
    return [(margin, max(1, peak // side ** 2)) for margin, peak in stages]


def _margins(model: 'SRModel', halo: int | None) -> tuple[int, int]:
    """LR pixels around a region that are read: by the whole encoding, and by the layers after the encoder alone."""
    if model.reach is None:  # there is nothing around the whole image
        return 0, 0
    encoder = getattr(model, 'encoder', None)
    seen = getattr(encoder, 'reach', 0) or 0
    after, rounding = model.reach - seen, getattr(encoder, 'multiple', 1) - 1
    return after + (seen if halo is None else min(halo, seen)) + rounding, after


def _region_side(lr: Tensor, memory: int, stages: list[tuple[int, int]]) -> tuple[int, int]:
    """The longest side of regions that fit, and the longest side of an image that need not be cut."""
    height, width = lr.shape[2:]
    bytes_left = int(max(memory, 0) * ENCODING_SHARE)
    fitting = [(bytes_left // size, margin) for margin, size in stages]              # LR pixels, margin
    sides = [max(math.isqrt(pixels), pixels // min(height, width)) - 2 * margin  # no margin across an uncut side
             for pixels, margin in fitting if pixels < height * width]
    return min(sides, default=max(height, width)), min(math.isqrt(pixels) for pixels, _ in fitting)


def _decode_region(model: 'SRModel', latent: Any, region: Region, rows: Tensor, columns: Tensor, cell: Tensor,
                   memory: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """The output pixels whose nearest LR pixel lies in the region, band by band.

    Yields: the rows of a band, its columns, and its RGB (B, 3, h', w') in [0, 1].
    Raises: RunError after the last band where one was not finite: a GPU is not waited for between them.
    """
    memory = int(memory * (1 - ENCODING_SHARE)) // 2  # half for the queries, half for a band of RGB
    nearest_row = coords.nearest_index(rows, region.image_height, cell[0, 0])
    x = nearest_in(coords.nearest_index(columns, region.image_width, cell[0, 1]), region.left, region.right)
    start, stop = region.top, region.bottom
    per_line = 4 * 3 * BAND_COPIES * len(cell) * (x.stop - x.start) * -(-len(rows) // (stop - start))  # bytes, at most
    on_cpu = model.inp_sub.device.type == 'cpu'
    largest = min(memory, CPU_BAND) if on_cpu and not model.whole_grid else memory
    step = max(1, largest // per_line)
    if model.whole_grid and model.reach is None:
        step = stop - start
    extremes: list[Tensor] = []
    for top in range(start, stop, step):
        y = nearest_in(nearest_row, top, min(top + step, stop))
        if y.stop > y.start and x.stop > x.start:
            rgb = model.query_grid(latent, rows[y], columns[x], cell, memory)        # (B, h', w', 3)
            rgb = model.denormalise_rgb(rgb)
            extremes += rgb.aminmax()
            yield y, x, rearrange(rgb.clamp_(0, 1).to(model.inp_sub), 'b h w c -> b c h w')
    if extremes and not torch.stack(extremes).isfinite().all():
        raise RunError('upscale: the output is not finite; the weights are damaged or do not suit this precision')


def nearest_in(nearest: Tensor, start: int, stop: int) -> slice:
    """The slice of the ascending LR indices `nearest`, one for each output row or column, that lie in [start, stop)."""
    first, last = torch.searchsorted(nearest, torch.tensor([start, stop])).tolist()
    return slice(first, last)


# queries in chunks

def query_in_chunks(model: 'SRModel', latent: Any, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
    """`SRModel.query_grid` by `query`: in chunks that fit into the memory and, on CPUs, into the caches."""
    grid, cell = grid_queries(rows, columns, cell, model.inp_sub)
    on_cpu = model.inp_sub.device.type == 'cpu'
    threads = torch.get_num_threads() if on_cpu else 1
    memory = min(memory // threads, CPU_CHUNK) if on_cpu else memory

    def ask(coord: Tensor) -> Tensor:
        return model.query(latent, coord, cell)

    count = -(-grid.shape[1] // queries_at_once(ask, grid, memory))
    chunks = grid.split(-(-grid.shape[1] // (count + -count % threads)), 1)          # equally many for each thread
    rgb = torch.cat(for_each(ask, chunks, in_threads=on_cpu), 1)
    return rgb.unflatten(1, (-1, len(columns)))                                      # (B, h, w, 3)


def for_each(function: Callable[[Any], Any], arguments: Sequence[Any], in_threads: bool) -> list[Any]:
    """What the function returns for each of the arguments.

    In threads each call computes on one core, which wastes less than dividing its small operators among the cores. Inference
    mode and autocast are settings of a thread, which the threads take over. So is the recording of gradients: with it, the
    calls follow one another in this thread.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    autocast, dtype = torch.is_autocast_enabled('cpu'), torch.get_autocast_dtype('cpu')
    if not in_threads or threads == 1 or torch.is_grad_enabled():
        return list(map(function, arguments))

    def alone(argument: Any) -> Any:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast('cpu', dtype, enabled=autocast):
            return function(argument)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(alone, arguments))
    finally:
        torch.set_num_threads(threads)


def grid_queries(rows: Tensor, columns: Tensor, cell: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The crossings of rows (h,) and columns (w,), (B, h·w, 2), and the cell (B, 2), as `SRModel.query` takes them.

    Args:
        like: a tensor of the model.
    """
    if has_float64(like.device):
        rows, columns, cell = (upload(x, like) for x in (rows, columns, cell))
    return torch.cartesian_prod(rows, columns).view(-1, 2).expand(len(cell), -1, 2), cell


def queries_at_once(ask: Callable[[Tensor], Any], coord: Tensor, memory: int) -> int:
    """How many of the queries (B, Q, 2) fit into `memory` bytes, by measuring what `ask` holds for a few of them."""
    sample = coord[:, :SAMPLE_QUERIES]
    return max(1, memory * sample.shape[1] // max(1, peak_bytes(ask, sample)))


# inputs and their checks

@contextmanager
def _inference(model: 'SRModel') -> Iterator[None]:
    """Eval mode without gradients, in the model's precision; afterwards the model is as before, batch-norm statistics
    included."""
    training = list(filter(attrgetter('training'), model.modules()))
    for module in training:
        module.training = False
    try:
        half = torch.autocast(model.inp_sub.device.type, model.precision) if model.precision else nullcontext()
        with torch.no_grad(), half:  # without a precision, the caller's autocast stays
            yield
    finally:
        for module in training:
            module.training = True


def lr_batch(model: 'SRModel', image: Any) -> Tensor:
    """An image or a batch as input of the model: (B, 3, H, W) in [0, 1], of the weights' type, on their device.

    Args:
        image: RGB as a tensor (B, 3, H, W), a NumPy array (H, W, 3) or (B, H, W, 3), or a Pillow image of 8 bits. uint8
            values go from 0 to 255, uint16 (NumPy) to 65535, floating-point values from 0 to 1.
    Raises: UserError for anything else.
    """
    if isinstance(image, Image.Image):
        if image.mode not in ('1', 'L', 'P', 'RGB'):
            raise UserError(f"upscale: expected a Pillow image of mode RGB, L, P or 1, got '{image.mode}'; convert it first")
        image = np.array(image.convert('RGB'))
    if isinstance(image, np.ndarray):
        full = {'uint8': 255, 'uint16': 65535}.get(image.dtype.name, 1)
        if (image.dtype.kind != 'f' or image.dtype.itemsize > 8) and full == 1:
            raise UserError(f'upscale: expected an array of uint8, uint16 or floating-point numbers, got {image.dtype}')
        image = torch.from_numpy(image / np.float64(full) if full > 255 else np.ascontiguousarray(
            image, image.dtype.newbyteorder('=')))
        image = image.movedim(-1, -3) if image.ndim >= 3 else image                  # (…, H, W, 3) → (…, 3, H, W)
        image = image.unsqueeze(0) if image.ndim == 3 else image
    if not isinstance(image, Tensor):
        raise UserError(f'upscale: expected a tensor, a NumPy array or a Pillow image, got {type(image).__name__}')
    if image.is_nested or image.layout != torch.strided or image.device.type == 'meta' or (
            image.dtype not in (torch.uint8, *DTYPES)):
        raise UserError(f'upscale: expected a dense tensor of uint8 or floating-point numbers, got {kind_of(image)}')
    lr = image
    if lr.ndim != 4 or lr.shape[1] != 3 or 0 in lr.shape:
        raise UserError(f'upscale: expected images of shape (B, 3, H, W), got {tuple(image.shape)}')
    if lr.dtype == torch.uint8:
        return lr.to(model.inp_sub).div_(255)
    low, high = lr.aminmax()
    if not -OUTSIDE <= low <= high <= 1 + OUTSIDE:
        raise UserError(f'upscale: expected RGB in [0, 1], got values from {float(low):g} to {float(high):g}; '
                        'divide by 255, or pass 8-bit images as uint8')
    return lr.to(model.inp_sub)


def _request(model: 'SRModel', image: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is asked of the model, in its units.

    Returns: LR (B, 3, H, W), normalised; the coordinates of the output's rows (h,) and columns (w,) and the cell (B, 2),
        float64, in coordinates of LR, on the host: it decides where bands and blocks begin.
    Raises: UserError unless this model can upscale the image to `size`.
    """
    lr = model.normalise_lr(lr_batch(model, image))
    height, width = size
    if height < lr.shape[2] or width < lr.shape[3]:
        raise UserError(f'upscale: {height}x{width} is smaller than the input, {lr.shape[2]}x{lr.shape[3]}; '
                        'a scale must be at least 1')
    if model.fixed_scale and (height, width) != tuple(model.fixed_scale * side for side in lr.shape[2:]):
        raise UserError(f'upscale: this model upscales by exactly {model.fixed_scale}; {lr.shape[2]}x{lr.shape[3]} '
                        f'to {height}x{width} needs an arbitrary-scale model')
    rows, columns = coords.pixel_centres(height), coords.pixel_centres(width)
    cell = coords.make_cell(height, width).expand(len(lr), 2)
    mirrored = getattr(getattr(model, 'encoder', None), 'mirrored', 1)
    if mirrored > 1:
        larger = mirror(lr, mirrored, 1)
        share = [side / longer for side, longer in zip(lr.shape[2:], larger.shape[2:])]
        rows, columns, cell = (rows + 1) * share[0] - 1, (columns + 1) * share[1] - 1, cell * cell.new_tensor(share)
        lr = larger
    return lr, rows, columns, cell


def _check_window(model: 'SRModel', encoded: EncodedImage, window: tuple[float, float, float, float],
                  size: tuple[int, int]) -> None:
    """Raises UserError unless this model can render the window at this size."""
    height, width = size
    top, left, bottom, right = window
    if not (0 <= top < bottom <= encoded.height and 0 <= left < right <= encoded.width):
        raise UserError(f'render: expected a window (top, left, bottom, right) inside (0, 0, {encoded.height}, '
                        f'{encoded.width}), got {tuple(window)}')
    if not model.has_windows and tuple(window) != (0, 0, encoded.height, encoded.width):
        raise UserError('render: the output pixels of this model depend on each other: it renders the whole image only')
    factors = height / (bottom - top), width / (right - left)
    if model.fixed_scale and any(abs(factor - model.fixed_scale) > 1e-6 for factor in factors):
        raise UserError(f'render: this model upscales by exactly {model.fixed_scale}, got {factors[0]:g} by {factors[1]:g}')


def check_arguments(what: str, size: Any, memory: Any = None, halo: Any = None, window: Any = None) -> None:
    """Raises UserError, which begins with `what`, for arguments of `upscale` or `render` that are wrong for any model.

    Args:
        size: expected (h, w), whole numbers from 1, at most MAX_PIXELS together.
        memory: expected a number of bytes, or None.
        halo: expected a whole number from 0, or None.
        window: expected four real numbers, or None.
    """
    wanted: tuple[tuple[Any, Any, int, Any, float, float, str], ...] = (
        (size, size, 2, Integral, 1, LARGEST, 'a size (height, width) of two whole numbers from 1'),
        (memory, [memory], 1, Real, 0, MAX_BYTES, 'as memory a number of bytes, such as 2 ** 30'),
        (halo, [halo], 1, Integral, 0, LARGEST, 'as halo a whole number of pixels from 0'),
        (window, window, 4, Real, -LARGEST, LARGEST, 'a window (top, left, bottom, right) of four numbers'))
    for given, values, count, kind, lowest, highest, expected in wanted:
        right = isinstance(values, (tuple, list)) and len(values) == count
        for value in values if right else ():
            right = right and isinstance(value, kind) and not isinstance(value, bool) and lowest <= value <= highest
        if not right and (given is not None or given is size):
            raise UserError(f"{what}: expected {expected}, got {' '.join(shortened(given).split())}")
    if math.prod(map(int, size)) > MAX_PIXELS:
        raise UserError(f'{what}: expected a size (height, width) of at most {MAX_PIXELS:,} pixels, got '
                        f'{shortened(size[0])}x{shortened(size[1])}')
