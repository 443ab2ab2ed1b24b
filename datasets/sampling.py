"""Which images, scales and random numbers make up the training batches.

Everything random about a sample follows from (seed, epoch, batch, position in the batch) alone. So a run does not depend on
the number of workers, and resuming needs only the number of batches done.
"""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

from common.arrays import to_tensor
from common.coords import make_cell, pixel_centres
from utils import UserError

MAX_SAMPLES = 2 ** 27  # of an epoch, and images of a data set: their order is kept in memory, 8 bytes each


@dataclass(frozen=True)
class Draw:
    """What a wrapper needs to make one sample: the image's index, the scale, and a seed for everything else.

    `lowered`: the drawn scale was lowered, because its crop did not fit the images.
    """
    index: int
    scale: float
    seed: tuple[int, ...]
    lowered: bool = False


class DrawSampler(Sampler):
    """Batches of draws for a DataLoader's `batch_sampler`.

    Images come in random permutations, one after the other, so that all are used equally often. With several processes, a
    process gets every ranks-th sample of the same batches. If a small batch leaves none for it, it gets the first sample of
    the batch, which only provides the shapes (`share` is then 0).

    Args:
        dataset: a training wrapper: `len` and `draw_scales(indices, rng)`.
        batch_size: samples in a batch, summed over the processes.
        epoch_batches: batches in an epoch; None for one pass over the data set (the last batch may be smaller).
        seed: of the run.
        rank, ranks: the number of this process, and how many there are.
    """

    def __init__(self, dataset, batch_size: int, epoch_batches: int | None, seed: int, rank: int = 0, ranks: int = 1):
        if len(dataset) == 0:
            raise UserError('the training data set is empty')
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.epoch_batches = epoch_batches or -(-len(dataset) // batch_size)
        self.total = len(dataset) if epoch_batches is None else epoch_batches * batch_size
        if max(self.total, len(dataset)) > MAX_SAMPLES:
            raise UserError(f'an epoch would have {self.total:,} samples of {len(dataset):,} images; expected at most '
                            f'{MAX_SAMPLES:,}: lower epoch_batches, batch_size or repeat')
        self.epoch, self.first_batch = 0, 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Makes the next pass start at batch `batch` of epoch `epoch`, both counted from 0."""
        self.epoch, self.first_batch = epoch, batch

    def batch_samples(self, batch: int) -> int:
        """Samples in batch `batch` of an epoch, summed over the processes."""
        return min(self.batch_size, self.total - batch * self.batch_size)

    def share(self, batch: int) -> int:
        """How many samples of batch `batch` this process computes."""
        return len(range(self.rank, self.batch_samples(batch), self.ranks))

    def __len__(self) -> int:
        return self.epoch_batches - self.first_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        # NumPy pads seeds with zeros, so (s, e), (s, e, 0) and (s, e, 0, 0) are one stream: batches, positions count from 1
        order = np.random.default_rng((self.seed, self.epoch))
        passes = -(-self.total // len(self.dataset))
        indices = np.concatenate([order.permutation(len(self.dataset)) for _ in range(passes)])[:self.total]
        for batch in range(self.first_batch, self.epoch_batches):
            picked = indices[batch * self.batch_size:(batch + 1) * self.batch_size].tolist()
            seed = (self.seed, self.epoch, batch + 1)
            scales = self.dataset.draw_scales(picked, np.random.default_rng(seed))
            draws = [Draw(index, scale, (*seed, position), lowered)
                     for position, (index, (scale, lowered)) in enumerate(zip(picked, scales), 1)]
            yield draws[self.rank::self.ranks] or draws[:1]


def random_dihedral(images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """One of the eight flips and 90° rotations, the same for all `images` (H, W, …)."""
    flip_rows, flip_columns, transpose = rng.random(3) < 0.5
    if flip_rows:
        images = [image[::-1] for image in images]
    if flip_columns:
        images = [image[:, ::-1] for image in images]
    return [image.swapaxes(0, 1) for image in images] if transpose else images


def random_crop(height: int, width: int, side: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random side×side crop."""
    y, x = (int(rng.integers(extent - side + 1)) for extent in (height, width))
    return slice(y, y + side), slice(x, x + side)


def pad_to(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) extended by mirroring at the bottom and right until no side is shorter than `side`."""
    missing = [max(0, side - extent) for extent in image.shape[:2]]
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode='symmetric') if any(missing) else image


def make_sample(lr: np.ndarray, hr: np.ndarray, sample_q: int | None, rng: np.random.Generator, draw: Draw) -> dict:
    """Crops → the tensors of one training sample.

    Args:
        lr, hr: (h, w, 3) and (H, W, 3) uint8 of the same region.
        sample_q: HR pixels to query, drawn without replacement; None for all of them.
    Returns: inp (3, h, w) and gt (Q, 3) in [0, 1], coord (Q, 2) and cell (2,) float64, scale, lowered.
    """
    height, width = hr.shape[:2]
    pixels = np.arange(height * width) if sample_q is None else rng.choice(height * width, sample_q, replace=False)
    rows, columns = np.divmod(pixels, width)  # NumPy indexes arrays of this size several times faster than torch
    coord = np.stack([pixel_centres(height).numpy()[rows], pixel_centres(width).numpy()[columns]], -1)
    return {
        'inp': to_tensor(lr),
        'coord': torch.from_numpy(coord),
        'cell': make_cell(height, width),
        'gt': torch.from_numpy(hr[rows, columns]).float() / 255,
        'scale': draw.scale,
        'lowered': draw.lowered,
    }
